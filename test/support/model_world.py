"""Clients, the proxy's gateway, S3, threads and time in one hand: nothing moves unless the test says what.

:meth:`World.moves` lists what could happen next; the test picks. :meth:`World.settle` lets everything come to its end,
and :meth:`World.check_idle` tells whether anything was left over.
"""

import errno
import os
import shutil
from collections.abc import Callable
from typing import Any
from unittest import mock

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.logger import LogEvent, LogLevel, globalLogPublisher

from s3proxy.gateway.interfaces import ClientGone
from s3proxy.storage.diskio import DiskBusy
from s3proxy.upstream.interfaces import UpstreamError
from test.storage.support import finish_scan
from test.support.gateway import FakeClient, FakeResponse, GatewayHarness
from test.support.model import Content
from test.support.model_oracle import Oracle, Reader
from test.support.model_s3 import Exchange, ModelS3, S3Response
from test.support.streams import ManualThread, RecordingSink

__all__ = ["KEYS", "Limits", "ModelClient", "World", "Writer"]

KEYS = (b"a", b"b", b"c")
SILENCE = 30.0
"""Seconds after which the upstream side gives up."""
PATIENCE = 20
"""How often that may pass until everything has come to its end."""
PIECES = (100_000, 1, 700, 3000, 9000)
"""Bytes that come at once."""
ADDED = frozenset({b"range", b"if-match", b"if-none-match", b"referer"})
"""What the proxy may add to a client's request or change in it, where the signature leaves it."""


@attrs.frozen(kw_only=True)
class Limits:
    """Sizes at which the cache behaves differently, so small that objects of some kilobytes show all of it."""

    cut: int = 4096
    inline_max: int = 4096
    batch: int = 2000
    window: int = 8000
    worth_finishing: int = 3000


class ModelClient(FakeClient):
    """Tells the world what it gets."""

    world: "World"
    peer: "Reader | Writer"

    def start_response(
        self, status: int, reason: bytes, headers: list[tuple[bytes, bytes]], length: int | None
    ) -> None:
        if self.ended is not None:
            raise ClientGone("gone")
        super().start_response(status, reason, headers, length)
        self.world.answer_begins(self.peer)

    def _take(self, data: bytes) -> None:
        if isinstance(self.peer, Reader):
            self.world.oracle.judge_bytes(self.peer, len(self.answer), data)
        super()._take(data)

    def finish(self) -> None:
        super().finish()
        self.world.answer_ends(self.peer)

    def abort(self) -> None:
        cut = self.ended is None
        super().abort()
        if cut:
            self.world.answer_ends(self.peer)

    @property
    def takes_nothing(self) -> bool:
        """Whether something waits until it reads on."""
        return bool(self._waiting)

    def take_one(self) -> None:
        """It reads on a little."""
        done, act = self._waiting.pop(0)
        act()
        done.callback(None)


@attrs.define(eq=False, kw_only=True)
class Writer:
    """One PUT or DELETE through the proxy.

    :ivar content: None: a deletion
    :ivar index: of the version that it made, once S3 has acted
    """

    client: ModelClient
    key: bytes
    content: Content | None
    exchange: Exchange | None = None
    sink: RecordingSink = attrs.field(factory=RecordingSink)
    sent: int = 0
    index: int = 0


class Threads(ManualThread):
    """Finish in any order; ``refusals`` pieces of work are refused."""

    def __init__(self) -> None:
        super().__init__()
        self.refusals = 0

    def __call__(self, function: Callable[..., Any], *args: Any) -> "Deferred[Any]":
        if self.refusals:
            self.refusals -= 1
            return fail(DiskBusy(errno.EAGAIN, "busy"))
        return super().__call__(function, *args)

    def step_at(self, index: int) -> None:
        """Do this piece of work."""
        self._work.insert(0, self._work.pop(index))
        self.step()


class Harness(GatewayHarness):
    """Which can be killed."""

    def __init__(self, limits: Limits, **options: Any) -> None:
        self._limits = limits
        self._lives = 0
        super().__init__(**options)

    def open(self) -> None:
        super().open()
        self._lives += 1
        self.store.cut = self._limits.cut
        self.store.inline_max = self._limits.inline_max

    def snapshot(self) -> str:
        """The directory as a kill at this instant leaves it."""
        copy = f"{self._directory.name}/life{self._lives}"
        shutil.copytree(self.root, copy, symlinks=True)
        return copy


