"""The fast lane: the same answers as on the other way, and nothing that it should have left alone."""

import os
import re
from collections.abc import Callable
from typing import Any

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.gateway.lane import MOST_ANSWERS, MOST_CALLERS, Lane
from s3proxy.policy.rules import Rules
from s3proxy.s3.signature import redact_target
from s3proxy.telemetry.accessline import CallerWords, LineFormatter
from s3proxy.telemetry.exit import Exit
from s3proxy.telemetry.metrics import Metrics
from s3proxy.telemetry.record import RequestRecord
from s3proxy.wire.channel import ClientChannel
from s3proxy.wire.glance import LONGEST_CONDITION, LONGEST_KEPT, Glancer
from s3proxy.wire.resource import CachingResource
from s3proxy.wire.site import CachingSite
from test.gateway.test_read import BODY, ok, part
from test.support.gateway import FakeResponse, GatewayHarness
from test.wire.harness import FakeTransport, FileTransport

HOST = b"bucket.s3.us-east-1.amazonaws.com"
SIGNATURE = (
    b"AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20231114/us-east-1/s3/aws4_request, "
    b"SignedHeaders=host;x-amz-date, Signature=" + b"0" * 64
)
LARGE = b"0123456789abcdef" * 10_000
EXAMPLES = int(os.environ.get("S3PROXY_TEST_EXAMPLES", "60"))
"""Examples of each property; raise it for a thorough run."""


def request(method: bytes = b"GET", target: bytes = b"/key", *fields: tuple[bytes, bytes], host: bytes = HOST) -> bytes:
    """A request as one piece."""
    lines = [b"%s %s HTTP/1.1" % (method, target), b"Host: " + host, *(b"%s: %s" % field for field in fields)]
    return b"\r\n".join([*lines, b"", b""])


class Lines:
    """An access log in memory. The ids of requests are taken out of its lines."""

    def __init__(self) -> None:
        self.format = LineFormatter(redact_target, log_requester=True)
        self.lines: list[bytes] = []

    def log(self, record: RequestRecord) -> None:
        self.append(self.format(record))

    def append(self, line: bytes) -> None:
        self.lines.append(re.sub(rb" [0-9A-F]{16} ", b" ID ", line))


_COUNTED = r's3proxy_(?!scrape|request_permit|cache_lookups_total\{tier="meta)\S+ (?!0\.0$)'


