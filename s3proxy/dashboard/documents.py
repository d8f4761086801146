"""The documents of the API, made of what the parts of the proxy know. Everything here answers at once, from memory."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final

import attrs

from s3proxy.admin.board import HealthBoard, HealthState
from s3proxy.dashboard.requests import text_of
from s3proxy.dashboard.samples import GAUGES, OUTCOMES
from s3proxy.dashboard.sources import IBodies, ITraffic
from s3proxy.gateway.interfaces import IClientRequest
from s3proxy.policy.explain import explain
from s3proxy.policy.rules import Rules
from s3proxy.policy.rules_file import FIELDS
from s3proxy.s3.address import ObjectAddress
from s3proxy.s3.signature import redact_target
from s3proxy.telemetry.record import RequestRecord
from s3proxy.telemetry.rulecounts import MOST_RULES
from s3proxy.telemetry.snapshot import Snapshot
from s3proxy.telemetry.traffic import OTHER, Totals

__all__ = ["Known", "attention", "buckets", "in_flight", "prefixes", "rule_for", "rules", "summary", "upstreams"]

MOST_IN_FLIGHT: Final = 200
_DURATIONS: Final = frozenset({"get_ttl", "head_ttl", "put_ttl", "stale_if_error", "hedge_trigger_after"})

# The list price of S3 in many regions, per GET or HEAD, in dollars. What a byte costs depends on where it goes: nothing
# within a region. The page lets people put in their own.
PRICE_PER_GET: Final = 0.0004 / 1000


@attrs.frozen(kw_only=True)
class Known:
    """What the documents are made of; each a function, or something that is only looked at.

    :ivar facts: version, instance, hostname, mode
    :ivar now: Unix time
    :ivar started_at: Unix time
    :ivar running: requests that are being served
    :ivar permits: how many may be
    :ivar upstream: hosts and addresses of S3
    :ivar rules: those in force
    """

    facts: dict[str, str]
    now: Callable[[], float]
    started_at: float
    board: HealthBoard
    traffic: ITraffic
    manager: IBodies
    running: Callable[[], Iterable[tuple[IClientRequest, RequestRecord]]]
    permits: Callable[[], int]
    upstream: Callable[[], dict[str, Any]]
    rules: Callable[[], Rules]
    clock: Callable[[], float]


def summary(
    known: Known, row: dict[str, float], rates: dict[str, float], recent: tuple[float, float]
) -> dict[str, Any]:
    """The whole at one glance. Totals are since the start, and those of /metrics.

    :param row: every column
    :param rates: of some columns, per second, over the last seconds
    :param recent: hit rate and byte hit rate of the last five minutes
    """
    reads, read_bytes = row["reads"], row["read_bytes"]
    saved_requests = row["saved_get"] + row["saved_head"]
    now = known.now()
    return {
        "time": round(now, 3),
        "uptime": round(max(0.0, now - known.started_at), 1),
        "health": known.board.check().state.value,
        "draining": known.board.draining,
        "requests": {source: int(row[f"req_{source}"]) for source in OUTCOMES},
        "requests_total": int(sum(row[f"req_{source}"] for source in OUTCOMES)),
        "reads": int(reads),
        "hits": int(row["hits"]),
        "hit_rate": round(row["hits"] / reads, 6) if reads else None,
        "hit_rate_5m": round(recent[0], 6),
        "byte_hit_rate": round(row["cached_bytes"] / read_bytes, 6) if read_bytes else None,
        "byte_hit_rate_5m": round(recent[1], 6),
        "sent": int(row["sent"]),
        "received": int(row["received"]),
        "from_s3": int(row["from_s3"]),
        "to_s3": int(row["to_s3"]),
        "saved_requests": int(saved_requests),
        "saved_bytes": int(row["saved_bytes"]),
        "saved_dollars_estimate": round(saved_requests * PRICE_PER_GET, 6),
        "status_4xx": int(row["status_4xx"]),
        "status_5xx": int(row["status_5xx"]),
        "aborts": int(row["aborts"]),
        "shed": int(row["shed"]),
        "evictions": int(row["evictions"]),
        "evicted_bytes": int(row["evicted_bytes"]),
        "upstream_errors": int(row["upstream_errors"]),
        "permits": known.permits(),
        **{name: round(row[name], 6) for name in GAUGES},
        "rates": rates,
    }


def attention(known: Known, row: dict[str, float], rates: dict[str, float]) -> list[dict[str, str]]:
    """What somebody should look at, worst first, each with the view that shows more."""
    found: list[dict[str, str]] = []

    def note(what: str, text: str, view: str, level: str = "note") -> None:
        found.append({"level": level, "what": what, "text": text, "view": view})

    for state in (HealthState.UNHEALTHY, HealthState.DEGRADED):
        for status in known.board.check().components:
            if status.state is state:
                note(status.name, status.message, _VIEWS.get(status.name, "logs"), state.value)

    if rates.get("shed", 0.0) > 0:
        text = "Requests are turned away: server.max_concurrent_requests, or the number of descriptors, is used up."
        note("overload", text, "requests")
    if row["lag"] > 0.25:
        note("event loop", f"The event loop was {row['lag']:.2f} s late within the last minute.", "overview")
    limit = row["disk_limit"]
    if limit and rates.get("evicted_bytes", 0.0) * 86400 > limit:
        note("eviction", "At this rate the whole cache is replaced more than once a day: it may be too small.", "cache")
    excluded = known.upstream().get("excluded") or []
    if excluded:
        shown = ", ".join(excluded[:3])
        note("upstream", f"{len(excluded)} address(es) of S3 are left out for a while: {shown}", "upstream")
    return found


_VIEWS: Final = {
    "storage": "cache", "disk_space": "cache", "cache_usage": "cache", "coordination": "instances", "rules": "rules",
    "upstream": "upstream", "dns": "upstream", "logs": "logs",
}  # fmt: skip


def _totals(totals: Totals) -> dict[str, Any]:
    return {**attrs.asdict(totals), "hit_rate": round(totals.hits / totals.reads, 6) if totals.reads else None}


def _name(name: bytes, others: str) -> str:
    return others if name == OTHER else text_of(name)


def buckets(known: Known) -> list[dict[str, Any]]:
    """What was asked of each bucket since the start, the busiest first."""
    found = [
        {"bucket": _name(name, "(others)"), **_totals(totals)}
        for name, totals in known.traffic.buckets().items()
        if totals.requests
    ]
    return sorted(found, key=lambda each: (each["sent"], each["requests"]), reverse=True)


def prefixes(known: Known, bucket: str) -> list[dict[str, Any]]:
    """The same for each part of a bucket; all buckets' parts if none is named."""
    wanted = [bucket.encode("utf-8")] if bucket else [name for name in known.traffic.buckets() if name != OTHER]
    found = [
        {"bucket": text_of(name), "prefix": _name(prefix, "(others)"), **_totals(totals)}
        for name in wanted
        for prefix, totals in known.traffic.prefixes(name).items()
        if totals.requests
    ]
    return sorted(found, key=lambda each: (each["sent"], each["requests"]), reverse=True)


