"""The words of ``s3proxyctl``, and its help."""

import argparse
from typing import Any

from s3proxy import __version__
from s3proxy.util.quantities import parse_duration

__all__ = ["parser"]

_EXIT_CODES = """\
exit codes:
  0    fine
  1    the answer is bad news: not healthy, not cached, corrupt, refused, some URLs failed
  2    the command can't be understood, or asks for what can't be
  3    no proxy answers
  130  interrupted
"""

_EPILOG = f"""\
The proxy is asked over a UNIX socket that only its own user and root can open. Which socket: --socket, else that of
the configuration --config, else that of the one proxy that runs here. S3PROXY_SOCKET and S3PROXY_CONFIG stand for
the options.

Objects are named bucket/key, s3://bucket/key, or by a URL. --json prints one JSON document instead of tables, also
for errors: {{"error": "...", "code": 3}}.

{_EXIT_CODES}
"s3proxyctl COMMAND --help" has more about each command, with examples.
"""


_ORDERS = ("name", "-name", "size", "-size", "age", "-age")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str, **more: Any) -> None:
        super().__init__(prog, max_help_position=28, width=100, **more)


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error}; write for example 10s or 5m") from None


def _positive_duration(text: str) -> float:
    seconds = _duration(text)
    if seconds < 0.1:
        raise argparse.ArgumentTypeError(f"{text!r} is too short; at least 100ms")
    return seconds


def _limit(text: str) -> float:
    seconds = _duration(text)
    if not 1 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not from 1s to 24h")
    return seconds


def _number(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return number


def _any_number(text: str) -> int:
    return 0 if text == "0" else _number(text)


def _listener(text: str) -> tuple[str, int]:
    host, colon, port = text.removeprefix("http://").rstrip("/").rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def _common(*, inner: bool) -> argparse.ArgumentParser:
    """Options that may stand before and behind the command; those behind win."""
    common = argparse.ArgumentParser(add_help=False)
    group = common.add_argument_group("for all commands")

    def add(*names: str, default: Any = None, **more: Any) -> None:
        group.add_argument(*names, default=argparse.SUPPRESS if inner else default, **more)

    add("--socket", metavar="PATH", help="the proxy's socket (admin.socket of its configuration)")
    add("--config", "-c", metavar="FILE", help="the proxy's configuration, as twistd has it")
    add("--json", action="store_true", default=False, help="print one JSON document")
    add("--patience", metavar="TIME", type=_positive_duration, default=60.0,
        help="how long nothing may come from the proxy before it counts as unreachable (60s)")  # fmt: skip
    return common


class _Commands:
    """Adds commands with their help."""

    def __init__(self, subparsers: Any) -> None:
        self._subparsers = subparsers
        self._common = _common(inner=True)

    def add(self, name: str, summary: str, text: str, *, command: str | None = None) -> argparse.ArgumentParser:
        """:param text: what it does, with examples; :param command: the function that does it"""
        found: argparse.ArgumentParser = self._subparsers.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.\n\n{text}",
            formatter_class=_Formatter,
            parents=[self._common],
        )
        found.set_defaults(command=command or name)
        return found

    def group(self, name: str, summary: str) -> "_Commands":
        """A command that has commands."""
        found = self._subparsers.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", formatter_class=_Formatter
        )
        return _Commands(found.add_subparsers(metavar="COMMAND", required=True))


def _select(found: argparse.ArgumentParser, verb: str) -> None:
    """Which objects are meant."""
    found.add_argument("names", metavar="NAME", nargs="*", help="an object: bucket/key, s3://bucket/key or a URL")
    found.add_argument("--prefix", metavar="PREFIX", help=f"{verb} every object whose name bucket/key begins so")
    found.add_argument(
        "--glob", metavar="GLOB", help=f"{verb} every object whose name fits: * is any text, ? one character"
    )
    _store(found)