class Account:
    """An exit, and what comes out of it."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self.log = Lines()
        self.metrics = Metrics(CollectorRegistry(), seconds)
        self.exit = Exit(self.metrics, self.log)  # type: ignore[arg-type]

    def counted(self) -> list[str]:
        """Every series of the proxy's own that has a value, but those that tell how long the rendering took, and those
        in which the lane differs: it needs no permit, and looks for descriptions in its own way.
        """
        text = self.metrics.render_text().decode()
        return [line for line in text.splitlines() if re.match(_COUNTED, line)]


class LaneHarness:
    """Two listeners before one gateway, one of them with a lane."""

    def __init__(self, **cache: Any) -> None:
        self.gateway = GatewayHarness(**cache)
        self.account = Account(self.gateway.clock.seconds)
        self.lane = Lane(
            self.gateway.cache,
            Rules(self.gateway.config),
            self.account.exit,
            now=self.gateway.now,
            desk=self.gateway.gateway,
        )
        self.fast = self._site(self.lane)
        self.slow = self._site(None)
        self._channels: list[ClientChannel] = []

    def close(self) -> None:
        """All clients leave."""
        for channel in self._channels:
            channel.connectionLost()
        self.gateway.close()

    def _site(self, lane: Lane | None) -> CachingSite:
        return CachingSite(
            CachingResource(self.gateway.gateway.handle), self.gateway.clock, wall_clock=self.gateway.now, lane=lane
        )

    def fill(self, target: bytes, response: FakeResponse, **headers: bytes) -> None:
        """Read an object into the cache, with this answer of S3."""
        self.gateway.get(target, **headers)
        self.gateway.upstream.last.respond(response)

    def ask(self, data: bytes, lane: bool, files: bool = False) -> bytes:
        """What a new connection gets for these bytes, its request ids taken out.

        :param files: the connection can send files
        """
        transport: FakeTransport = FileTransport() if files else FakeTransport()
        self.connect(transport, lane).dataReceived(data)
        return without_ids(transport.value())

    def connect(self, transport: FakeTransport, lane: bool = True) -> ClientChannel:
        """A new connection."""
        channel: ClientChannel = (self.fast if lane else self.slow).buildProtocol(None)
        self._channels.append(channel)
        channel.makeConnection(transport)
        if isinstance(transport, FileTransport):
            channel.file_server = transport  # type: ignore[assignment]
            channel.sends_files = True
        return channel


def without_ids(answer: bytes) -> bytes:
    """Without what is never the same."""
    return re.sub(rb"x-amz-request-id: [0-9A-F]{16}", b"x-amz-request-id: ID", answer)


FIELDS = st.sampled_from(
    [
        (b"User-Agent", b"Boto3/1.44.5"),
        (b"user-agent", b"curl/7"),
        (b"Accept-Encoding", b"identity"),
        (b"Accept", b"*/*"),
        (b"X-Amz-Date", b"20231114T221320Z"),
        (b"Authorization", SIGNATURE),
        (b"Authorization", b"AWS AKID:signature"),
        (b"Authorization", b"AWS4-HMAC-SHA256 nonsense"),
        (b"Range", b"bytes=0-9"),
        (b"range", b"bytes=-5"),
        (b"Range", b"bytes=1000-"),
        (b"Range", b"bytes=5000-"),
        (b"Range", b"bytes=0-1,3-4"),
        (b"Range", b"bytes=x"),
        (b"x-amz-checksum-mode", b"ENABLED"),
        (b"x-amz-checksum-mode", b"none"),
        (b"If-None-Match", b'"v1"'),
        (b"if-none-match", b'W/"v1"'),
        (b"If-None-Match", b'"v0", "v1"'),
        (b"If-None-Match", b'"v2"'),
        (b"If-None-Match", b"*"),
        (b"If-Match", b'"v1"'),
        (b"If-Match", b'"v2"'),
        (b"If-Match", b""),
        (b"If-Range", b'"v1"'),
        (b"If-Modified-Since", b"Wed, 21 Oct 2015 07:28:00 GMT"),
        (b"If-Modified-Since", b"Wed, 01 Jan 2031 00:00:00 GMT"),
        (b"If-Modified-Since", b"yesterday"),
        (b"If-Unmodified-Since", b"Wed, 21 Oct 2015 07:28:00 GMT"),
        (b"if-unmodified-since", b"Wed, 01 Jan 2031 00:00:00 GMT"),
        (b"Cache-Control", b"no-cache"),
        (b"Pragma", b"no-cache"),
        (b"Connection", b"keep-alive"),
        (b"Connection", b"close"),
        (b"Content-Length", b"0"),
        (b"Content-Type", b"application/xml"),
        (b"x-amz-expected-bucket-owner", b"123456789012"),
        (b"x-amz-server-side-encryption-customer-algorithm", b"AES256"),
        (b"x-unknown", b"1"),
        (b"Referer", b"http://x/"),
        (b"Transfer-Encoding", b"chunked"),
    ]
)
TARGETS = st.sampled_from(
    [
        b"/key", b"/k%65y", b"/empty", b"/large", b"/part", b"/head", b"/absent", b"/key?x-id=GetObject",
        b"/key?x-id=HeadObject", b"/key?acl", b"/key?versionId=1", b"/key?partNumber=1", b"/sums", b"/", b"/a+b",
        b"http://bucket.s3.amazonaws.com/key", b"http://other.s3.amazonaws.com/key", b"*",
        b"/key?X-Amz-Signature=1",
    ]
)  # fmt: skip


class EquivalenceTests(SynchronousTestCase):
    """Lane and pipeline."""

    @settings(max_examples=EXAMPLES, deadline=None)
    @given(
        method=st.sampled_from([b"GET", b"HEAD", b"PUT", b"get"]),
        target=TARGETS,
        fields=st.lists(FIELDS, max_size=5),
        host=st.sampled_from([HOST, HOST.upper(), b"bucket.s3.amazonaws.com:80", b"", b"a b", b"127.0.0.1:9000"]),
        age=st.sampled_from([0.0, 1.5, 30.0, 59.0, 60.5, 100.0]),
        warm=st.booleans(),
        files=st.booleans(),
        judges=st.booleans(),
    )
    def test_same_answer(
        self,
        method: bytes,
        target: bytes,
        fields: list[tuple[bytes, bytes]],
        host: bytes,
        age: float,
        warm: bool,
        files: bool,
        judges: bool,
    ) -> None:
        """Whatever is asked in whatever state, an answer of the lane is that of the other way, byte for byte."""
        harness = LaneHarness(head_ttl=30.0, evaluate_conditions_from_cache=judges)
        try:
            self._compare(harness, request(method, target, *fields, host=host), age, warm, files)
        finally:
            harness.close()

    def _compare(self, harness: LaneHarness, data: bytes, age: float, warm: bool, files: bool = False) -> None:
        harness.fill(b"/key", ok())
        harness.fill(b"/empty", ok(b""))
        harness.fill(b"/large", ok(LARGE))
        harness.fill(b"/part", part(0, 100), range=b"bytes=0-99")
        harness.fill(b"/sums", ok(x_amz_checksum_crc64nvme=b"AAAAAAAAAAA="), x_amz_checksum_mode=b"ENABLED")
        harness.gateway.head(b"/head")
        harness.gateway.upstream.last.respond(ok(b""))
        harness.gateway.clock.advance(age)
        asked = len(harness.gateway.upstream.asked)
        if warm:
            harness.ask(data, lane=False)
        before = harness.lane.answered
        fast = harness.ask(data, lane=True, files=files)
        if harness.lane.answered == before:
            self.assertEqual(harness.account.log.lines, [])
            return
        slow = harness.ask(data, lane=False)
        self.assertEqual(fast, slow)
        self.assertEqual(len(harness.gateway.upstream.asked), asked)
        again = harness.ask(data, lane=True, files=files)
        self.assertEqual(fast, again)
        if not harness.account.log.lines:
            # It took its time, and was accounted like those that do.
            self.assertTrue(files)
            records = [attrs.evolve(record, request_id="") for record in harness.gateway.records[-3:]]
            self.assertEqual(records[0], records[1])
            self.assertEqual(records[1], records[2])
            self.assertTrue(records[0].closed)
            return
        other = Account(harness.gateway.clock.seconds)
        for _ in range(2):
            other.exit.started()
            other.exit.finished(harness.gateway.records[-1])
        self.assertEqual(harness.account.log.lines, other.log.lines)
        self.assertEqual(harness.account.counted(), other.counted())

    @settings(max_examples=EXAMPLES, deadline=None)
    @given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 3))
    def test_damaged_requests(self, noise: bytes, position: int, mode: int) -> None:
        """A request with a few wrong bytes in it gets from the lane what it gets elsewhere, or nothing."""
        data = request(b"GET", b"/key", (b"User-Agent", b"x"), (b"Authorization", SIGNATURE))
        position %= len(data)
        if mode == 0:
            data = data[:position] + noise[:3] + data[position:]
        elif mode == 1:
            data = data[:position] + data[position + 1 + len(noise) % 3 :]
        elif mode == 2:
            data = data[:position] + noise[:1] + data[position + 1 :]
        harness = LaneHarness()
        try:
            self._compare(harness, data, 1.0, True)
        finally:
            harness.close()


class GlanceTests(SynchronousTestCase):
    """What a glance finds."""

    @settings(max_examples=EXAMPLES * 5, deadline=None)
    @given(
        base=st.lists(FIELDS, max_size=5),
        changes=st.lists(st.tuples(st.integers(0, 6), FIELDS), max_size=3),
        target=TARGETS,
        noise=st.binary(max_size=3),
        position=st.integers(0, 600),
    )
    def test_next_request(
        self,
        base: list[tuple[bytes, bytes]],
        changes: list[tuple[int, tuple[bytes, bytes]]],
        target: bytes,
        noise: bytes,
        position: int,
    ) -> None:
        """Whatever came before it on the connection, a request is seen as it would be seen alone."""
        glancer = Glancer()
        last = glancer.glance(request(b"GET", b"/key", *base))
        fields = list(base)
        for index, field in changes:
            fields[index : index + 1] = [field]
        data = request(b"HEAD", target, *fields)
        position %= len(data)
        for following in (data, data[:position] + noise + data[position + len(noise) :]):
            alone = Glancer().glance(following)
            seen = glancer.glance(following, last)
            self.assertEqual(seen, alone)
            if seen is not None and last is not None and seen.caller is not None:
                self.assertIs(seen.caller, last.caller)

    def test_what_changes_between_requests_of_an_sdk(self) -> None:
        """Target, Range, date and signature are those of the request itself; the client stays known."""
        glancer = Glancer()
        signed = SIGNATURE[:-64] + b"f" * 64
        first = glancer.glance(request(b"GET", b"/1", (b"Range", b"bytes=0-1"), (b"Authorization", SIGNATURE)))
        assert first is not None
        first.caller = CallerWords(b"a", b"b", b"c")
        second = glancer.glance(request(b"HEAD", b"/2", (b"Range", b"bytes=2-3"), (b"Authorization", signed)), first)
        assert second is not None
        self.assertEqual((second.method, second.target, second.wanted), (b"HEAD", b"/2", b"bytes=2-3"))
        self.assertIs(second.caller, first.caller)
        other = SIGNATURE.replace(b"AKIAIOSFODNN7EXAMPLE", b"AKIAIOSFODNN7EXAMPLF")
        third = glancer.glance(request(b"GET", b"/1", (b"Range", b"bytes=0-1"), (b"Authorization", other)), second)
        assert third is not None
        self.assertEqual((third.access_key, third.caller), (b"AKIAIOSFODNN7EXAMPLF", None))
        broken = SIGNATURE[:-1] + b"g"
        self.assertIsNone(
            glancer.glance(request(b"GET", b"/1", (b"Range", b"bytes=0-1"), (b"Authorization", broken)), first)
        )

    def test_lines_that_the_parser_refuses_or_trims(self) -> None:
        """A name without a colon, blanks around a value and control bytes are left to the parser."""
        good = request(b"GET", b"/key", (b"User-Agent", b"x"), (b"Accept", b"*/*"))
        last = Glancer().glance(good)
        self.assertIsNotNone(last)
        for old, new in (
            (b"Accept: */*", b"Accept"),
            (b"User-Agent: x", b"User-Agent"),
            (b"User-Agent: x", b"User-Agent: x "),
            (b"User-Agent: x", b"User-Agent:  x"),
            (b"Accept: */*", b"Accept: \0"),
            (b"Accept: */*", b"Accept: a\nb"),
        ):
            data = good.replace(old, new)
            self.assertIsNone(Glancer().glance(data), new)
            self.assertIsNone(Glancer().glance(data, last), new)

    def test_long_heads_are_not_kept(self) -> None:
        """An idle connection holds no more than a little of its last request."""
        glance = Glancer().glance(request(b"GET", b"/key", (b"X-Amz-Security-Token", b"x" * LONGEST_KEPT)))
        assert glance is not None
        self.assertEqual(glance.lines, [])


class LargeTests(SynchronousTestCase):
    """Hits out of a file."""

    def setUp(self) -> None:
        self.harness = LaneHarness()
        self.addCleanup(self.harness.close)
        self.gateway = self.harness.gateway.gateway
        self.harness.fill(b"/large", ok(LARGE))
        self.harness.fill(b"/key", ok())
        self.harness.ask(request(target=b"/large"), lane=False)
        self.harness.ask(request(), lane=False)
        self.records = self.harness.gateway.records
        self.records.clear()
        self.transport = FileTransport()
        self.transport.holds = True
        self.channel = self.harness.connect(self.transport)

    def begin(self, *fields: tuple[bytes, bytes]) -> None:
        """Its head is sent, its body not yet."""
        self.channel.dataReceived(request(b"GET", b"/large", *fields))
        self.assertEqual(self.harness.lane.answered, 1)
        self.assertTrue(self.transport.value().endswith(b"\r\n\r\n"))

    def test_counts_until_its_end(self) -> None:
        """It has a permit, is in flight everywhere, and is accounted with its own times when all of it is sent."""
        self.begin((b"Range", b"bytes=16-70015"))
        self.assertEqual(self.gateway.in_flight, 1)
        self.assertEqual(self.harness.fast.requests_in_flight, 1)
        ((running, record),) = self.gateway.running
        self.harness.gateway.clock.advance(2)
        self.transport.send(50_000)
        self.assertEqual(running.body_bytes_sent, 50_000)
        self.assertEqual(self.records, [])
        self.harness.gateway.clock.advance(3)
        self.transport.send()
        self.assertEqual(self.records, [record])
        self.assertEqual((self.gateway.in_flight, self.harness.fast.requests_in_flight), (0, 0))
        self.assertEqual((record.first_byte_seconds, record.total_seconds), (0.0, 5.0))
        self.assertEqual((record.bytes_sent, record.bytes_from_cache, record.ending), (70_000, 70_000, "ok"))
        self.assertEqual(self.transport.value().partition(b"\r\n\r\n")[2], LARGE[16:70_016])

    def test_later_requests_wait(self) -> None:
        """They are answered in their turn, on either way."""
        self.begin()
        self.channel.dataReceived(request())
        self.channel.dataReceived(request(b"GET", b"/key", (b"x-unknown", b"1")))
        self.assertTrue(self.transport.value().endswith(b"\r\n\r\n"))
        self.transport.send()
        _, head, body = self.transport.value().split(b"\r\n\r\n", 2)
        self.assertTrue(head.startswith(LARGE + b"HTTP/1.1 200 OK\r\n"))
        self.assertTrue(body.startswith(BODY + b"HTTP/1.1 200 OK\r\n"))
        self.channel.dataReceived(request(target=b"/large"))
        self.assertEqual(len(self.transport.spans), 1)

    def test_client_leaves(self) -> None:
        """What was sent until then is accounted, and the client's part in the end."""
        self.begin()
        self.transport.send(1000)
        self.channel.connectionLost(Failure(ConnectionLost()))
        self.transport.fail(ConnectionLost())
        (record,) = self.records
        self.assertEqual((record.bytes_sent, record.ending, record.outcome), (1000, "client_abort", "HIT"))
        self.assertEqual((self.gateway.in_flight, self.harness.fast.requests_in_flight), (0, 0))

    def test_stalled_client(self) -> None:
        """One that does not read is cut off."""
        self.begin()
        self.harness.gateway.clock.advance(1)
        for _ in range(self.harness.fast.limits.stall_timeout.__ceil__() + 2):
            self.harness.gateway.clock.advance(1)
        self.assertTrue(self.transport.aborted)
        self.assertEqual(self.harness.fast.counters.aborted, {"slow_reader": 1})

    def test_damaged_file(self) -> None:
        """A file that can't be read ends the connection, and the record says whose fault it was."""
        self.begin()
        self.transport.fail(OSError(5, "Input/output error"))
        self.assertTrue(self.transport.aborted)
        (record,) = self.records
        self.assertEqual((record.ending, record.outcome), ("upstream_abort", "ERROR"))
        self.assertEqual(self.gateway.in_flight, 0)

    def test_no_permit(self) -> None:
        """Without one it is turned away as everybody is."""
        self.gateway.reconfigure(Rules(self.harness.gateway.config), max_requests=1, bypass_headers=True)
        self.begin()
        other = self.harness.ask(request(target=b"/large"), lane=True, files=True)
        self.assertTrue(other.startswith(b"HTTP/1.1 503 "))
        self.assertEqual(self.harness.lane.answered, 1)
        self.transport.send()
        self.assertIn(LARGE, self.harness.ask(request(target=b"/large"), lane=True, files=True))

    def test_drained(self) -> None:
        """A listener that drains waits for it, then closes the connection."""
        self.begin()
        drained = self.harness.fast.drain()
        self.assertFalse(self.transport.disconnecting)
        self.transport.send()
        self.assertTrue(self.transport.disconnecting)
        self.channel.connectionLost()
        self.successResultOf(drained)

    def test_descriptor_is_closed(self) -> None:
        """Once, when the body is sent or the client has gone."""
        self.begin()
        fd = self.transport.spans[0][0]
        os.fstat(fd)
        self.transport.send()
        self.assertRaises(OSError, os.fstat, fd)

    def test_only_out_of_one_file(self) -> None:
        """What is in several files, or only partly there, takes the other way."""
        harness = self.harness
        harness.fill(b"/parts", part(0, 100), range=b"bytes=0-99")
        harness.fill(b"/parts", part(100, 200), range=b"bytes=100-199")
        answered = harness.lane.answered
        whole = harness.ask(request(b"GET", b"/parts", (b"Range", b"bytes=0-199")), lane=True, files=True)
        self.assertTrue(whole.endswith(BODY[:200]))
        self.assertEqual(harness.lane.answered, answered)
        within = harness.ask(request(b"GET", b"/parts", (b"Range", b"bytes=110-119")), lane=True, files=True)
        self.assertTrue(within.endswith(BODY[110:120]))
        self.assertEqual(harness.lane.answered, answered + 1)

    def test_uses_are_noted(self) -> None:
        """Of the file that is read."""
        touched: list[int] = []
        self.patch(self.harness.gateway.store, "touched", lambda name, start: touched.append(start))
        self.begin()
        self.transport.send()
        self.assertEqual(touched, [0])


