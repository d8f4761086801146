"""Documents of the API as people see them. Each function takes a document and gives what rich can print."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from s3proxy.control.words import age, count, moment, percent, printable, rate, size
from s3proxy.util.quantities import format_duration

__all__ = [
    "checked",
    "drained",
    "explanation",
    "listing",
    "object_card",
    "purged",
    "rolled",
    "stats",
    "status",
    "top",
    "verified",
    "warmed",
]

_STYLES = {
    "healthy": "green", "sound": "green", "degraded": "yellow", "doubtful": "yellow", "note": "cyan",
    "unhealthy": "bold red", "corrupt": "bold red", "unreadable": "bold red", "disabled": "dim", "active": "green",
    "excluded": "yellow",
}  # fmt: skip
_DURATIONS = frozenset({"get_ttl", "head_ttl", "put_ttl", "stale_if_error", "hedge_trigger_after"})


def _state(word: str) -> Text:
    return Text(word, style=_STYLES.get(word, ""))


def _text(value: object, style: str = "") -> Text:
    return Text(printable(str(value)), style=style, overflow="fold")


def _facts(pairs: Iterable[tuple[str, RenderableType]]) -> Table:
    """Names and values, one pair in a line."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(name, value)
    return table


def _table(*columns: str, right: tuple[str, ...] = (), title: str = "") -> Table:
    """Rows under headings."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title or None, title_justify="left", title_style="bold")
    for name in columns:
        number = name in right
        table.add_column(name, justify="right" if number else "left", no_wrap=number, overflow="fold")
    return table


# The proxy.


def _head(document: Mapping[str, Any]) -> Text:
    health, summary = document["health"], document["summary"]
    head = Text.assemble(
        ("S3 Proxy ", "bold"), str(document["version"]), "  ", _state(health["status"]), "  ",
        printable(str(document["instance_id"])), f"  up {age(summary['uptime'])}",
    )  # fmt: skip
    if health["draining"]:
        head.append("  draining", "bold yellow")
    elif not health["ready"]:
        head.append("  not ready", "bold red")
    return head


def _where(listeners: Iterable[Mapping[str, Any]]) -> str:
    return ", ".join(
        f"{each['name']} {'[' + each['address'] + ']' if ':' in each['address'] else each['address']}:{each['port']}"
        for each in listeners
    )


def status(document: Mapping[str, Any]) -> RenderableType:
    """Health, components, totals."""
    summary = document["summary"]
    facts = _facts(
        [
            ("listens", _text(_where(document["listeners"]))),
            ("requests", f"{count(summary['requests_total'])}, {int(summary['in_flight'])} of them now"
                         f" (at most {summary['permits']})"),
            ("hit rate", f"{percent(summary['hit_rate'])} since the start,"
                         f" {percent(summary['hit_rate_5m'])} in the last 5 minutes"),
            ("byte hit rate", f"{percent(summary['byte_hit_rate'])} since the start,"
                              f" {percent(summary['byte_hit_rate_5m'])} in the last 5 minutes"),
            ("to clients", f"{size(summary['sent'])}, of which S3 did not have to send {size(summary['saved_bytes'])}"),
            ("disk", f"{size(summary['disk_bytes'])} of {size(summary['disk_limit'])}{_share(summary, 'disk')}"),
            ("memory", f"{size(summary['ram_bytes'])} of {size(summary['ram_limit'])}{_share(summary, 'ram')}"),
            ("errors", f"{count(summary['status_5xx'])} answers 5xx, {count(summary['shed'])} requests turned away, "
                       f"{count(summary['upstream_errors'])} failures of S3 or on the way"),
        ]
    )  # fmt: skip
    components = _table("component", "state", "since", "message")
    for each in document["health"]["components"]:
        components.add_row(
            each["name"], _state(each["status"]), str(each["since"])[:19].replace("T", " "), _text(each["message"])
        )  # fmt: skip
    return Group(_head(document), facts, components, *_attention(document["attention"]))


def _share(summary: Mapping[str, Any], tier: str) -> str:
    limit = summary[f"{tier}_limit"]
    return f" ({percent(summary[f'{tier}_bytes'] / limit)})" if limit else ""


def _attention(rows: Iterable[Mapping[str, str]]) -> list[RenderableType]:
    return [
        Text.assemble(
            (f"{each['level']}: ", _STYLES.get(each["level"], "")), printable(f"{each['what']}: {each['text']}")
        )
        for each in rows
    ]


def top(document: Mapping[str, Any]) -> RenderableType:
    """What happens now; ``rates`` come from two documents."""
    summary, now = document["summary"], document["rates"]

    def each(value: float | None) -> str:
        return "-" if value is None else f"{value:,.1f}/s"

    facts = Table.grid(padding=(0, 3))
    for _ in range(6):
        facts.add_column()
    facts.add_row("[dim]requests", each(now["requests_total"]), "[dim]to clients", rate(now["sent"]),
                  "[dim]in flight", f"{int(summary['in_flight'])} of {summary['permits']}")  # fmt: skip
    facts.add_row("[dim]hit rate", percent(now["hit_rate"]), "[dim]from S3", rate(now["from_s3"]),
                  "[dim]connections", str(int(summary["connections"])))  # fmt: skip
    facts.add_row("[dim]5 minutes", percent(summary["hit_rate_5m"]), "[dim]saved", rate(now["saved_bytes"]),
                  "[dim]event loop", f"{1000 * summary['lag']:.0f} ms late")  # fmt: skip
    facts.add_row("[dim]disk", f"{size(summary['disk_bytes'])}{_share(summary, 'disk')}", "[dim]memory",
                  f"{size(summary['ram_bytes'])}{_share(summary, 'ram')}", "[dim]turned away",
                  count(summary["shed"]))  # fmt: skip
    parts: list[RenderableType] = [_head(document), facts, *_attention(document["attention"])]
    rows = document["inflight"]["requests"]
    if rows:
        parts.append(_in_flight(rows[:15], len(rows)))
    if document["buckets"]:
        parts.append(_buckets(document["buckets"][:8]))
    hosts = document["upstreams"]["hosts"]
    if hosts:
        parts.append(_addresses(hosts))
    return Group(*parts)


def _in_flight(rows: list[Mapping[str, Any]], total: int) -> Table:
    table = _table("age", "client", "operation", "object", "source", "sent", "of", "rate",
                   right=("age", "sent", "of", "rate"), title=f"Requests ({total})")  # fmt: skip
    for row in rows:
        table.add_row(
            age(row["seconds"]), _text(row["client"]), row["operation"],
            _text(f"{row['bucket']}/{row['key']}" if row["bucket"] else row["key"]), row["source"] or "…",
            size(row["sent"]), size(row["expected"]), rate(row["rate"]),
        )  # fmt: skip
    return table


def _buckets(rows: list[Mapping[str, Any]]) -> Table:
    table = _table("bucket", "requests", "hit rate", "sent", "saved",
                   right=("requests", "hit rate", "sent", "saved"), title="Buckets since the start")  # fmt: skip
    for row in rows:
        table.add_row(
            _text(row["bucket"]), count(row["requests"]), percent(row["hit_rate"]), size(row["sent"]),
            size(row["cached"]),
        )  # fmt: skip
    return table


def _addresses(hosts: list[Mapping[str, Any]]) -> Table:
    table = _table("host", "address", "state", "requests", "errors", "mean",
                   right=("requests", "errors", "mean"), title="Addresses of S3")  # fmt: skip
    for host in hosts:
        for each in host["addresses"]:
            mean = each["mean_ms"]
            table.add_row(
                _text(host["host"]), each["address"], _state(each["state"]), count(each["requests"]),
                count(each["errors"]), "-" if mean is None else f"{mean:.1f} ms",
            )  # fmt: skip
    return table


def stats(rows: list[Mapping[str, Any]]) -> RenderableType:
    """Metrics: name, labels, value."""
    table = _table("metric", "labels", "value", right=("value",))
    for row in rows:
        labels = ", ".join(f"{name}={value}" for name, value in row["labels"].items())
        table.add_row(row["name"], _text(labels), _number(row["value"]))
    return table


def _number(value: Any) -> str:
    """A value; of a distribution, how many there were and their mean."""
    if isinstance(value, Mapping):
        many = value["count"]
        return f"{many:,.0f} × {value['sum'] / many:,.4g}" if many else "0"
    if value is None:
        return "-"
    return f"{value:,.0f}" if value == int(value) else f"{value:,.6g}"


# The cache.


def listing(document: Mapping[str, Any]) -> RenderableType:
    """Folders and objects."""
    table = _table("size", "cached", "confirmed", "fresh for", "name", right=("size", "cached", "fresh for"))
    for folder in document["folders"]:
        name = f"{document['prefix']}{folder['folder']}  ({count(folder['objects'])})"
        table.add_row(
            size(folder["size"]), "", "", "", _text(name)
        )  # fmt: skip
    now = document["now"]
    for row in document["objects"]:
        expires = row["expires"]
        fresh = "-" if expires is None else "stale" if expires <= now else age(expires - now)
        store = "" if row["store"] == "aws" else f"  [{row['store']}]"
        table.add_row(
            size(row["size"]), percent(row["held"] / row["size"] if row["size"] else 1.0), moment(row["validated"]),
            fresh, _text(f"{row['bucket']}/{row['key']}{store}"),
        )  # fmt: skip
    shown = len(document["objects"])
    total = f"{count(document['total'])} object(s), {size(document['size'])}"
    if shown + sum(each["objects"] for each in document["folders"]) < document["total"]:
        total += f"; {count(shown)} shown, see --limit"
    return Group(table, total)


def object_card(document: Mapping[str, Any]) -> RenderableType:
    """One object."""
    whole = document["size"] or 1
    facts = _facts(
        [
            ("name", _text(f"{document['bucket']}/{document['key']}", "bold")),
            ("store", document["store"]),
            ("next read", _text(document["next_read"])),
            ("size", f"{size(document['size'])} ({count(document['size'])} bytes)"),
            ("cached", f"{size(document['held'])} ({percent(document['held'] / whole if document['size'] else 1.0)}), "
                       f"{document['form']}{', in memory' if document['in_memory'] else ''}"),
            ("etag", _text(document["etag"])),
            ("confirmed", moment(document["validated"]) + (" (not yet)" if document["unconfirmed"] else "")),
            ("fresh until", moment(document["expires"])),
            ("rule", _text(document["rule"] or "none: the configuration decides")),
            ("GET TTL", format_duration(document["get_ttl"])),
            ("HEAD TTL", format_duration(document["head_ttl"])),
        ]
    )  # fmt: skip
    parts: list[RenderableType] = [facts]
    if document["form"] != "one file":
        table = _table("first byte", "last byte", "size", "stored at", right=("first byte", "last byte", "size"))
        for each in document["extents"]:
            start, stop = each["start"], each["stop"]
            table.add_row(count(start), count(stop - 1), size(stop - start), moment(each["written"]))
        parts.append(table)
    headers = _table("header", "value")
    for name, value in document["headers"]:
        headers.add_row(_text(name), _text(value))
    return Group(*parts, headers)


def purged(document: Mapping[str, Any]) -> RenderableType:
    """What was removed, or would be."""
    number = document["objects"]
    if document["dry_run"]:
        return f"{count(number)} object(s) would be removed from the cache; nothing was done."
    if not number:
        return "Nothing of it was cached."
    return f"{count(document['purged'])} object(s) removed from the cache; S3 is not touched."


def verified(document: Mapping[str, Any]) -> RenderableType:
    """What was read again, and what of it is wrong."""
    parts: list[RenderableType] = []
    if document["found"]:
        table = _table("verdict", "name", "why", "removed")
        for each in document["found"]:
            store = "" if each["store"] == "aws" else f"  [{each['store']}]"
            table.add_row(
                _state(each["verdict"]), _text(f"{each['name']}{store}"), _text(each["reason"]),
                "yes" if each["removed"] else "no",
            )  # fmt: skip
        parts.append(table)
    words = [f"{count(document['objects'])} object(s), {size(document['read'])} read: {count(document['sound'])} sound"]
    words += [f"{count(document[name])} {name}" for name in ("corrupt", "doubtful", "unreadable") if document[name]]
    if document["gone"]:
        words.append(f"{count(document['gone'])} gone meanwhile")
    parts.append(", ".join(words) + ".")
    parts.append(f"{count(document['compared'])} of them were compared with what S3 says of them, the others with what "
                 "was stored.")  # fmt: skip
    if document["bad"] and not document["removed"]:
        parts.append("With --repair, what is corrupt or doubtful is removed, and S3 asked for it again.")
    return Group(*parts)


def warmed(document: Mapping[str, Any]) -> RenderableType:
    """What was read into the cache."""
    parts: list[RenderableType] = []
    failed = [each for each in document["urls"] if each["error"]]
    if failed:
        table = _table("line", "status", "why", "URL", right=("line", "status"))
        for each in failed:
            table.add_row(str(each["line"]), str(each["status"] or "-"), _text(each["error"]), _text(each["url"]))
        parts.append(table)
    outcomes = ", ".join(f"{count(number)} {name}" for name, number in sorted(document["outcomes"].items()))
    parts.append(
        f"{count(document['read'])} object(s) read, {size(document['bytes'])} in {age(document['seconds'])}"
        f"{f' ({outcomes})' if outcomes else ''}; {count(document['failed'])} failed."
    )
    return Group(*parts)


# Rules and configuration.


def _value(name: str, value: object) -> str:
    if value is None:
        return "as compression.enabled says" if name == "compression_enabled" else "-"
    if name in _DURATIONS and isinstance(value, (int, float)):
        return format_duration(float(value))
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def explanation(document: Mapping[str, Any]) -> RenderableType:
    """Which settings an object has, and why."""
    patterns = {number: pattern for number, pattern in document["fitting"]}
    table = _table("setting", "value", "because of")
    for each in document["settings"]:
        rule = each["rule"]
        why = f"rule {rule}, {patterns[rule]}" if rule is not None else "the configuration"
        if each["remark"]:
            why = each["remark"]
        table.add_row(each["name"], _value(each["name"], each["value"]), _text(why, "" if rule is not None else "dim"))
    fitting = ", ".join(f"{number} ({pattern})" for number, pattern in document["fitting"])
    head = _facts([
        ("object", _text(document["name"], "bold")),
        ("rules that fit", _text(fitting or "none")),
    ])  # fmt: skip
    return Group(head, table)


def checked(document: Mapping[str, Any]) -> RenderableType:
    """What is wrong with files, and what is worth a word."""
    parts: list[RenderableType] = [
        Text.assemble(("wrong: ", "bold red"), printable(text)) for text in document["problems"]
    ]
    parts += [Text.assemble(("note: ", "yellow"), printable(text)) for text in document["notices"]]
    parts += [printable(text) for text in document["verdict"]]
    return Group(*parts)


def drained(document: Mapping[str, Any]) -> RenderableType:
    """What will happen, or has."""
    if document.get("ended"):
        return "The proxy has ended."
    delay = document["delay"]
    begin = f"In {age(delay)} it" if delay else "It"
    return (
        "The proxy is no longer ready: /readyz answers 503. "
        f"{begin} accepts no more connections, and ends when requests under way are answered, "
        f"after {age(document['drain_timeout'])} at the latest."
    )


def rolled(document: Mapping[str, Any]) -> RenderableType:
    """Which workers are new."""
    parts: list[RenderableType] = []
    if document["workers"]:
        table = _table("worker", "was", "is", "served after", right=("worker", "was", "is", "served after"))
        for row in document["workers"]:
            table.add_row(str(row["number"]), str(row["before"]), str(row["pid"]), f"{row['seconds']:.1f} s")
        parts.append(table)
    new = len(document["workers"])
    parts.append(f"{new} of {document['total']} worker(s) replaced in {document['seconds']:.1f} s.")
    if document["skipped"]:
        numbers = ", ".join(map(str, document["skipped"]))
        parts.append(f"Worker {numbers} was not there, and is started anew anyway.")
    if document["leaving"]:
        parts.append(f"{document['leaving']} former process(es) let requests end.")
    return Group(*parts)