def _store(found: argparse.ArgumentParser) -> None:
    found.add_argument("--store", metavar="STORE",
                       help="the store of named objects: aws, aws-cn, or host:port of another one; without it, the"
                            " first that has the object, aws before others")  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The whole command line. What it cannot read ends the process with exit code 2."""
    main = argparse.ArgumentParser(
        prog="s3proxyctl",
        description="Looks at a running S3 Proxy and tells it what to do.",
        epilog=_EPILOG,
        formatter_class=_Formatter,
        parents=[_common(inner=False)],
    )
    main.add_argument("--version", action="version", version=f"s3proxyctl {__version__}")
    commands = _Commands(main.add_subparsers(title="commands", metavar="COMMAND", required=True))
    _add_looking(commands)
    _add_cache(commands)
    _add_files(commands)
    drain = commands.add(
        "drain",
        "stop the proxy without breaking off requests",
        "From now on /readyz answers 503, so that balancers send no more traffic. After --delay, the proxy ends as it\n"
        "does on SIGTERM: it accepts no more connections, and requests under way have server.drain_timeout.\n\n"
        "  s3proxyctl drain --delay 10s --wait && systemctl stop s3proxy",
    )
    drain.add_argument("--delay", metavar="TIME", type=_duration, default=5.0,
                       help="how long to go on serving, longer than balancers take to notice (5s)")  # fmt: skip
    drain.add_argument("--wait", action="store_true", help="wait until the proxy has ended; exit code 1 if it does not")
    roll = commands.add(
        "roll",
        "replace all workers, one after the other, without refusing a connection",
        "Each worker leaves when its successor serves; requests under way have server.drain_timeout. The workers run\n"
        "the program as it is installed now; the supervisor stays as it is, with its ports and server.workers. Exit\n"
        "code 1 when not all of them are replaced: a successor can't serve, or it takes longer than --limit. Nothing\n"
        "stops serving then. With one process (server.workers: 1) there is nothing to replace: see drain.\n\n"
        "  s3proxyctl roll\n  s3proxyctl roll --json | jq .workers",
    )
    roll.add_argument("--limit", metavar="TIME", type=_limit, default=300.0,
                      help="how long it may take, from 1s to 24h (5m)")  # fmt: skip
    return main


def _add_looking(commands: _Commands) -> None:
    commands.add(
        "status",
        "whether the proxy is well, and what it did since its start",
        "Exit code 1 when it is not healthy, not ready, or draining.\n\n"
        "  s3proxyctl status\n  s3proxyctl status --json | jq .summary",
    )
    top = commands.add(
        "top",
        "what the proxy does now, again and again",
        "Rates, requests in flight, the busiest buckets, addresses of S3. On a terminal until Ctrl-C; elsewhere, and\n"
        "with --json, once.\n\n  s3proxyctl top --interval 5s\n  s3proxyctl top --json --times 10 --interval 1s",
    )
    top.add_argument("--interval", metavar="TIME", type=_positive_duration, default=2.0, help="between two looks (2s)")
    top.add_argument("--times", metavar="N", type=_number, help="look so often, then end")
    stats = commands.add(
        "stats",
        "every metric, as /metrics has them",
        "Of distributions, the number of values and their mean. Exit code 1 when nothing fits.\n\n"
        "  s3proxyctl stats\n  s3proxyctl stats hit_rate\n  s3proxyctl stats 's3proxy_upstream_*'",
    )
    stats.add_argument("pattern", nargs="?", default="", help="part of a metric's name, or a glob over it")


def _add_cache(commands: _Commands) -> None:
    ls = commands.add(
        "ls",
        "what is in the cache",
        "Without a prefix the buckets; with one, what lies there, folder by folder as in \"aws s3 ls\". The cache\n"
        "directory is looked through first, which takes a while the first time when there are many objects.\n\n"
        "  s3proxyctl ls\n  s3proxyctl ls my-bucket/logs/\n  s3proxyctl ls -r my-bucket/ --sort=-size --limit 20\n"
        "  s3proxyctl ls --match 'my-bucket/*.parquet'",
    )  # fmt: skip
    ls.add_argument("prefix", nargs="?", default="", help="the beginning of names bucket/key")
    ls.add_argument("-r", "--recursive", action="store_true", help="every object below, without folders")
    ls.add_argument("--match", metavar="TEXT", help="only names with this text, or that fit this glob (with * or ?)")
    ls.add_argument("--sort", metavar="ORDER", choices=_ORDERS, default="name",
                    help="name, size or age, with - in front the other way round; write --sort=-size")  # fmt: skip
    ls.add_argument("--limit", metavar="N", type=_any_number, default=1000, help="show so many objects; 0: all (1000)")
    inspect = commands.add(
        "inspect",
        "all that is known of one cached object",
        "Its stored ranges and headers, its rule, and what the next read of it will be. Never its content. Exit code\n"
        "1 when nothing of it is cached.\n\n  s3proxyctl inspect my-bucket/data/part-0001.parquet",
    )
    inspect.add_argument("name", metavar="NAME", help="bucket/key, s3://bucket/key or a URL")
    _store(inspect)
    purge = commands.add(
        "purge",
        "remove objects from the cache",
        "The next read of each goes to S3, which is not touched. On a terminal, --prefix and --glob say how many\n"
        "objects fit and ask first.\n\n  s3proxyctl purge my-bucket/config.json\n"
        "  s3proxyctl purge --prefix my-bucket/logs/ --dry-run\n"
        "  s3proxyctl purge --glob 'my-bucket/*.tmp' --yes",
    )  # fmt: skip
    _select(purge, "remove")
    purge.add_argument("--dry-run", "-n", action="store_true", help="only say how many objects that would be")
    purge.add_argument("--yes", "-y", action="store_true", help="don't ask")
    verify = commands.add(
        "verify",
        "read what is cached again, and compare it with what it should be",
        "Every block is compared with the checksum it was stored with; whole objects and parts also with S3's own\n"
        "checksum, if S3 stated one, or with the ETag where it is an MD5. Without names, the whole cache. Exit code 1\n"
        "when anything is not sound, removed or not.\n\n"
        "  corrupt     the bytes are not those that were stored, or not those that S3 has\n"
        "  doubtful    the ETag looks like an MD5 of the bytes, and is not; some stores form it otherwise\n"
        "  unreadable  the disk fails\n\n"
        "  s3proxyctl verify my-bucket/model.bin\n  s3proxyctl verify --prefix my-bucket/ --repair",
    )
    _select(verify, "read")
    verify.add_argument("--repair", action="store_true", help="remove what is corrupt or doubtful from the cache")
    warm = commands.add(
        "warm",
        "read objects into the cache",
        "The list has one presigned URL in a line; # begins a remark. They are read through the proxy's listener for\n"
        "clients, with the signature that they have: it is S3 that decides whether they may be read. Exit code 1 when\n"
        "one fails.\n\n  s3proxyctl warm urls.txt\n  aws s3 presign s3://my-bucket/model.bin | s3proxyctl warm -\n"
        "  s3proxyctl warm urls.txt --parallel 32 --via 10.0.0.5:3128",
    )
    warm.add_argument("list", metavar="FILE", help="the list; - is standard input")
    warm.add_argument("--parallel", "-p", metavar="N", type=_number, default=8, help="so many at a time (8)")
    warm.add_argument("--via", metavar="HOST:PORT", type=_listener,
                      help="the proxy's listener, without TLS; if not given, the proxy is asked for it")  # fmt: skip


def _add_files(commands: _Commands) -> None:
    rules = commands.group("rules", "check cache rules, or explain what they mean for an object")
    check = rules.add(
        "check",
        "whether a file of rules can be used",
        "No proxy is needed. Without FILE, the cache_rules.json in the cache directory of --config. Exit code 1 when\n"
        "it can't be used.\n\n  s3proxyctl rules check cache_rules.json\n  s3proxyctl rules check -c /etc/s3proxy.yaml",
        command="rules_check",
    )
    check.add_argument("file", metavar="FILE", nargs="?", help="the file of rules")
    explain = rules.add(
        "explain",
        "which rules hold for an object, and which TTL it gets",
        "With --config or --rules, from these files, and no proxy is needed. Without, the running proxy is asked.\n\n"
        "  s3proxyctl rules explain my-bucket/logs/today\n"
        "  s3proxyctl rules explain my-bucket/logs/today --rules new_rules.json -c /etc/s3proxy.yaml",
        command="rules_explain",
    )
    explain.add_argument("name", metavar="NAME", help="bucket/key, s3://bucket/key or a URL")
    explain.add_argument("--rules", metavar="FILE", help="the file of rules")
    _store(explain)
    config = commands.group("config", "check the configuration")
    check = config.add(
        "check",
        "whether a configuration can be used",
        "With the certificates that it names and the rules in its cache directory. No proxy is needed. Environment\n"
        "variables count as they do at the start. Exit code 1 when it can't be used.\n\n"
        "  s3proxyctl config check /etc/s3proxy.yaml",
        command="config_check",
    )
    check.add_argument("file", metavar="FILE", nargs="?", help="the configuration; without it, that of --config")