class ConditionTests(SynchronousTestCase):
    """Conditions that the lane judges."""

    def setUp(self) -> None:
        self.harness = LaneHarness()
        self.addCleanup(self.harness.close)
        self.harness.fill(b"/key", ok())
        self.harness.ask(request(), lane=False)

    def status(self, *fields: tuple[bytes, bytes], method: bytes = b"GET") -> int | None:
        """What the lane answers; None: nothing."""
        before = self.harness.lane.answered
        answer = self.harness.ask(request(method, b"/key", *fields), lane=True)
        return int(answer[9:12]) if self.harness.lane.answered > before else None

    def test_not_modified(self) -> None:
        """A 304 has no body and no length; whoever states no condition gets a body as before."""
        self.assertEqual(self.status(), 200)
        self.assertEqual(self.status((b"If-None-Match", b'"v1"')), 304)
        self.assertEqual(self.status((b"If-None-Match", b'"v1"'), method=b"HEAD"), 304)
        self.assertEqual(self.status((b"If-Modified-Since", b"Wed, 01 Jan 2031 00:00:00 GMT")), 304)
        answer = self.harness.ask(request(b"GET", b"/key", (b"If-None-Match", b'"v1"')), lane=True)
        self.assertTrue(answer.startswith(b"HTTP/1.1 304 Not Modified\r\n"))
        self.assertTrue(answer.endswith(b"\r\n\r\n"))
        self.assertNotIn(b"Content-Length", answer)

    def test_conditions_left_to_s3(self) -> None:
        """Where the operator wants that, the lane judges none."""
        config = GatewayHarness(evaluate_conditions_from_cache=False)
        self.addCleanup(config.close)
        self.harness.lane.reconfigure(Rules(config.config))
        self.assertIsNone(self.status((b"If-None-Match", b'"v1"')))
        self.assertIsNone(self.status((b"If-Match", b'"v1"')))
        self.assertEqual(self.status(), 200)

    def test_conditions_that_hold(self) -> None:
        """They change nothing."""
        self.assertEqual(self.status((b"If-Match", b'"v1"')), 200)
        self.assertEqual(self.status((b"If-Match", b'"v1"'), (b"Range", b"bytes=0-1")), 206)
        self.assertEqual(self.status((b"If-Unmodified-Since", b"Wed, 01 Jan 2031 00:00:00 GMT")), 200)
        self.assertEqual(self.status((b"If-None-Match", b'"v2"')), 200)

    def test_what_only_s3_can_judge(self) -> None:
        """A condition that fails, a date that is none, the same field twice, a list that is long."""
        self.assertIsNone(self.status((b"If-Match", b'"v2"')))
        self.assertIsNone(self.status((b"If-Modified-Since", b"yesterday")))
        self.assertIsNone(self.status((b"If-None-Match", b'"v1"'), (b"If-None-Match", b'"v1"')))
        self.assertIsNone(self.status((b"If-None-Match", b'"' + b"v" * LONGEST_CONDITION + b'"')))

    def test_next_request(self) -> None:
        """Each request on a connection has the condition that it states."""
        transport = FakeTransport()
        channel = self.harness.connect(transport)
        for tag in (b'"v1"', b'"v2"', b'"v1"', b'"v3"'):
            channel.dataReceived(request(b"GET", b"/key", (b"If-None-Match", tag)))
        self.assertEqual(re.findall(rb"HTTP/1.1 (\d+)", transport.value()), [b"304", b"200", b"304", b"200"])
        self.assertEqual(self.harness.lane.answered, 4)