def in_flight(known: Known, limit: int = MOST_IN_FLIGHT) -> dict[str, Any]:
    """Requests that are being served, oldest first, and bodies on their way from S3 into the cache."""
    now = known.clock()
    running = list(known.running())
    requests = []
    for request, record in running[:limit]:
        expected = _expected(record)
        seconds = max(0.0, now - request.received_at)
        requests.append(
            {
                "seconds": round(seconds, 1),
                "client": request.client_address,
                "method": text_of(request.method),
                "operation": record.operation,
                "bucket": text_of(record.bucket),
                "key": text_of(record.key) if record.bucket else text_of(_redacted(request.target)),
                "range": record.served_range,
                "source": record.outcome if request.status is not None else "",
                "status": request.status,
                "sent": request.body_bytes_sent,
                "expected": expected,
                "rate": round(request.body_bytes_sent / seconds) if seconds > 0 else None,
                "upstream": record.upstream_address,
            }
        )
    fills = [
        {
            "bucket": text_of(id.bucket),
            "key": text_of(id.key),
            "start": fill.start,
            "have": fill.have,
            "stop": fill.stop,
            "readers": fill.readers,
        }
        for id, fill in known.manager.bodies_under_way()
    ]
    return {"requests": requests, "more": max(0, len(running) - limit), "fills": fills[:limit]}


