"""What is asked for the health document: each component says how it is at once, from memory.

=============  ==========================  ===================================  =====================================
component      healthy                     degraded                             unhealthy
=============  ==========================  ===================================  =====================================
upstream       all addresses are in use    some are left out, or more than      none is left, or more than half of at
                                           a tenth of the requests failed       least 20 requests failed
dns            name servers answer         they don't, and former addresses     they don't, and there are none
                                           are used; or for some name only
capacity       there is room               nine tenths are used, or a request   more than half were turned away, for
                                           was turned away                      a minute
reactor        timers are less than        less than a second                   a second and more
               100 ms late
logs           lines are written           they can't be, a write does not end, never
                                           or some are lost
=============  ==========================  ===================================  =====================================

Shares are those of the last minute; lateness is that of all but the worst hundredth of the timers.
"""

from collections.abc import Callable
from typing import Any, Final, Protocol

from s3proxy.admin.board import ComponentStatus, HealthState
from s3proxy.telemetry.lag import LagSampler
from s3proxy.telemetry.rates import RecentCounts

__all__ = [
    "CapacityHealth", "DnsHealth", "ILog", "Load", "LogHealth", "Traffic", "UpstreamHealth", "reactor_health",
    "upstream_documents",
]  # fmt: skip

MINUTE: Final = 60.0
STEP: Final = 5.0
"""Seconds between two samples of what is counted."""
ENOUGH: Final = 20
"""Requests that tell more than chance."""
MOST_NAMED: Final = 5
"""Names or addresses in one message."""

_LATE: Final = 0.1
_TOO_LATE: Final = 1.0


class _Minute:
    """Numbers that only grow, and by how much they grew in the last minute."""

    def __init__(self, seconds: Callable[[], float], read: Callable[[], tuple[float, ...]]) -> None:
        self._seconds = seconds
        self._counts = RecentCounts(seconds(), lambda: {"": read()}, MINUTE)
        self._next = seconds() + STEP

    def look(self) -> tuple[float, list[float]]:
        """The seconds that are known of, and the growth in them. To be called at least every few seconds."""
        now = self._seconds()
        span, grown = self._counts.recent(now)
        if now >= self._next:
            self._next = now + STEP
            self._counts.roll(now, now)
        return span, grown[""]


def _named(names: "list[str] | tuple[str, ...]") -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


class Traffic(Protocol):
    """:ivar answered: requests that S3 answered
    :ivar failed: requests that it did not, or not to the end
    """

    answered: int
    failed: int


class UpstreamHealth:
    """How S3 answers.

    :param snapshot: see :meth:`s3proxy.upstream.client.Upstream.snapshot`
    """

    def __init__(
        self, snapshot: Callable[[], dict[str, Any]], traffic: Traffic, seconds: Callable[[], float]
    ) -> None:  # fmt: skip
        self._snapshot = snapshot
        self._minute = _Minute(seconds, lambda: (traffic.answered, traffic.failed))

    def __call__(self) -> ComponentStatus:
        """See :data:`~s3proxy.admin.board.HealthComponent`."""
        snapshot = self._snapshot()
        _, (answered, failed) = self._minute.look()
        total = answered + failed
        share = failed / total if total else 0.0
        data = {**snapshot, "requests_1m": int(total), "failed_1m": int(failed)}
        known = {name: host for name, host in snapshot["hosts"].items() if host["addresses"]}
        dead = sorted(name for name, host in known.items() if not set(host["addresses"]) - set(host["excluded"]))
        if dead and len(dead) == len(known):
            text = f"No address of S3 answers ({_named(dead)}); see what lies between this host and S3."
            return ComponentStatus("upstream", HealthState.UNHEALTHY, text, data=data)
        if total >= ENOUGH and share > 0.5:
            text = f"{failed:.0f} of {total:.0f} requests to S3 failed in the last minute."
            return ComponentStatus("upstream", HealthState.UNHEALTHY, text, data=data)
        messages = []
        if dead:
            messages.append(f"No address answers for {_named(dead)}.")
        left_out = [ip for ip in snapshot["excluded"]]
        if left_out:
            messages.append(f"Left out until they answer a probe: {_named(left_out)}.")
        if total >= ENOUGH and share > 0.1:
            messages.append(f"{failed:.0f} of {total:.0f} requests to S3 failed in the last minute.")
        state = HealthState.DEGRADED if messages else HealthState.HEALTHY
        return ComponentStatus("upstream", state, " ".join(messages), data=data)


def upstream_documents(snapshot: dict[str, Any]) -> list[dict[str, Any]]:
    """The hosts of S3 and their addresses, for the health document."""
    known = snapshot.get("recovery", {})
    recovery = {address.rpartition(":")[0].strip("[]"): found for address, found in known.items()}
    documents = []
    for name, host in snapshot["hosts"].items():
        ips = []
        for ip in host["addresses"]:
            entry: dict[str, Any] = {"ip": ip, "state": "excluded" if ip in host["excluded"] else "active"}
            if ip in host["excluded"] and ip in recovery:
                entry["excluded_for_seconds"] = recovery[ip]["seconds"]
                entry["next_probe_seconds"] = recovery[ip]["next_probe_seconds"]
            ips.append(entry)
        documents.append({"endpoint": name, "active": host["active"], "idle": host["idle"], "ips": ips})
    return documents


