"""Documents as a proxy gives them, a proxy that gives them, and what a command writes."""

import io
import json
from argparse import Namespace
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock

from s3proxy.control.command_line import parser
from s3proxy.control.commands import Context, IAdmin
from s3proxy.control.main import run
from s3proxy.control.outcome import ControlError
from s3proxy.control.output import Output

SUMMARY: dict[str, Any] = {
    "time": 1_800_000_010.0, "uptime": 3700.0, "requests_total": 1234, "in_flight": 2, "permits": 1000, "reads": 1000,
    "hits": 874, "hit_rate": 0.874, "hit_rate_5m": 0.9, "byte_hit_rate": 0.91, "byte_hit_rate_5m": None,
    "sent": 3 << 30, "received": 0, "from_s3": 1 << 30, "to_s3": 0, "saved_bytes": 2 << 30, "disk_bytes": 5 << 30,
    "disk_limit": 10 << 30, "ram_bytes": 1 << 20, "ram_limit": 0, "status_5xx": 3, "shed": 0, "upstream_errors": 1,
    "connections": 7, "lag": 0.004,
}  # fmt: skip

STATUS: dict[str, Any] = {
    "version": "1.2.3",
    "instance_id": "proxy-1:42",
    "listeners": [{"name": "http", "address": "0.0.0.0", "port": 80}, {"name": "tls", "address": "::1", "port": 3129}],
    "health": {
        "status": "healthy", "ready": True, "live": True, "draining": False,
        "components": [
            {"name": "cache", "status": "healthy", "message": "", "since": "2027-01-15T08:00:00.000Z"},
            {"name": "upstream", "status": "degraded", "message": "No address answers for s3.example.",
             "since": "2027-01-15T08:01:00.000Z"},
        ],
    },
    "summary": SUMMARY,
    "attention": [{"level": "degraded", "what": "upstream", "text": "No address answers.", "view": "upstream"}],
}  # fmt: skip

TOP: dict[str, Any] = {
    **STATUS,
    "inflight": {
        "requests": [
            {"seconds": 12.0, "client": "10.0.1.7", "operation": "GetObject", "bucket": "data", "key": "part-\x1b[31m1",
             "source": "MISS", "sent": 31 << 20, "expected": 64 << 20, "rate": 12 << 20},
        ],
        "fills": [],
    },
    "buckets": [
        {"bucket": "data", "requests": 1200, "reads": 1000, "hits": 874, "hit_rate": 0.874, "sent": 3 << 30,
         "cached": 2 << 30},
    ],
    "upstreams": {
        "hosts": [
            {"host": "s3.example", "idle": 1, "active": 0, "addresses": [
                {"address": "192.0.2.1", "state": "excluded", "requests": 10, "errors": 2, "mean_ms": 31.25},
                {"address": "192.0.2.2", "state": "active", "requests": 0, "errors": 0, "mean_ms": None},
            ]},
        ],
    },
}  # fmt: skip

ROW: dict[str, Any] = {
    "ref": "store=aws&bucket=b&key=dir%2Fk", "store": "aws", "bucket": "b", "key": "dir/k", "size": 2000, "held": 500,
    "ranges": 1, "validated": 1_800_000_000.0, "expires": 1_800_000_060.0, "etag": '"abc"',
}  # fmt: skip

CARD: dict[str, Any] = {
    **ROW, "form": "ranges", "in_memory": False, "extents": [{"start": 0, "stop": 500, "written": 1_800_000_000.0}],
    "unconfirmed": False, "headers": [["Content-Type", "text/plain"]], "rule": "b/dir/**", "get_ttl": 60.0,
    "head_ttl": 0.5, "next_read": "what is missing is fetched (incomplete)",
}  # fmt: skip

EXPLANATION: dict[str, Any] = {
    "name": "b/dir/k",
    "store": "aws",
    "fitting": [[2, "b/dir/**"]],
    "settings": [
        {"name": "get_ttl", "value": 0.0, "rule": 2, "remark": ""},
        {
            "name": "ram_cache_eligible",
            "value": False,
            "rule": None,
            "remark": "get_ttl is 0s: S3 is asked at every read",
        },
        {"name": "compression_enabled", "value": None, "rule": None, "remark": ""},
    ],
}

ROLLED: dict[str, Any] = {
    "what": "replacing", "done": 2, "total": 3, "worker": 3, "skipped": [2], "leaving": 1, "seconds": 3.25,
    "workers": [{"number": 1, "before": 41, "pid": 51, "seconds": 1.5}],
}  # fmt: skip

VERIFIED: dict[str, Any] = {
    "objects": 3, "read": 3000, "sound": 1, "compared": 2, "doubtful": 1, "corrupt": 1, "unreadable": 0, "gone": 0,
    "removed": 0, "bad": 2,
}  # fmt: skip


class FakeAdmin:
    """A proxy.

    :ivar documents: by name; an exception is raised
    :ivar results: of orders by name: what is told meanwhile, and what comes of it
    :ivar asked: name and query, or order, of everything
    """

    def __init__(self) -> None:
        self.documents: dict[str, Any] = {}
        self.results: dict[str, Any] = {}
        self.asked: list[tuple[str, Any]] = []

    async def get(self, name: str, query: str = "") -> Any:
        self.asked.append((name, query))
        found = self.documents[name]
        if isinstance(found, list):
            found = found.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    async def order(self, name: str, order: dict[str, Any], event: Callable[[str, Any], None]) -> Any:
        self.asked.append((name, order))
        events, result = self.results[name]
        for kind, value in events:
            event(kind, value)
        if isinstance(result, Exception):
            raise result
        return dict(result)


class Terminal(io.StringIO):
    """Somebody looks."""

    def isatty(self) -> bool:
        return True


class Running:
    """A command and what it wrote.

    :param admin: the proxy; an exception: there is none
    :param environ: of the process
    """

    def __init__(
        self,
        admin: FakeAdmin | ControlError | None,
        *words: str,
        environ: dict[str, str] | None = None,
        stdin: str = "",
        terminal: bool = False,
    ) -> None:
        self.clock = Clock()
        self.stdout = Terminal() if terminal else io.StringIO()
        self.stderr = io.StringIO()
        self.given: Namespace = parser().parse_args(list(words))
        stdin_file = Terminal(stdin) if terminal else io.StringIO(stdin)

        def find() -> IAdmin:
            if isinstance(admin, ControlError):
                raise admin
            assert admin is not None, "a proxy was asked for"
            return admin

        context = Context(
            given=self.given,
            output=Output(self.stdout, self.stderr, as_json=self.given.json),
            environ=environ or {},
            stdin=stdin_file,
            admin=find,
            clock=self.clock,
            in_thread=execute,
        )
        coroutine: Coroutine[Any, Any, int] = run(context)
        self._done = Deferred.fromCoroutine(coroutine)
        self._codes: list[int] = []
        self._done.addCallback(self._codes.append)

    @property
    def code(self) -> int:
        """The exit code; time passes until there is one."""
        for _ in range(1000):
            if self._codes:
                return self._codes[0]
            self.clock.advance(0.5)
        raise AssertionError("the command does not end")

    @property
    def text(self) -> str:
        """What it wrote for people."""
        return self.stdout.getvalue()

    @property
    def document(self) -> Any:
        """What it wrote for programs."""
        return json.loads(self.stdout.getvalue())
