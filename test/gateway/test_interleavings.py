"""Many clients, writes, failures and slow threads in random order; whatever happens, nobody gets a wrong byte, nobody
sees an older version than one that was acknowledged, and in the end nothing is left over.
"""

import errno
import os
import random
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.s3.ranges import From, FromTo, Suffix, parse_range, resolve
from s3proxy.storage.diskio import DiskBusy
from s3proxy.upstream.interfaces import UpstreamError, UpstreamTimeout, UpstreamUnreachable
from test.support.gateway import Asked, FakeClient, FakeResponse, GatewayHarness
from test.support.streams import ManualThread, RecordingSink

HISTORIES = int(os.environ.get("S3PROXY_TEST_HISTORIES", "6"))
"""Of each kind."""
KEYS = tuple(b"key%d" % number for number in range(12))
SIZES = (0, 900, 70_000, 120_000, 350_000, 350_000)


def body_of(key: bytes, version: int) -> bytes:
    """The bytes of one version; no two versions share any eight of them."""
    size = SIZES[(version * 7 + key[-1]) % len(SIZES)]
    return (b"%s.%04d|" % (key, version) * (size // 8 + 1))[:size]


class Jumble(ManualThread):
    """Threads that finish in any order, or refuse work."""

    def __init__(self, dice: random.Random, busy: float) -> None:
        super().__init__()
        self._dice = dice
        self._busy = busy

    def __call__(self, function: Callable[..., Any], *args: Any) -> "Deferred[Any]":
        if self._dice.random() < self._busy:
            return fail(DiskBusy(errno.EAGAIN, "busy"))
        return super().__call__(function, *args)

    def step(self) -> None:
        self._work.insert(0, self._work.pop(self._dice.randrange(len(self._work))))
        super().step()


class Reader:
    """A GET or HEAD, and what it may see."""

    def __init__(self, client: FakeClient, key: bytes, floor: int, refused: bool) -> None:
        self.client, self.key, self.floor, self.refused = client, key, floor, refused


class Writer:
    """A PUT, DELETE or list of deletions."""

    def __init__(self, client: FakeClient, keys: tuple[bytes, ...], body: bytes | None) -> None:
        self.client, self.keys, self.body = client, keys, body
        self.sent = 0
        self.ended = False
        self.committed: dict[bytes, int] = {}
        self.counted = False


class World:
    """A harness, an S3 with one counter of versions per key, and dice."""

    def __init__(self, seed: int, ttl: float, busy: float) -> None:
        self.dice = random.Random(seed)
        self.ttl = ttl
        self.thread = Jumble(self.dice, busy)
        self.harness = GatewayHarness(run=self.thread, get_ttl=ttl, head_ttl=ttl, small_object_bytes=1000)
        self.harness.store.cut = 100_000
        self.harness.store.inline_max = 100_000
        self.versions = {key: 1 for key in KEYS}
        self.deleted: set[tuple[bytes, int]] = set()
        self.floors = {key: 1 for key in KEYS}
        self.readers: list[Reader] = []
        self.writers: list[Writer] = []
        self.known = 0
        self.pending: list[tuple[Asked, Writer | None, RecordingSink]] = []
        self.ready: list[tuple[Asked, FakeResponse]] = []
        self.flowing: list[FakeResponse] = []
        self.responses: list[FakeResponse] = []

    # Clients.

    def read(self) -> None:
        key = self.dice.choice(KEYS[:3])
        headers: dict[bytes, bytes] = {}
        kind = self.dice.randrange(10)
        if kind < 4:
            first = self.dice.choice((0, 0, 500, 69_999, 99_990, 150_000))
            last = first + self.dice.choice((0, 99, 60_000, 200_000))
            headers[b"Range"] = self.dice.choice((b"bytes=%d-%d" % (first, last), b"bytes=%d-" % first, b"bytes=-5"))
            if self.dice.random() < 0.2:
                headers[b"If-Range"] = b'"%d"' % self.versions[key]
        if self.dice.random() < 0.15:
            headers[b"If-None-Match"] = b'"%d"' % self.dice.randint(1, self.versions[key])
        if self.dice.random() < 0.1:
            headers[b"x-amz-checksum-mode"] = b"ENABLED"
        if self.dice.random() < 0.1:
            headers[b"Cache-Control"] = b"no-cache"
        refused = self.dice.random() < 0.15
        if refused:
            headers[b"x-refused"] = b"1"
        method = b"HEAD" if self.dice.random() < 0.2 else b"GET"
        client = FakeClient(method, b"/" + key, headers)
        client.stalled = self.dice.random() < 0.1
        self.readers.append(Reader(client, key, self.floors[key], refused))
        self.harness.gateway.handle(client)
        self.collect()

    def write(self) -> None:
        kind = self.dice.randrange(8)
        keys = (self.dice.choice(KEYS[:3]),)
        if kind == 0:
            client, body = FakeClient(b"DELETE", b"/" + keys[0]), None
        elif kind == 1:
            keys = KEYS
            body = b"<Delete>%s</Delete>" % b"".join(b"<Object><Key>%s</Key></Object>" % key for key in keys)
            client = FakeClient(b"POST", b"/?delete", {}, body)
        else:
            body = b"new bytes"
            client = FakeClient(b"PUT", b"/" + keys[0], {}, body)
        writer = Writer(client, keys, body)
        self.writers.append(writer)
        self.harness.gateway.handle(client)
        self.collect(writer)

    def upload(self) -> None:
        """Some bytes of a body come from a client."""
        for writer in self.writers:
            source = writer.client.body
            if writer.body is None or source.sink is None or source.aborted or source.paused or writer.ended:
                continue
            if writer.client.ended is not None:
                continue
            if writer.sent < len(writer.body):
                step = self.dice.randint(1, len(writer.body) - writer.sent)
                source.sink.data_received(writer.body[writer.sent : writer.sent + step])
                writer.sent += step
            else:
                writer.ended = True
                source.sink.stream_ended()
            return

    def leave(self) -> None:
        alive = [each for each in (*self.readers, *self.writers) if each.client.ended is None]
        if alive:
            self.dice.choice(alive).client.leave()

    def unstall(self) -> None:
        for reader in self.readers:
            if reader.client.stalled and reader.client.ended is None and self.dice.random() < 0.5:
                reader.client.unstall()

    # S3.

    def collect(self, writer: Writer | None = None) -> None:
        """What has been sent to S3 since the last time."""
        new, self.known = self.harness.upstream.asked[self.known :], len(self.harness.upstream.asked)
        for asked in new:
            owner = None
            sink = RecordingSink()
            if asked.request.method not in (b"GET", b"HEAD"):
                owner = writer if writer is not None else self.owner(asked)
                if asked.request.body is not None:
                    asked.request.body.start(sink)
                else:
                    sink.ended = True
            self.pending.append((asked, owner, sink))

    def owner(self, asked: Asked) -> Writer:
        """Whose write this is: the sync ones are collected by their writer, the others wait for a thread."""
        for writer in self.writers:
            if writer.client.method == asked.request.method and writer.client.target == asked.request.target:
                return writer
        raise AssertionError("nobody's request")

    def process(self) -> None:
        """S3 takes a request: a write happens now, a read sees what there is now."""
        if not self.pending:
            return
        index = self.dice.randrange(len(self.pending))
        asked, writer, sink = self.pending[index]
        if asked.cancelled:
            self.pending.pop(index)
            return
        if writer is not None:
            if sink.ended is None:
                if asked.request.body._over:  # type: ignore[union-attr]
                    self.pending.pop(index)
                    asked.fail(UpstreamError("the body is over", sent=True))
                return
            self.pending.pop(index)
            if sink.ended is not True:
                asked.fail(UpstreamError("the body broke off", sent=True))
                return
            if self.dice.random() < 0.15:
                self.ready.append((asked, FakeResponse(403, {}, b"<Error><Code>AccessDenied</Code></Error>")))
                return
            for key in writer.keys:
                self.versions[key] += 1
                writer.committed[key] = self.versions[key]
                if writer.client.method != b"PUT":
                    self.deleted.add((key, self.versions[key]))
            if self.dice.random() < 0.1:
                asked.fail(UpstreamTimeout("silent", sent=True))
                return
            self.ready.append((asked, FakeResponse(200, {b"x-amz-id-2": b"w"}, b"<Result/>")))
            return
        self.pending.pop(index)
        self.ready.append((asked, self.answer(asked)))

    def answer(self, asked: Asked) -> FakeResponse:
        request = asked.request
        key = request.target[1:]
        version = self.versions[key]
        if b"x-refused" in request.headers:
            return FakeResponse(403, {}, b"<Error><Code>AccessDenied</Code></Error>")
        if self.dice.random() < 0.05:
            return FakeResponse(503, {}, b"<Error><Code>SlowDown</Code></Error>")
        if (key, version) in self.deleted:
            return FakeResponse(404, {}, b"<Error><Code>NoSuchKey</Code></Error>")
        etag = b'"%d"' % version
        headers = {b"ETag": etag, b"Last-Modified": b"Wed, 21 Oct 2015 07:28:00 GMT", b"Content-Type": b"a/b"}
        match = request.headers.get(b"if-match")
        if match is not None and match != etag:
            return FakeResponse(412, {}, b"<Error><Code>PreconditionFailed</Code></Error>")
        if request.headers.get(b"if-none-match") == etag:
            return FakeResponse(304, {b"ETag": etag}, b"")
        body = body_of(key, version)
        wanted = request.headers.get(b"range")
        if_range = request.headers.get(b"if-range")
        status = 200
        if wanted is not None and if_range in (None, etag):
            spec = parse_range(wanted)
            assert isinstance(spec, (FromTo, From, Suffix))
            interval = resolve(spec, len(body))
            if interval is None:
                return FakeResponse(416, {}, b"<Error><Code>InvalidRange</Code></Error>")
            headers[b"Content-Range"] = b"bytes %d-%d/%d" % (interval[0], interval[1] - 1, len(body))
            body, status = body[interval[0] : interval[1]], 206
        if b"x-amz-checksum-mode" in request.headers and status == 200:
            headers[b"x-amz-checksum-type"] = b"COMPOSITE"
        if request.method == b"HEAD":
            return FakeResponse(status, headers, b"", length=0, claimed=len(body))
        response = FakeResponse(status, headers, None, length=len(body))
        response.rest = body  # type: ignore[attr-defined]
        return response

    def respond(self) -> None:
        """The head of an answer arrives."""
        if self.ready:
            asked, response = self.ready.pop(self.dice.randrange(len(self.ready)))
            if not asked.cancelled:
                self.responses.append(response)
                if response.whole is None:
                    self.flowing.append(response)
                asked.respond(response)

    def refuse(self) -> None:
        """A request gets no answer."""
        reads = [entry for entry in self.pending if entry[1] is None and not entry[0].cancelled]
        if reads:
            entry = self.dice.choice(reads)
            self.pending.remove(entry)
            entry[0].fail(UpstreamUnreachable("down"))

    def flow(self, breaking: float = 0.05) -> None:
        """Some bytes of a body arrive, or its end, or it breaks off."""
        self.flowing = [response for response in self.flowing if not response.aborted]
        able = [response for response in self.flowing if response.sink is not None and not response.paused]
        if not able:
            return
        response: Any = self.dice.choice(able)
        if self.dice.random() < breaking / 2:
            self.flowing.remove(response)
            response.sink.stream_failed(Failure(UpstreamError("reset", sent=True)))
        elif response.rest:
            count = self.dice.choice((1, 400, 20_000, 50_000, 400_000))
            piece, response.rest = response.rest[:count], response.rest[count:]
            response.sink.data_received(piece)
        else:
            self.flowing.remove(response)
            response.sink.stream_ended()

    # The rest.

    def work(self) -> None:
        if self.thread.waiting:
            self.thread.step()

    def tick(self) -> None:
        self.harness.clock.advance(self.dice.choice((0.001, 0.01, 0.01, 1.0, 40.0)))

    def evict(self) -> None:
        self.harness.store.evictor.shrink(0)

    def note(self) -> None:
        """Which writes have been acknowledged."""
        self.collect()
        for writer in self.writers:
            if not writer.counted and writer.client.status == 200:
                writer.counted = True
                for key, version in writer.committed.items():
                    self.floors[key] = max(self.floors[key], version)

    def run(self, steps: int) -> None:
        actions: list[tuple[Callable[[], None], int]] = [
            (self.read, 20),
            (self.write, 2),
            (self.upload, 8),
            (self.process, 24),
            (self.respond, 24),
            (self.flow, 40),
            (self.work, 30),
            (self.tick, 6),
            (self.leave, 2),
            (self.unstall, 3),
            (self.refuse, 1),
            (self.evict, 1),
        ]
        calls, weights = zip(*actions)
        for call in self.dice.choices(calls, weights, k=steps):
            call()
            self.note()
            self.check()

    def drain(self) -> None:
        """Let everything come to its end."""
        quiet = 0
        for _ in range(20_000):
            self.note()
            busy = self.pending or self.ready or self.thread.waiting or self.flowing or self.harness.gateway.in_flight
            quiet = 0 if busy else quiet + 1
            if quiet == 3:
                break
            self.unstall()
            self.upload()
            self.process()
            self.respond()
            self.flow(0)
            self.work()
            self.harness.clock.advance(0.01)
        self.check()

    def check(self) -> None:
        """What every reader has got so far is of one version, and of none that is too old."""
        for reader in self.readers:
            client = reader.client
            if client.status not in (200, 206, 304):
                continue
            etag = client.header(b"etag")
            assert etag is not None
            version = int(etag.strip(b'"'))
            assert reader.floor <= version <= self.versions[reader.key], (reader.floor, version)
            assert (reader.key, version) not in self.deleted
            assert not (reader.refused and self.ttl == 0), "permission was shared"
            if client.status == 304 or client.method == b"HEAD":
                continue
            body = body_of(reader.key, version)
            if client.status == 206:
                start, stop = _interval(client.header(b"content-range") or b"", len(body))
                spec = parse_range(client.headers.get(b"range") or b"")
                assert isinstance(spec, (FromTo, From, Suffix))
                assert resolve(spec, len(body)) == (start, stop)
                body = body[start:stop]
            assert client.length == len(body)
            assert body.startswith(client.answer), (client.answer[:20], body[:20])
            assert client.ended != "finished" or client.answer == body


def _interval(content_range: bytes, size: int) -> tuple[int, int]:
    span, _, total = content_range.removeprefix(b"bytes ").partition(b"/")
    first, _, last = span.partition(b"-")
    assert int(total) == size
    return int(first), int(last) + 1


class InterleavingTests(SynchronousTestCase):
    """Random histories; the number in a test's name is its seed."""

    def history(self, seed: int, ttl: float, busy: float) -> None:
        world = World(seed, ttl, busy)
        self.addCleanup(world.harness.close)
        world.run(400)
        world.drain()
        harness = world.harness
        self.assertEqual({each.client.ended is None for each in (*world.readers, *world.writers)}, {False})
        self.assertEqual(harness.gateway.in_flight, 0)
        self.assertEqual([response.calls for response in world.responses if not response.calls], [])
        self.assertEqual(harness.cache.flights.current, {})
        self.assertEqual(harness.store.volume.live, set())
        harness.store.volume.empty_trash()
        self.assertEqual(harness.left_over(), [])
        self.assertEqual(len(harness.records), len(world.readers) + len(world.writers))
        for record in harness.records:
            if record.outcome != "ERROR" and record.status != 416:
                self.assertEqual(record.bytes_sent, record.bytes_from_cache + record.bytes_from_upstream, record)
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertEqual([error for error in harness.events.errors if type(error) is not DiskBusy], [])


def _add(name: str, ttl: float, busy: float) -> None:
    def make(seed: int) -> Callable[[InterleavingTests], None]:
        def test(self: InterleavingTests) -> None:
            self.history(seed, ttl, busy)

        test.__doc__ = f"A TTL of {ttl:g} s, and threads that refuse {busy:.0%} of the work."
        return test

    for seed in range(HISTORIES):
        setattr(InterleavingTests, f"test_{name}_{seed}", make(seed))


_add("fresh", 60.0, 0.0)
_add("always_ask", 0.0, 0.0)
_add("busy_disk", 60.0, 0.1)
