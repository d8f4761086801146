"""A gateway in memory: a client and an S3 that the test plays, in front of a real cache directory and without
threads or time.
"""

import os
import re
import tempfile
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from s3proxy.cache.manager import CacheManager
from s3proxy.cache.settings import CacheSettings
from s3proxy.config.model import Cache, Config
from s3proxy.gateway.interfaces import ClientGone, IClientRequest
from s3proxy.gateway.pipeline import Accounts, Gateway
from s3proxy.gateway.transaction import Parts
from s3proxy.policy.rules import Rules
from s3proxy.s3.headers import Headers
from s3proxy.storage.disk import open_store
from s3proxy.storage.generations import GenerationTable
from s3proxy.storage.hostmemory import HostMemory
from s3proxy.telemetry.record import RequestRecord
from s3proxy.upstream.interfaces import IUpstream, IUpstreamResponse, UpstreamError, UpstreamRequest
from s3proxy.util.streams import IByteSink
from test.support.streams import ScriptedSource, run_at_once

__all__ = ["FakeClient", "FakeResponse", "FakeUpstream", "GatewayHarness"]

NOW = 1_700_000_000.0
HOST = b"bucket.s3.us-east-1.amazonaws.com"


@implementer(IClientRequest)
class FakeClient:
    """One request, and what was answered.

    :ivar answer: the body so far
    :ivar ended: None, "finished" or "aborted"
    :ivar stalled: while set, the client takes nothing: files wait, and so does who asks for room
    """

    def __init__(
        self,
        method: bytes,
        target: bytes,
        headers: dict[bytes, bytes] | None = None,
        body: bytes | None = None,
        address: str = "192.0.2.1",
    ) -> None:
        self.method = method
        self.target = target
        self.version = b"HTTP/1.1"
        pairs = [(b"Host", HOST), *((headers or {}).items())]
        self.headers = Headers(dict((name.lower(), (name, value)) for name, value in pairs).values())
        self.body_length: int | None = 0 if body is None else len(body)
        self.body = ScriptedSource()
        self.client_address = address
        self.listener = "proxy"
        self.tls = ""
        self.cipher_suite = ""
        self.received_at = 0.0
        self.body_bytes_sent = 0
        self.first_byte_at: float | None = None
        self.status: int | None = None
        self.reason = b""
        self.answer_headers = Headers()
        self.length: int | None = None
        self.answer = b""
        self.ended: str | None = None
        self.stalled = False
        self._waiting: list[tuple[Deferred[None], Callable[[], None]]] = []
        self._gone: list[Deferred[None]] = []

    def header(self, name: bytes) -> bytes | None:
        """A field of the answer."""
        return self.answer_headers.get(name)

    def when_gone(self) -> "Deferred[None]":
        waiter: Deferred[None] = Deferred()
        self._gone.append(waiter)
        return waiter

    def start_response(
        self, status: int, reason: bytes, headers: list[tuple[bytes, bytes]], length: int | None
    ) -> None:
        assert self.status is None, "the answer was begun twice"
        self.status, self.reason, self.length = status, reason, length
        self.answer_headers = Headers(headers)
        self.first_byte_at = 0.0

    def write(self, data: bytes) -> "Deferred[None] | None":
        assert self.status is not None
        if self.ended is not None:
            return fail(ClientGone("gone"))
        self._take(data)
        return self._later(lambda: None) if self.stalled else None

    def send_file(self, fd: int, offset: int, count: int, hot: bool = False) -> "Deferred[None]":
        assert self.status is not None
        if self.ended is not None:
            return fail(ClientGone("gone"))

        def read() -> None:
            data = os.pread(fd, count, offset)
            assert len(data) == count, "the file is shorter than promised"
            self._take(data)

        if not self.stalled:
            read()
            return succeed(None)
        return self._later(read)

    def _later(self, act: Callable[[], None]) -> "Deferred[None]":
        done: Deferred[None] = Deferred()
        self._waiting.append((done, act))
        return done

    def _take(self, data: bytes) -> None:
        self.answer += data
        self.body_bytes_sent += len(data)

    def unstall(self) -> None:
        """The client reads again."""
        self.stalled = False
        while self._waiting:
            done, act = self._waiting.pop(0)
            act()
            done.callback(None)

    def take_one(self) -> None:
        """A stalled client takes the one piece that waits for it."""
        done, act = self._waiting.pop(0)
        act()
        done.callback(None)

    def leave(self) -> None:
        """The client closes its connection."""
        self.ended = "left"
        waiting, self._waiting = self._waiting, []
        for done, _ in waiting:
            done.errback(Failure(ClientGone("gone")))
        for waiter in self._gone:
            waiter.callback(None)

    def finish(self) -> None:
        assert self.ended is None
        bodiless = self.method == b"HEAD" or self.status in (204, 304)
        if self.length is not None and not bodiless:
            assert len(self.answer) == self.length, (len(self.answer), self.length)
        self.ended = "finished"

    def abort(self) -> None:
        if self.ended is None:
            self.ended = "aborted"


@implementer(IUpstreamResponse)
class FakeResponse(ScriptedSource):
    """S3's answer, as the test wants it. ``body`` is delivered at once when the answer is started; None: the test
    delivers it.
    """

    def __init__(
        self,
        status: int = 200,
        headers: dict[bytes, bytes] | None = None,
        body: bytes | None = b"",
        length: int | None = None,
        claimed: int | None = None,
    ) -> None:
        super().__init__()
        self.status = status
        self.reason = b"Reason"
        self.headers = Headers((headers or {}).items())
        self.whole = body
        self.length = length if length is not None else (None if body is None else len(body))
        self.claimed_length = claimed if claimed is not None else self.length
        self.address = "198.51.100.1:443"
        self.sent_at = 0.0
        self.head_at = 0.01

    def start(self, sink: IByteSink) -> None:
        super().start(sink)
        if self.aborted:
            return
        if self.whole is not None:
            if self.whole:
                sink.data_received(self.whole)
            sink.stream_ended()


