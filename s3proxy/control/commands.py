"""The commands: each takes what was given on the command line, and gives an exit code."""

import fnmatch
from argparse import Namespace
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol, TextIO
from urllib.parse import urlencode

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from s3proxy.config.model import Config
from s3proxy.control import offline, warm
from s3proxy.control.locate import load
from s3proxy.control.names import ObjectName, parse_name, parse_prefix
from s3proxy.control.outcome import BAD_NEWS, FINE, BadNews, Unreachable, Usage
from s3proxy.control.output import Output
from s3proxy.control.screen import run_top
from s3proxy.control.words import count, size

__all__ = ["COMMANDS", "Context", "IAdmin"]

_PAGE: Final = 1000
_POLL: Final = 0.5


class IAdmin(Protocol):
    """What is needed of :class:`s3proxy.control.client.AdminClient`."""

    async def get(self, name: str, query: str = "") -> Any:
        """See there."""

    async def order(self, name: str, order: dict[str, Any], event: Callable[[str, Any], None]) -> Any:
        """See there."""


@attrs.frozen(kw_only=True)
class Context:
    """What a command has to do with.

    :ivar admin: gives the proxy that is meant; raises when it is not clear which
    :ivar clock: to wait with
    :ivar in_thread: runs a function in a thread
    """

    given: Namespace
    output: Output
    environ: Mapping[str, str]
    stdin: TextIO
    admin: Callable[[], IAdmin]
    clock: Any = None
    in_thread: Callable[[Callable[[], Any]], "Deferred[Any]"] | None = None

    def config(self) -> Config | None:
        """The configuration that was named, if one was.

        :raises Usage: it can't be used
        """
        path = self.config_file()
        return load(path, self.environ) if path else None

    def config_file(self) -> str | None:
        """Its file."""
        return self.given.config or self.environ.get("S3PROXY_CONFIG") or None


Command = Callable[[Context], Awaitable[int]]


# The proxy.


async def status(context: Context) -> int:
    """Health and totals."""
    found = await context.admin().get("status")
    context.output.show("status", found)
    health = found["health"]
    return FINE if health["status"] == "healthy" and health["ready"] and not health["draining"] else BAD_NEWS


async def top(context: Context) -> int:
    """What happens now."""
    admin = context.admin()
    await run_top(
        context.clock, context.output, lambda: admin.get("top"), context.given.interval, context.given.times
    )  # fmt: skip
    return FINE


async def stats(context: Context) -> int:
    """Metrics."""
    found = await context.admin().get("stats")
    pattern = context.given.pattern
    rows = [
        {"name": name, **each}
        for name, values in sorted(found["metrics"].items())
        if _fits(name, pattern)
        for each in values
    ]
    if context.output.as_json and not pattern:
        context.output.write_json(found)
    else:
        context.output.show("stats", rows)
    return FINE if rows else BAD_NEWS


def _fits(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) if set(pattern) & set("*?[") else pattern in name


async def drain(context: Context) -> int:
    """The end."""
    admin, given = context.admin(), context.given
    found = await admin.order("drain", {"delay": given.delay}, lambda kind, value: None)
    if not given.wait:
        context.output.show("drained", found)
        return FINE
    limit = found["delay"] + found["drain_timeout"] + 15
    begun = context.clock.seconds()
    with context.output.progress() as bar:
        while context.clock.seconds() - begun < limit:
            try:
                now = await admin.get("status")
            except Unreachable:
                context.output.show("drained", {**found, "ended": True})
                return FINE
            running = int(now["summary"]["in_flight"])
            bar.update("draining", context.clock.seconds() - begun, limit, f"{running} request(s) under way")
            await deferLater(context.clock, _POLL)
    raise BadNews(f"the proxy is still there after {limit:.0f} s")


async def roll(context: Context) -> int:
    """New workers."""
    with context.output.progress() as bar:

        def told(kind: str, value: Any) -> None:
            if kind == "progress":
                remark = f"worker {value['worker']} is starting anew" if value["worker"] else ""
                bar.update("replacing workers", value["done"], value["total"], remark)

        done = await context.admin().order("roll", {"limit": context.given.limit}, told)
    context.output.show("rolled", done)
    return FINE


# The cache.


