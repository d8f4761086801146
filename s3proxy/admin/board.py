"""What is known about the health of an instance: components, the roll-up, and the three questions of probes.

* live: should the supervisor restart the process? Depends on nothing outside it: neither on S3 nor on a shared
  directory, whose outage would restart a whole fleet.
* ready: should a balancer send traffic?
* status: what is wrong?

Components are functions that answer at once, from memory: what takes time is measured by its owner on a timer.
"""

import os
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from enum import Enum
from typing import Final

import attrs
from twisted.logger import Logger

from s3proxy.telemetry.instruments import Reading

__all__ = ["ComponentStatus", "HealthBoard", "HealthComponent", "HealthReport", "HealthState"]


class HealthState(str, Enum):
    """The words of health, from good to bad; ``disabled`` is switched off on purpose and never counts."""

    DISABLED = "disabled"
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


_WORSE: Final = (HealthState.DISABLED, HealthState.HEALTHY, HealthState.DEGRADED, HealthState.UNHEALTHY)
_VALUES: Final = {HealthState.HEALTHY: 1.0, HealthState.DEGRADED: 0.5, HealthState.UNHEALTHY: 0.0}


@attrs.frozen
class ComponentStatus:
    """What one component says of itself.

    :ivar message: one sentence for the operator: what is wrong, and what to do
    :ivar data: further figures, for programs
    :ivar checked_at: Unix time at which it was looked at; None: just now
    :ivar seconds: that this took
    :ivar expected: it can't be otherwise for the moment, and nobody need be warned
    """

    name: str
    state: HealthState = attrs.field(converter=HealthState)
    message: str = ""
    data: dict[str, object] = attrs.field(factory=dict, kw_only=True)
    checked_at: float | None = attrs.field(default=None, kw_only=True)
    seconds: float = attrs.field(default=0.0, kw_only=True)
    expected: bool = attrs.field(default=False, kw_only=True)


HealthComponent = Callable[[], ComponentStatus]


@attrs.frozen(kw_only=True)
class HealthReport:
    """All components at one instant.

    :ivar checked_at: Unix time
    :ivar not_ready: why no traffic is wanted; empty when it is
    :ivar not_live: why the process should be restarted; empty when it should not
    """

    state: HealthState
    components: tuple[ComponentStatus, ...]
    since: dict[str, float]
    checked_at: float
    not_ready: tuple[str, ...]
    not_live: tuple[str, ...]

    @property
    def ready(self) -> bool:
        """Whether traffic is welcome."""
        return not self.not_ready

    @property
    def live(self) -> bool:
        """Whether the process can do its work, given that the world around it does."""
        return not self.not_live


@attrs.define
class _Known:
    state: HealthState
    since: float
    expected: bool = False