def _redacted(target: bytes) -> bytes:
    try:
        return redact_target(target)
    except Exception:
        return target.partition(b"?")[0]


def _expected(record: RequestRecord) -> int | None:
    """How many bytes the client is to get, as far as that is known."""
    if record.served_range:
        first, dash, last = record.served_range.removeprefix("bytes=").partition("-")
        if dash and first.isdigit() and last.isdigit():
            return int(last) - int(first) + 1
    return record.object_size if record.method == b"GET" else None


def upstreams(known: Known) -> dict[str, Any]:
    """Hosts of S3, their addresses, and how these answer."""
    snapshot = known.upstream()
    answers = known.traffic.addresses
    recovery: dict[str, dict[str, float]] = {
        _ip(address): times for address, times in snapshot.get("recovery", {}).items()
    }
    hosts = []
    seen: set[str] = set()
    for name, host in sorted(snapshot["hosts"].items()):
        excluded = set(host["excluded"])
        addresses = []
        for ip in host["addresses"]:
            mine = {address: each for address, each in answers.items() if _ip(address) == ip}
            seen.update(mine)
            row = _address(ip, ip in excluded, list(mine.values()))
            if ip in excluded:
                row.update(recovery.get(ip, {}))
            addresses.append(row)
        hosts.append({"host": name, "idle": host["idle"], "active": host["active"], "addresses": addresses})
    former = [_address(address, False, [each]) for address, each in answers.items() if address not in seen]
    return {
        "hosts": hosts,
        "former": sorted(former, key=lambda each: -each["last"])[:50],
        "counters": {name: value for name, value in snapshot.items() if isinstance(value, (int, float))},
    }


def _ip(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


def _address(name: str, excluded: bool, answers: list[Any]) -> dict[str, Any]:
    requests = sum(each.requests for each in answers)
    return {
        "address": name,
        "state": "excluded" if excluded else "active",
        "requests": requests,
        "errors": sum(each.errors for each in answers),
        "received": sum(each.received for each in answers),
        "mean_ms": round(1000 * sum(each.seconds for each in answers) / requests, 2) if requests else None,
        "last": max((each.last for each in answers), default=0.0),
    }


def rules(known: Known, snapshot: Snapshot | None = None) -> dict[str, Any]:
    """The rules in force, in order, and what is wrong with their file.

    :param snapshot: of the metrics; with it, there is also for how many requests each rule was the first that fits
    """
    status = next((each for each in known.board.check().components if each.name == "rules"), None)
    counts: dict[int, Counter[str]] = {}
    if snapshot is not None:
        for (number, _, result), value in snapshot["families"]["s3proxy_rule_requests_total"]["samples"]:
            counts.setdefault(int(number), Counter())[result] += int(value)
    return {
        "rules": [
            {
                "pattern": rule.glob.pattern,
                "settings": {name: getattr(rule, name) for name in rule.given()},
                **({} if snapshot is None else _rule_counts(number, counts.get(number, Counter()))),
            }
            for number, rule in enumerate(known.rules().rules)
        ],
        "fields": list(FIELDS),
        "durations": sorted(_DURATIONS),
        "state": "healthy" if status is None else status.state.value,
        "message": "" if status is None else status.message,
        "file": "" if status is None else status.data.get("file", ""),
        "problems": [] if status is None else status.data.get("problems", []),
    }


def _rule_counts(number: int, count: "Counter[str]") -> dict[str, Any]:
    """Requests of which the rule decides, and the hit rate of those that had a use for the cache."""
    if number >= MOST_RULES:
        return {"requests": None, "hit_rate": None}
    reads = count["hit"] + count["miss"]
    return {"requests": count.total(), "hit_rate": round(count["hit"] / reads, 6) if reads else None}


def rule_for(known: Known, bucket: bytes, key: bytes) -> dict[str, Any]:
    """The settings that hold for an object, and the first rule that fits it."""
    in_force = known.rules()
    address = ObjectAddress(store="aws", bucket=bucket, key=key)
    settings = in_force.resolve(address)
    return {
        "name": text_of(bucket + b"/" + key),
        "first": settings.source,
        "fitting": [number for number, _ in explain(in_force, address).fitting],
        "settings": {name: value for name, value in attrs.asdict(settings).items() if name != "source"},
    }