class World:
    """See the module.

    :param cache: settings of the configuration's section ``cache``
    :ivar moment: counts everything that clients or S3 can tell apart
    """

    def __init__(self, limits: Limits = Limits(), **cache: Any) -> None:
        self._patch = mock.patch.multiple(
            "s3proxy.cache.fill",
            BATCH=limits.batch,
            WINDOW=limits.window,
            WORTH_FINISHING=limits.worth_finishing,
        )
        self._patch.start()
        self._logged: list[str] = []
        globalLogPublisher.addObserver(self._log)
        self.threads = Threads()
        self.harness = Harness(limits, run=self._run, max_requests=100_000, **cache)
        self.moment = 1
        self.s3 = ModelS3(KEYS, self.harness.now)
        self.oracle = Oracle(self.s3)
        self.readers: list[Reader] = []
        self.writers: list[Writer] = []
        self.floors = dict.fromkeys(KEYS, 0)
        self.pending: list[Exchange] = []
        self.ready: list[tuple[Exchange, S3Response | UpstreamError]] = []
        self.flowing: list[S3Response] = []
        self.responses: list[FakeResponse] = []
        self._known = 0
        self._exchanges = 0
        self._unscanned = False

    def _run(self, function: Callable[..., Any], *args: Any) -> "Deferred[Any]":
        return self.threads(function, *args)

    def _log(self, event: LogEvent) -> None:
        if event["log_level"] >= LogLevel.error:
            failure = event.get("log_failure")
            text = "" if failure is None else failure.getTraceback()
            self._logged.append(f"{event.get('log_format')} {text}")

    def close(self) -> None:
        """Remove the directory."""
        globalLogPublisher.removeObserver(self._log)
        self._patch.stop()
        self.harness.close()

    def verify(self) -> None:
        """Nothing has happened that must not."""
        problems = self.oracle.problems + self._logged
        assert not problems, "\n".join(problems)

    # Clients.

    @property
    def live(self) -> list["Reader | Writer"]:
        """Whose answer is not over."""
        return [each for each in (*self.readers, *self.writers) if each.client.ended is None]

    def read(
        self,
        method: bytes,
        key: bytes,
        headers: dict[bytes, bytes],
        *,
        query: bytes = b"",
        part: int | None = None,
        always_ask: bool = False,
        stalled: bool = False,
    ) -> Reader:
        """A client sends a GET or HEAD.

        :param always_ask: only S3 can answer it
        """
        number = len(self.readers)
        target = b"/" + key + (b"?" + query if query else b"")
        client = ModelClient(method, target, {**headers, b"User-Agent": b"reader-%d" % number})
        client.stalled = stalled
        settings = self.harness.config.cache
        lifetime = settings.head_ttl if method == b"HEAD" else settings.get_ttl
        self.moment += 1
        reader = Reader(
            client=client,
            key=key,
            part=part,
            fields={name.lower(): value for name, value in headers.items()},
            started=(self.moment, self.harness.now()),
            floor=self.floors[key],
            lifetime=0.0 if always_ask else lifetime,
            stale=0.0 if always_ask or lifetime <= 0 else settings.stale_if_error,
        )
        client.world, client.peer = self, reader
        self.readers.append(reader)
        self.harness.gateway.handle(client)
        self.collect()
        return reader

    def write(self, key: bytes, content: Content | None) -> Writer:
        """A client sends a PUT, or, with None, a DELETE."""
        method = b"DELETE" if content is None else b"PUT"
        headers = {b"User-Agent": b"writer-%d" % len(self.writers)}
        client = ModelClient(method, b"/" + key, headers, None if content is None else content.body)
        writer = Writer(client=client, key=key, content=content)
        client.world, client.peer = self, writer
        self.writers.append(writer)
        self.harness.gateway.handle(client)
        self.collect()
        return writer

    def answer_begins(self, peer: "Reader | Writer") -> None:
        """A client has got a status."""
        if isinstance(peer, Reader):
            self.oracle.judge_head(peer)
        elif peer.client.status is not None and peer.client.status < 300:
            self.moment += 1
            self.floors[peer.key] = max(self.floors[peer.key], peer.index)

    def answer_ends(self, peer: "Reader | Writer") -> None:
        """A client has got everything, or its connection was cut."""
        if isinstance(peer, Reader):
            self.oracle.judge_end(peer)

    def overwrite(self, key: bytes, content: Content | None, same_second: bool = False) -> int:
        """Somebody writes to S3 without the proxy. The index of the new version."""
        self.moment += 1
        return self.s3.histories[key].write(content, self.moment, self.harness.now(), same_second).index

    # S3.

    def collect(self) -> None:
        """What has been sent to S3 since the last time."""
        asked_of = self.harness.upstream.asked
        new, self._known = asked_of[self._known :], len(asked_of)
        for asked in new:
            kind, _, number = (asked.header(b"user-agent") or b"").partition(b"-")
            owner: Reader | Writer = (self.readers if kind == b"reader" else self.writers)[int(number)]
            self._exchanges += 1
            exchange = Exchange(
                number=self._exchanges,
                asked=asked,
                owner=owner,
                key=owner.key,
                part=owner.part if isinstance(owner, Reader) else None,
                fields={name.lower(): value for name, value in asked.request.headers},
                sent=(self.moment, self.harness.now()),
            )
            self.pending.append(exchange)
            if isinstance(owner, Reader):
                owner.exchanges.append(exchange)
                self._compare(owner, exchange)
            else:
                owner.exchange = exchange
                if asked.request.body is None:
                    owner.sink.ended = True
                else:
                    asked.request.body.start(owner.sink)

    def _compare(self, reader: Reader, exchange: Exchange) -> None:
        """What the client signed reaches S3 as it was, and what it did not send is not made up."""
        client, request = reader.client, exchange.asked.request
        if (request.method, request.target) != (client.method, client.target):
            self.oracle.problems.append(f"{request.method!r} {request.target!r} sent for {reader!r}")
        signed = _signed_names(client)
        for name in client.headers.names() | request.headers.names():
            before, after = client.headers.get_all(name), request.headers.get_all(name)
            if before != after and (name in signed or name not in ADDED and not _is_dropped(name, before, after)):
                self.oracle.problems.append(f"{name!r} was {before} and became {after}: {reader!r}")

    def _process(self, exchange: Exchange) -> None:
        """S3 takes a request: a write happens now, a read sees what there is now."""
        self.pending.remove(exchange)
        if exchange.asked.cancelled:
            return
        self.moment += 1
        writer = exchange.owner
        if isinstance(writer, Reader):
            answer = self.s3.take(exchange)
            if isinstance(answer, UpstreamError) and "silent" in str(answer):
                self.harness.clock.callLater(SILENCE, self._fail_silent, exchange, answer)
            else:
                self.ready.append((exchange, answer))
        elif writer.sink.ended is True:
            history = self.s3.histories[writer.key]
            writer.index = history.write(writer.content, self.moment, self.harness.now()).index
            status = 204 if writer.content is None else 200
            self.ready.append((exchange, S3Response(status, {}, b"", version=history.current)))
        else:
            self.ready.append((exchange, UpstreamError("the body broke off", sent=True)))

    def _fail_silent(self, exchange: Exchange, error: UpstreamError) -> None:
        if not exchange.asked.cancelled:
            exchange.asked.fail(error)
            self.collect()

    def _respond(self, item: tuple[Exchange, S3Response | UpstreamError]) -> None:
        """The head of an answer arrives, or the news that none will."""
        self.ready.remove(item)
        exchange, answer = item
        if exchange.asked.cancelled:
            return
        if isinstance(answer, UpstreamError):
            exchange.asked.fail(answer)
            return
        exchange.answered = True
        if isinstance(exchange.owner, Reader):
            self.oracle.approved(exchange)
        self.responses.append(answer)
        self.flowing.append(answer)
        exchange.asked.respond(answer)

    def _flow(self, response: S3Response, count: int) -> None:
        """Some bytes of a body arrive, or its end, or it breaks off."""
        if response.flow(count):
            self.flowing.remove(response)
        elif response.stalled:
            self.flowing.remove(response)
            self.harness.clock.callLater(SILENCE, self._stop_waiting, response)

    def _stop_waiting(self, response: S3Response) -> None:
        if not response.aborted:
            response.give_up()
            self.collect()

    def _upload(self, writer: Writer, count: int) -> None:
        """Some bytes of a body come from a client, or its end."""
        source, content = writer.client.body, writer.content
        assert content is not None
        body = content.body
        if writer.sent < len(body):
            piece = body[writer.sent : writer.sent + count]
            writer.sent += len(piece)
            source.sink.data_received(piece)
        else:
            writer.sent += 1
            source.sink.stream_ended()

    # What can happen.

    def moves(self) -> list[Callable[[int], None]]:
        """Everything that could happen now, each for a number of bytes."""
        self.flowing = [response for response in self.flowing if not response.aborted]
        self.pending = [each for each in self.pending if not each.asked.cancelled]
        moves: list[Callable[[int], None]] = []
        for exchange in self.pending:
            if isinstance(exchange.owner, Reader) or exchange.owner.sink.ended is not None:
                moves.append(lambda count, exchange=exchange: self._process(exchange))
        for item in self.ready:
            moves.append(lambda count, item=item: self._respond(item))
        for response in self.flowing:
            if response.sink is not None and not response.paused:
                moves.append(lambda count, response=response: self._flow(response, count))
        for index in range(self.threads.waiting):
            moves.append(lambda count, index=index: self.threads.step_at(index))
        for writer in self.writers:
            if writer.client.ended is None and self._can_upload(writer):
                moves.append(lambda count, writer=writer: self._upload(writer, count))
        for peer in self.live:
            if peer.client.takes_nothing:
                moves.append(lambda count, client=peer.client: client.take_one())
        if any(call.getTime() - self.harness.clock.seconds() < 1 for call in self.harness.clock.getDelayedCalls()):
            moves.append(lambda count: self.harness.clock.advance(0.01))
        return moves

    def _can_upload(self, writer: Writer) -> bool:
        source, content = writer.client.body, writer.content
        if content is None or source.sink is None or source.aborted or source.paused:
            return False
        return writer.sent <= len(content.body)

    def move(self, choice: int) -> bool:
        """One of the moves happens; False if there is none."""
        moves = self.moves()
        if not moves:
            return False
        moves[choice % len(moves)](PIECES[choice // len(moves) % len(PIECES)])
        self.collect()
        return True

    def settle(self) -> None:
        """Everything that can happen without anybody's doing happens, until nothing is under way."""
        silences = 0
        for peer in self.live:
            peer.client.stalled = False
        for _ in range(50_000):
            self.collect()
            if self.move(0):
                continue
            if not self.live and not self.harness.cache.fills_in_flight and not self._forgotten():
                return
            silences += 1
            if silences > PATIENCE:
                break
            self.harness.clock.advance(SILENCE + 1)
        raise AssertionError(f"it does not come to its end: {self.live}, {self._forgotten()}")

    def _forgotten(self) -> list[Any]:
        """Bodies of S3 that nobody reads, and files in use."""
        return [response for response in self.responses if not response.calls or response in self.flowing]

    # Restarts.

    def restart(self, crash: bool, scan: bool) -> None:
        """The proxy ends, one way or the other, and a new one starts on its directory."""
        harness = self.harness
        copy = harness.snapshot() if crash else None
        for peer in self.live:
            if isinstance(peer, Reader):
                peer.excused = True
            peer.client.leave()
        harness.cache.break_off()
        self.threads.refusals = 0
        self.s3.forget_plans()
        self.settle()
        self.check_idle()
        harness.cache.end()
        harness.store.close()
        if copy is not None:
            harness.root = copy
        for call in harness.clock.getDelayedCalls():
            call.cancel()
        harness.open()
        if copy is not None:
            self._bury(copy)
            self._unscanned = True
        if scan:
            self.scan()

    def scan(self) -> None:
        """The walk over the directory, which finds what a crash has left."""
        finish_scan(self.harness.store)
        self._unscanned = False

    def _bury(self, root: str) -> None:
        """The processes of which the directory tells are dead."""
        own = f"{self.harness.store.volume.instance.number:015x}.hb"
        for name in os.listdir(f"{root}/inst"):
            if name != own:
                path = f"{root}/inst/{name}"
                with open(path, "r+b") as file:
                    data = file.read()
                    file.seek(0)
                    file.truncate()
                    file.write(data.replace(b'"start": "', b'"start": "x'))

    # The end.

    def check_idle(self) -> None:
        """Nothing is left of anything."""
        harness = self.harness
        self.verify()
        assert harness.gateway.in_flight == 0, f"{harness.gateway.in_flight} requests in flight"
        assert harness.cache._flights == {}, f"flights: {harness.cache._flights}"
        assert harness.cache.fills_in_flight == 0, f"{harness.cache.fills_in_flight} fills in flight"
        assert harness.store.volume.live == set(), f"live: {harness.store.volume.live}"
        assert harness.store.volume.ledger.in_flight == 0, f"{harness.store.volume.ledger.in_flight} bytes in flight"
        untouched = [response for response in self.responses if not response.calls]
        assert not untouched, f"answers that nobody took: {untouched}"
        if self._unscanned:
            self.scan()
        harness.store.volume.empty_trash()
        assert harness.left_over() == [], harness.left_over()
        assert len(harness.records) == len(self.readers) + len(self.writers)
        unknown = [error for error in harness.events.errors if type(error) not in (DiskBusy, FileNotFoundError)]
        assert not unknown, unknown
        open_files = _descriptors(harness.root)
        cached = len(harness.store.volume.handles)
        assert len(open_files) == cached, f"{cached} files are kept open, but there are {open_files}"


def _descriptors(root: str) -> list[str]:
    """Open files below a directory, removed ones too."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if path.startswith(root + "/"):
            found.append(path)
    return found


def _signed_names(client: FakeClient) -> frozenset[bytes]:
    authorization = client.headers.get(b"authorization") or b""
    listed = authorization.partition(b"SignedHeaders=")[2].partition(b",")[0]
    if not listed:
        listed = client.target.partition(b"X-Amz-SignedHeaders=")[2].partition(b"&")[0].replace(b"%3B", b";")
    return frozenset(listed.split(b";")) if listed else frozenset()


def _is_dropped(name: bytes, before: tuple[bytes, ...], after: tuple[bytes, ...]) -> bool:
    """Whether a field that is not signed was left out that may be: conditions that hold no more, and what concerned
    the cache.
    """
    return not after and (name.startswith(b"if-") or name in (b"cache-control", b"pragma"))