class _Progress:
    """Events of the API on a bar, and what was found."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self.found: list[Any] = []

    def __call__(self, kind: str, value: Any) -> None:
        if kind == "found":
            self.found.append(value)
        elif kind == "progress":
            what = {"looking": "looking through the cache"}.get(value["what"], value["what"])
            remark = size(value["read"]) if "read" in value else ""
            if value.get("bad"):
                remark += f", {value['bad']} not sound"
            self._bar.update(what, value["done"], value["total"], remark)


async def _order(context: Context, name: str, order: dict[str, Any]) -> dict[str, Any]:
    """What an order comes to, with what was found."""
    with context.output.progress() as bar:
        progress = _Progress(bar)
        done = await context.admin().order(name, order, progress)
    return {**done, "found": progress.found}


async def ls(context: Context) -> int:
    """Folders and objects."""
    given = context.given
    prefix = parse_prefix(given.prefix)
    await _order(context, "cache/refresh", {})
    parameters = {
        "prefix": prefix,
        "q": parse_prefix(given.match or ""),
        "sort": given.sort,
        "folders": "0" if given.recursive or given.match else "1",
    }
    admin = context.admin()
    rows: list[Any] = []
    offset = 0
    while True:
        limit = min(_PAGE, given.limit - len(rows)) if given.limit else _PAGE
        page = await admin.get("cache/objects", urlencode({**parameters, "offset": offset, "limit": limit}))
        rows += page["objects"]
        # Some of a page may be gone meanwhile.
        seen = len(page["objects"]) + page["gone"]
        offset += seen
        if seen < limit or (given.limit and len(rows) >= given.limit):
            break
    context.output.show(
        "listing",
        {
            "prefix": prefix, "folders": page["folders"], "objects": rows, "total": page["total"], "size": page["size"],
            "now": page["now"],
        },
    )  # fmt: skip
    return FINE


async def inspect(context: Context) -> int:
    """One object."""
    name = parse_name(context.given.name, context.given.store)
    context.output.show("object_card", await context.admin().get("cache/object", name.query))
    return FINE


def _selected(context: Context) -> list[dict[str, str]]:
    """What the API is told of the objects that are meant; nothing when nothing was said."""
    given = context.given
    found: list[dict[str, str]] = [parse_name(each, given.store).order for each in given.names]
    if given.prefix:
        found.append({"prefix": parse_prefix(given.prefix)})
    if given.glob:
        found.append({"glob": parse_prefix(given.glob)})
    if (given.prefix or given.glob) and len(found) > 1:
        raise Usage("give names, or --prefix, or --glob")
    return found


async def purge(context: Context) -> int:
    """Out of the cache."""
    given, output = context.given, context.output
    orders = _selected(context)
    if not orders:
        raise Usage("say what to remove: a NAME, --prefix or --glob")
    asks = (given.prefix or given.glob) and not given.yes and not given.dry_run
    if asks and output.is_terminal and context.stdin.isatty():
        expected = await _order(context, "cache/purge", {**orders[0], "dry_run": True})
        if not expected["objects"]:
            output.show("purged", expected)
            return FINE
        output.say(f"{count(expected['objects'])} object(s) will be removed from the cache. Go on? [y/N]")
        if context.stdin.readline().strip().lower() not in ("y", "yes"):
            raise BadNews("nothing was removed")
    total = {"objects": 0, "purged": 0, "dry_run": given.dry_run}
    for order in orders:
        done = await _order(context, "cache/purge", {**order, "dry_run": given.dry_run})
        total["objects"] += done["objects"]
        total["purged"] += done["purged"]
    output.show("purged", total)
    return FINE


async def verify(context: Context) -> int:
    """Read again."""
    total: dict[str, Any] = {}
    for order in _selected(context) or [{}]:
        done = await _order(context, "cache/verify", {**order, "repair": context.given.repair})
        # Numbers are added, lists are joined.
        total = {name: total[name] + value if total else value for name, value in done.items()}
    context.output.show("verified", total)
    return BAD_NEWS if total["bad"] else FINE


async def warm_up(context: Context) -> int:
    """Into the cache."""
    given = context.given
    targets = warm.read_targets(_list(given.list, context.stdin))
    proxy = given.via or _listener_of(await context.admin().get("status"))
    assert context.in_thread is not None
    begun = warm.now()
    with context.output.progress() as bar:
        done = [0, 0]

        def told(result: warm.Warmed) -> None:
            done[0] += 1
            done[1] += result.size
            bar.update("warming", done[0], len(targets), size(done[1]))

        results = await context.in_thread(
            lambda: warm.warm(targets, proxy, parallel=given.parallel, patience=given.patience, told=told)
        )
    found = warm.report(results, warm.now() - begun)
    context.output.show("warmed", found)
    return BAD_NEWS if found["failed"] else FINE


def _list(path: str, stdin: TextIO) -> list[str]:
    if path == "-":
        return stdin.read().splitlines()
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Usage(f"{path} can't be read: {getattr(error, 'strerror', None) or error}") from None


def _listener_of(found: Mapping[str, Any]) -> tuple[str, int]:
    """Where the proxy takes clients without TLS."""
    for each in found["listeners"]:
        if each["name"] in ("http", "proxy"):
            address = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(each["address"], each["address"])
            return address, each["port"]
    raise BadNews("the proxy has no listener without TLS")


# Files.


async def rules_check(context: Context) -> int:
    """Can rules be used?"""
    path, config = context.given.file, context.config()
    if path is None and config is None:
        raise Usage("name the file of rules, or the configuration (--config) of the proxy that reads it")
    effective = config or Config()
    found = offline.check_rules(path or offline.rules_path(effective), effective, needed=path is not None)
    context.output.show("checked", found)
    return BAD_NEWS if found["problems"] else FINE


async def rules_explain(context: Context) -> int:
    """What do they mean?"""
    given = context.given
    name: ObjectName = parse_name(given.name, given.store)
    config = context.config()
    if given.rules or config is not None:
        effective = config or Config()
        path = given.rules or offline.rules_path(effective)
        found = offline.explain_rules(name, path, effective, needed=bool(given.rules))
    else:
        found = await context.admin().get("rules/match", name.reference)
    context.output.show("explanation", found)
    return FINE


async def config_check(context: Context) -> int:
    """Can it be used?"""
    path = context.given.file or context.config_file()
    if not path:
        raise Usage("name the configuration")
    found = offline.check_config(path, context.environ)
    context.output.show("checked", found)
    return BAD_NEWS if found["problems"] else FINE


COMMANDS: Final[Mapping[str, Command]] = {
    "status": status,
    "top": top,
    "stats": stats,
    "ls": ls,
    "inspect": inspect,
    "purge": purge,
    "verify": verify,
    "warm": warm_up,
    "rules_check": rules_check,
    "rules_explain": rules_explain,
    "config_check": config_check,
    "drain": drain,
    "roll": roll,
}