class LaneTests(SynchronousTestCase):
    """What the lane takes, and what it does not."""

    def setUp(self) -> None:
        self.harness = LaneHarness()
        self.addCleanup(self.harness.close)
        self.harness.fill(b"/key", ok())
        self.harness.ask(request(), lane=False)

    def takes(self, data: bytes) -> bool:
        before = self.harness.lane.answered
        self.harness.ask(data, lane=True)
        return self.harness.lane.answered > before

    def test_takes_hits(self) -> None:
        """Ordinary reads of small objects in memory, also ranges and HEAD."""
        self.assertTrue(self.takes(request()))
        self.assertTrue(self.takes(request(b"HEAD")))
        self.assertTrue(self.takes(request(b"GET", b"/key", (b"Range", b"bytes=5-9"), (b"Authorization", SIGNATURE))))
        self.assertTrue(self.takes(request(b"GET", b"/key?x-id=GetObject")))

    def test_body(self) -> None:
        """The body is that of the object."""
        self.assertTrue(self.harness.ask(request(), lane=True).endswith(b"\r\n\r\n" + BODY))
        ranged = self.harness.ask(request(b"GET", b"/key", (b"Range", b"bytes=5-9")), lane=True)
        self.assertTrue(ranged.endswith(b"\r\n\r\n" + BODY[5:10]))
        self.assertIn(b"Content-Range: bytes 5-9/1024", ranged)
        self.assertTrue(self.harness.ask(request(b"HEAD"), lane=True).endswith(b"Content-Length: 1024\r\n\r\n"))

    def test_age_and_date_move(self) -> None:
        """A kept head does not keep its time."""
        first = self.harness.ask(request(), lane=True)
        self.harness.gateway.clock.advance(3)
        self.harness.gateway.get(b"/key")
        second = self.harness.ask(request(), lane=True)
        self.assertIn(b"Age: 0\r\n", first)
        self.assertIn(b"Age: 3\r\n", second)
        self.assertIn(b"22:13:23 GMT", second)

    def test_date_and_age_move_in_their_own_time(self) -> None:
        """The date changes with the second, the age a whole number of seconds after the confirmation."""
        clock = self.harness.gateway.clock
        clock.advance(0.5)
        self.harness.fill(b"/half", ok())
        data = request(b"GET", b"/half")
        self.harness.ask(data, lane=False)
        seen = []
        for _ in range(12):
            clock.advance(0.2)
            answered = self.harness.lane.answered
            fast = self.harness.ask(data, lane=True)
            self.assertEqual(self.harness.lane.answered, answered + 1)
            self.assertEqual(fast, self.harness.ask(data, lane=False))
            seen.append(re.findall(rb":(\d\d) GMT\r\nETag|Age: (\d)", fast))
        self.assertGreater(len({str(each) for each in seen}), 3)

    def test_the_exit_hears_of_every_second(self) -> None:
        """Once, at the first hit in it."""
        seconds: list[float] = []
        clock = self.harness.gateway.clock
        self.patch(self.harness.account.exit, "second", lambda: seconds.append(clock.seconds()))
        for _ in range(9):
            self.assertTrue(self.takes(request()))
            self.assertTrue(self.takes(request(b"HEAD")))
            clock.advance(0.25)
        self.assertEqual(len(seconds), 3)

    def test_not_after_the_ttl(self) -> None:
        """The gate stands before the lane, too."""
        self.harness.gateway.clock.advance(61)
        self.harness.ask(request(b"GET", b"/other"), lane=False)
        self.assertFalse(self.takes(request()))

    def test_not_after_a_write(self) -> None:
        """An entry that was armed or dropped is no hit."""
        self.harness.gateway.send(b"DELETE", b"/key")
        self.assertFalse(self.takes(request()))
        self.harness.gateway.upstream.asked[1].respond(FakeResponse(204))
        self.assertFalse(self.takes(request()))

    def test_not_in_pieces(self) -> None:
        """A request that comes in pieces, or two at once, is parsed."""
        transport = FakeTransport()
        channel = self.harness.fast.buildProtocol(None)
        channel.makeConnection(transport)
        data = request()
        channel.dataReceived(data[:10])
        channel.dataReceived(data[10:])
        channel.dataReceived(data + data)
        self.assertEqual(self.harness.lane.answered, 0)
        self.assertEqual(transport.value().count(b"HTTP/1.1 200 OK"), 3)

    def test_order_on_a_connection(self) -> None:
        """A request for the lane waits for the answer before it."""
        transport = FakeTransport()
        channel = self.harness.fast.buildProtocol(None)
        channel.makeConnection(transport)
        channel.dataReceived(request(b"GET", b"/cold"))
        channel.dataReceived(request())
        self.assertEqual(transport.value(), b"")
        self.harness.gateway.upstream.last.respond(ok(b"cold"))
        self.assertLess(transport.value().index(b"cold"), transport.value().index(BODY))

    def test_new_settings(self) -> None:
        """A changed configuration counts at once."""
        config = GatewayHarness(get_ttl=0.0)
        self.addCleanup(config.close)
        self.assertTrue(self.takes(request()))
        self.harness.lane.reconfigure(Rules(config.config))
        self.assertFalse(self.takes(request()))

    def test_memory_is_bounded(self) -> None:
        """Neither targets nor spellings of header names are remembered without end."""
        glancer = Glancer()
        for number in range(3000):
            glancer.glance(request(b"GET", b"/key", (b"x-%d" % number, b"")))
            glancer.glance(request(b"GET", b"/key", (bytes(b"aCCEPT-lANGUAGE"[:7]) + b"-%d" % number, b"")))
        self.assertLess(len(glancer._names), 1100)

    def test_answers_and_callers_are_bounded(self) -> None:
        """Nor are the Ranges of an object or the names that clients give themselves."""
        for number in range(MOST_CALLERS + 10):
            agent = (b"User-Agent", b"%d" % number)
            self.assertTrue(self.takes(request(b"GET", b"/key", (b"Range", b"bytes=%d-" % (number % 100)), agent)))
        self.assertLessEqual(len(self.harness.lane._callers), MOST_CALLERS)
        (meaning,) = self.harness.lane._meanings.values()
        assert meaning is not None
        self.assertLessEqual(len(meaning.answers), MOST_ANSWERS)

    def test_long_targets_are_not_remembered(self) -> None:
        """No key is so long; what a client makes up must not fill the memory."""
        for number in range(50):
            self.harness.ask(request(target=b"/%d" % number + b"x" * 20_000), lane=True)
        self.assertEqual(self.harness.lane._meanings, {})

    def test_repeated_content_length(self) -> None:
        """More than one Content-Length, even if equal, is what the parser refuses."""
        data = request(b"GET", b"/key", (b"Content-Length", b"0"), (b"content-length", b"0"))
        self.assertFalse(self.takes(data))
        self.assertTrue(self.harness.ask(data, lane=True).startswith(b"HTTP/1.1 400 "))