class DnsHealth:
    """Whether name servers answer.

    :param unanswered: names about which none had an answer lately: with former addresses, and without
    :param counts: names that were looked up so far, and those of them that no server answered about
    :param matters: whether a name is one that the proxy is there for; about others, which any client can make up,
        nobody needs to know anything
    """

    def __init__(
        self,
        unanswered: Callable[[], tuple[tuple[str, ...], tuple[str, ...]]],
        counts: Callable[[], tuple[float, float]],
        seconds: Callable[[], float],
        matters: Callable[[str], bool],
    ) -> None:
        self._unanswered = unanswered
        self._matters = matters
        self._minute = _Minute(seconds, counts)

    def __call__(self) -> ComponentStatus:
        """See :data:`~s3proxy.admin.board.HealthComponent`."""
        old, none = self._unanswered()
        _, (asked, failed) = self._minute.look()
        data: dict[str, object] = {"on_former_addresses": list(old), "without_addresses": list(none)}
        if not old and not none:
            return ComponentStatus("dns", HealthState.HEALTHY, data=data)
        # One name that nobody can resolve says nothing about the name servers, while others are answered about.
        missed = [name for name in none if self._matters(name)]
        if missed and (old or asked <= failed):
            text = f"No name server answers, and nobody knows {_named(missed)}; see connection_pool.dns_servers."
            return ComponentStatus("dns", HealthState.UNHEALTHY, text, data=data)
        messages = []
        if old:
            messages.append(f"No name server answers about {_named(old)}; the former addresses are used.")
        if none:
            messages.append(f"No name server answers about {_named(none)}.")
        return ComponentStatus("dns", HealthState.DEGRADED, " ".join(messages), data=data)


class Load(Protocol):
    """How much is being served. A :class:`~s3proxy.gateway.pipeline.Gateway` is one."""

    in_flight: int
    turned_away: int
    served: int

    @property
    def max_requests(self) -> int:
        """Permits."""


class CapacityHealth:
    """Whether there is room for more requests.

    :param buffers: bytes that bodies in memory take, and may take
    """

    def __init__(
        self, load: Load, buffers: Callable[[], tuple[int, int]], seconds: Callable[[], float]
    ) -> None:  # fmt: skip
        self._load = load
        self._buffers = buffers
        self._minute = _Minute(seconds, lambda: (load.turned_away, load.served))

    def __call__(self) -> ComponentStatus:
        """See :data:`~s3proxy.admin.board.HealthComponent`."""
        load = self._load
        taken, size = self._buffers()
        span, (turned_away, served) = self._minute.look()
        data: dict[str, object] = {
            "requests": load.in_flight,
            "most_requests": load.max_requests,
            "buffer_bytes": taken,
            "most_buffer_bytes": size,
            "turned_away_1m": int(turned_away),
        }
        total = turned_away + served
        refused = f"{turned_away:.0f} of {total:.0f} requests were turned away in the last minute"
        remedy = "raise server.max_concurrent_requests or add instances"
        if span >= MINUTE - STEP and total >= ENOUGH and turned_away > total / 2:
            return ComponentStatus("capacity", HealthState.UNHEALTHY, f"{refused}; {remedy}.", data=data)
        messages = []
        if turned_away:
            messages.append(f"{refused}; {remedy}.")
        if load.in_flight > 0.9 * load.max_requests:
            messages.append(f"{load.in_flight} of {load.max_requests} permits are in use; {remedy}.")
        if size and taken > 0.9 * size:
            messages.append(f"Bodies in memory take {taken} of {size} bytes.")
        state = HealthState.DEGRADED if messages else HealthState.HEALTHY
        return ComponentStatus("capacity", state, " ".join(messages), data=data)


def reactor_health(lag: LagSampler) -> ComponentStatus:
    """How late the event loop is."""
    late = lag.percentile(0.99)
    data: dict[str, object] = {"lag_p99_seconds": round(late, 4), "lag_max_seconds": round(lag.worst(), 4)}
    text = f"Timers are {late:.2f} s late: the process gets too little CPU time, or something blocks it."
    if late >= _TOO_LATE:
        return ComponentStatus("reactor", HealthState.UNHEALTHY, text, data=data)
    if late >= _LATE:
        return ComponentStatus("reactor", HealthState.DEGRADED, text, data=data)
    return ComponentStatus("reactor", HealthState.HEALTHY, data=data)


class ILog(Protocol):
    """A log that is written by a thread."""

    @property
    def failure(self) -> str:
        """Why the newest attempt to write failed; empty when it did not."""


class LogHealth:
    """Whether lines are written.

    :param logs: by name
    :param lost: lines that are gone for ever, so far
    """

    def __init__(
        self, logs: "Callable[[], dict[str, ILog]]", lost: Callable[[], int], seconds: Callable[[], float]
    ) -> None:  # fmt: skip
        self._logs = logs
        self._lost = lost
        self._minute = _Minute(seconds, lambda: (lost(),))

    def __call__(self) -> ComponentStatus:
        """See :data:`~s3proxy.admin.board.HealthComponent`."""
        _, (lost,) = self._minute.look()
        messages = [
            f"The {name} log can't be written: {log.failure}." for name, log in self._logs().items() if log.failure
        ]  # fmt: skip
        if lost:
            messages.append(f"{lost:.0f} line(s) were lost in the last minute.")
        state = HealthState.DEGRADED if messages else HealthState.HEALTHY
        return ComponentStatus("logs", state, " ".join(messages), data={"lines_lost": self._lost()})