@attrs.define
class Asked:
    """A request that reached S3."""

    request: UpstreamRequest
    deferred: "Deferred[IUpstreamResponse]"
    cancelled: bool = False

    def header(self, name: bytes) -> bytes | None:
        """A field of the request."""
        return self.request.headers.get(name)

    def respond(self, response: FakeResponse) -> FakeResponse:
        """S3 answers."""
        self.deferred.callback(response)
        return response

    def fail(self, error: UpstreamError) -> None:
        """S3 does not answer."""
        if self.request.body is not None:
            self.request.body.abort()
        self.deferred.errback(Failure(error))


@implementer(IUpstream)
class FakeUpstream:
    """S3, played by the test.

    :ivar asked: every request so far
    :ivar automatic: answers requests without the test's further doing
    """

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.automatic: Callable[[UpstreamRequest], FakeResponse] | None = None

    def request(self, request: UpstreamRequest) -> "Deferred[IUpstreamResponse]":
        def cancelled(_: Any) -> None:
            asked.cancelled = True
            if request.body is not None:
                request.body.abort()

        asked = Asked(request, Deferred(cancelled))
        self.asked.append(asked)
        if self.automatic is not None:
            asked.respond(self.automatic(request))
        return asked.deferred

    @property
    def last(self) -> Asked:
        """The latest request."""
        return self.asked[-1]


class CountingEvents:
    """The cache's events, counted."""

    def __init__(self) -> None:
        self.stored = 0
        self.declined = 0
        self.condemned = 0
        self.invalidations = 0
        self.errors: list[BaseException] = []

    def entry_stored(self, size: int) -> None:
        self.stored += 1

    def entry_declined(self) -> None:
        self.declined += 1

    def fill_failed_verification(self) -> None:
        self.condemned += 1

    def invalidated(self) -> None:
        self.invalidations += 1

    def disk_failed(self, error: BaseException) -> None:
        self.errors.append(error)


class GatewayHarness:
    """Everything between a client and S3.

    :param memory: shared with other workers on the directory ``root``
    :ivar records: of the requests that have ended
    """

    def __init__(
        self,
        *,
        run: Callable[..., "Deferred[Any]"] = run_at_once,
        max_requests: int = 100,
        max_size: int = 1 << 30,
        memory: HostMemory | None = None,
        root: str | None = None,
        **cache: Any,
    ) -> None:
        self._directory = tempfile.TemporaryDirectory()
        self.root = root or os.path.join(self._directory.name, "cache")
        self._memory = memory
        self.clock = Clock()
        self.events = CountingEvents()
        self.records: list[RequestRecord] = []
        self.clients: list[FakeClient] = []
        self.upstream = FakeUpstream()
        self.config = Config(cache=Cache(**cache))
        self._run = run
        self._max_size = max_size
        self._max_requests = max_requests
        self.open()

    def open(self) -> None:
        """Start on the directory as it is: also what a restart does."""
        memory = self._memory
        generations = GenerationTable() if memory is None else memory.generations
        self.store = open_store(
            self.root, max_size=self._max_size, now=self.now, generations=generations, memory=memory
        )  # fmt: skip
        settings = self.config.cache
        self.cache = CacheManager(
            self.clock,
            self.store,
            generations,
            self._run,
            CacheSettings(
                max_cache_size=self._max_size,
                small_object_bytes=settings.small_object_bytes,
                keep_ratio=settings.partial_range_commit_ratio,
            ),
            now=self.now,
            events=self.events,
        )
        self.gateway = Gateway(
            self.clock,
            Parts(clock=self.clock, cache=self.cache, upstream=self.upstream, now=self.now),
            Rules(self.config),
            Accounts(started=lambda: None, finished=self.records.append),
            max_requests=self._max_requests,
            bypass_headers=settings.cache_bypass_headers_enabled,
        )

    def now(self) -> float:
        """Unix seconds of the harness."""
        return NOW + self.clock.seconds()

    def close(self) -> None:
        """Whoever still waits leaves; then the directory is removed."""
        for client in self.clients:
            if client.ended is None:
                client.leave()
        self.store.close()
        self._directory.cleanup()

    def send(
        self, method: bytes, target: bytes, headers: dict[bytes, bytes] | None = None, body: bytes | None = None
    ) -> FakeClient:
        """A client sends a request; its body is delivered by the test, or at once when S3 asks for it."""
        client = FakeClient(method, target, headers, body)
        self.clients.append(client)
        self.gateway.handle(client)
        return client

    def get(self, target: bytes = b"/key", **headers: bytes) -> FakeClient:
        """A GET; header names are given with underscores."""
        return self.send(b"GET", target, {name.replace("_", "-").encode(): value for name, value in headers.items()})

    def head(self, target: bytes = b"/key", **headers: bytes) -> FakeClient:
        """A HEAD; header names are given with underscores."""
        return self.send(b"HEAD", target, {name.replace("_", "-").encode(): value for name, value in headers.items()})

    def left_over(self) -> list[str]:
        """Files of the cache directory that belong to something under way."""
        found = []
        for folder, _, names in os.walk(self.root):
            found += [name for name in names if re.search(r"^[a-z2-7]{32}\.f$|^t\.", name)]
        return found