class HealthBoard:
    """Collects what components say. Starts as "starting": not ready until :meth:`started`.

    :param seconds: tells Unix time
    :param facts: version, instance_id, hostname, mode and whatever else identifies the instance; part of every document
    :param max_age: seconds for which a report is given again instead of asking every component
    """

    _log = Logger()

    def __init__(self, seconds: Callable[[], float], facts: dict[str, str] | None = None, max_age: float = 1.0) -> None:
        self._seconds = seconds
        self._facts = dict(facts or {})
        self._max_age = max_age
        self._began = seconds()
        self._components: dict[str, HealthComponent] = {}
        self._gates: set[str] = set()
        self._upstreams: Callable[[], list[dict[str, object]]] = list
        self._liveness: list[Callable[[], str | None]] = []
        self._known: dict[str, _Known] = {}
        self._started = False
        self._draining = False
        self._report: HealthReport | None = None

    @property
    def draining(self) -> bool:
        """Whether the instance is on its way out."""
        return self._draining

    def add(self, name: str, component: HealthComponent, *, gates: bool = True) -> None:
        """Ask this component, too. One that raises counts as degraded.

        :param gates: whether no traffic is wanted while it is unhealthy
        :raises ValueError: when there is a component of that name
        """
        if name in self._components:
            raise ValueError(f"there is a health component {name} already")
        self._components[name] = component
        if gates:
            self._gates.add(name)
        self._report = None

    def show_upstreams(self, documents: "Callable[[], list[dict[str, object]]]") -> None:
        """Add what this says of hosts and addresses to every document."""
        self._upstreams = documents

    def add_liveness(self, check: Callable[[], str | None]) -> None:
        """A check of the process itself; it gives back why it can't go on, or None."""
        self._liveness.append(check)

    def started(self) -> None:
        """Everything is loaded and listens: traffic is welcome."""
        self._started = True
        self._report = None

    def start_draining(self) -> None:
        """No further traffic is wanted; from now on the instance is not ready."""
        self._draining = True
        self._report = None

    def check(self) -> HealthReport:
        """Ask everybody, unless that was done a moment ago."""
        now = self._seconds()
        if self._report is not None and 0 <= now - self._report.checked_at < self._max_age:
            return self._report
        statuses = tuple(self._ask(name, component) for name, component in self._components.items())
        for status in statuses:
            self._note(status, now)
        state = max((status.state for status in statuses), key=_WORSE.index, default=HealthState.HEALTHY)
        if state is HealthState.DISABLED:
            state = HealthState.HEALTHY
        not_ready = [] if self._started else ["The instance is starting."]
        if self._draining:
            not_ready.append("The instance is draining.")
        not_ready += [
            f"{status.name}: {status.message or status.state.value}"
            for status in statuses
            if status.state is HealthState.UNHEALTHY and status.name in self._gates
        ]
        self._report = HealthReport(
            state=state,
            components=statuses,
            since={name: known.since for name, known in self._known.items()},
            checked_at=now,
            not_ready=tuple(not_ready),
            not_live=tuple(reason for check in self._liveness if (reason := check())),
        )
        return self._report

    def document(self) -> dict[str, object]:
        """The report as a value for JSON."""
        report = self.check()
        return {
            "status": report.state.value,
            "ready": report.ready,
            "live": report.live,
            "draining": self._draining,
            "timestamp": _rfc3339(report.checked_at),
            "uptime_seconds": round(max(0.0, report.checked_at - self._began), 3),
            "pid": os.getpid(),
            **self._facts,
            "components": [
                {
                    "name": status.name,
                    "status": status.state.value,
                    "message": status.message,
                    "last_check": _rfc3339(status.checked_at or report.checked_at),
                    "duration_ms": round(1000 * status.seconds, 3),
                    "since": _rfc3339(report.since[status.name]),
                    "data": status.data,
                }
                for status in report.components
            ],
            "upstreams": self._upstreams(),
        }

    def readings(self) -> Iterable[Reading]:
        """For :meth:`s3proxy.telemetry.metrics.Metrics.observe_source`."""
        report = self.check()
        for state in (HealthState.HEALTHY, HealthState.DEGRADED, HealthState.UNHEALTHY):
            yield Reading("s3proxy_health_status", float(report.state is state), (state.value,))
        for status in report.components:
            if status.state in _VALUES:
                yield Reading("s3proxy_health_component_status", _VALUES[status.state], (status.name,))
        yield Reading("s3proxy_ready", float(report.ready))

    def _ask(self, name: str, component: HealthComponent) -> ComponentStatus:
        try:
            return attrs.evolve(component(), name=name)
        except Exception as error:
            self._log.failure("The health component {name} failed", name=name)
            return ComponentStatus(name, HealthState.DEGRADED, f"The check itself failed: {type(error).__name__}.")

    def _note(self, status: ComponentStatus, now: float) -> None:
        known = self._known.get(status.name)
        if known is None:
            known = self._known[status.name] = _Known(status.state, now, status.expected)
            if status.state in (HealthState.HEALTHY, HealthState.DISABLED):
                return
        elif (known.state, known.expected) == (status.state, status.expected):
            return
        elif known.state is not status.state:
            known.state, known.since = status.state, now
        known.expected = status.expected
        is_news = status.state in (HealthState.HEALTHY, HealthState.DISABLED) or status.expected
        level = self._log.info if is_news else self._log.warn
        level("{name} is {state}: {text}", name=status.name, state=status.state.value, text=status.message)


def _rfc3339(at: float) -> str:
    return datetime.fromtimestamp(at, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
