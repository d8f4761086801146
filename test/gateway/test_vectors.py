"""Vectors: requests, and what becomes of each of them, on the way through the gateway.

The ids are those of the table in doc/faults.md. Their pure forms are tested with the modules of s3proxy.s3.
"""

from datetime import datetime, timezone
from test.gateway.model_case import ModelTestCase, signed
from test.gateway.test_read import BODY, ReadTestCase, error, ok, part
from test.s3.table import add_rows
from test.support.gateway import FakeClient

from twisted.python.failure import Failure

from s3proxy.s3.ranges import parse_range, resolve
from s3proxy.upstream.interfaces import UpstreamUnreachable


class TagVectors(ReadTestCase):
    """V1: the object with the tag ``"abc"`` is cached and fresh."""

    def setUp(self) -> None:
        super().setUp()
        self.harness.get()
        self.asks(1).respond(ok(etag=b'"abc"'))
        self.upstream.asked.clear()

    def check(self, value: bytes, strong: bool, weak: bool, if_range: bool) -> None:
        """Where the cache can't say yes, S3 is asked, with the client's own condition."""
        client = self.harness.get(if_match=value)
        self.assertEqual(client.status, 200 if strong else None)
        client = self.harness.get(if_none_match=value)
        self.assertEqual((client.status, client.ended), (304 if weak else 200, "finished"))
        client = self.harness.get(if_range=value, range=b"bytes=0-9")
        self.assertEqual(client.status, 206 if if_range else None)
        sent = [asked.header(b"if-match") or asked.header(b"if-range") for asked in self.upstream.asked]
        self.assertEqual(sent, [value] * ((not strong) + (not if_range)))


add_rows(
    TagVectors,
    "V1",
    [
        (b'"abc"', True, True, True),
        (b"abc", True, True, False),
        (b'W/"abc"', False, True, False),
        (b"*", True, True, False),
        (b'"x", "abc"', True, True, False),
        (b'"a,b", "abc"', True, True, False),
        (b'"abc', False, False, False),
        (b"Wed, 01 Jan 2025 00:00:00 GMT", False, False, False),
    ],
    TagVectors.check,
)


class DirectiveVectors(ReadTestCase):
    """V2: the client's own cache directives, for an object that is cached and fresh."""

    def check(self, fields: dict[str, bytes], looks_up: bool, stores: bool) -> None:
        """A directive keeps the client from the entry, and no-store its answer from the cache; S3 gets them all."""
        self.cached()
        client = self.harness.get(**fields)
        if looks_up:
            self.served(client, b"HIT")
            return
        sent = [self.asks(1).header(name.replace("_", "-").encode()) for name in fields]
        self.upstream.last.respond(ok(b"new"))
        self.assertEqual((client.answer, client.ended), (b"new", "finished"))
        again = self.harness.get()
        if len(self.upstream.asked) == 2:
            self.upstream.last.respond(ok(b"new"))
        self.assertEqual(again.header(b"x-cache") == b"HIT" and again.answer == b"new", stores)
        self.assertTrue(all(value in (None, fields[name]) for name, value in zip(fields, sent)))


add_rows(
    DirectiveVectors,
    "V2",
    [
        ({"cache_control": b"no-cache"}, False, True),
        ({"cache_control": b"NO-CACHE"}, False, True),
        ({"cache_control": b" max-age=0 , no-cache "}, False, True),
        ({"cache_control": b"no-cache, no-store"}, False, False),
        ({"cache_control": b'no-cache="set-cookie"'}, False, True),
        ({"cache_control": b"max-age=0"}, True, True),
        ({"cache_control": b"max-age=60", "pragma": b"no-cache"}, False, True),
        ({"cache_control": b"no-store", "pragma": b"no-cache"}, False, False),
        ({"pragma": b"foo"}, True, True),
    ],
    DirectiveVectors.check,
)


class HostVectors(ReadTestCase):
    """V3: the Host field."""

    def good(self, value: bytes, host: str, port: int) -> None:
        """The request goes to that host and port."""
        self.harness.send(b"GET", b"/b/k", {b"Host": value})
        request = self.asks(1).request
        self.assertEqual((request.host, request.port, request.headers.get(b"host")), (host, port, value))

    def bad(self, value: bytes) -> None:
        """400, in S3's form, and nobody is asked."""
        client = self.harness.send(b"GET", b"/b/k", {b"Host": value})
        self.assertEqual((client.status, client.ended), (400, "finished"))
        self.assertIn(b"<Code>InvalidRequest</Code>", client.answer)
        self.assertEqual(self.upstream.asked, [])


add_rows(
    HostVectors,
    "V3",
    [
        (b"example.com", "example.com", 80),
        (b"example.com:8080", "example.com", 8080),
        (b"127.0.0.1:80", "127.0.0.1", 80),
        (b"[::1]", "::1", 80),
        (b"[::1]:8081", "::1", 8081),
        (b"[2001:db8::1]:443", "2001:db8::1", 443),
    ],
    HostVectors.good,
)
add_rows(
    HostVectors,
    "V3_bad",
    [(value,) for value in (b"", b"[::1", b"::1", b"a]b", b"host:", b"host:99999", b"host:http", b"[]")],
    HostVectors.bad,
)


class PresignedVectors(ReadTestCase):
    """V7: presigned requests at 2024-01-15T13:00:00Z for an object that is cached and fresh."""

    def setUp(self) -> None:
        super().setUp()
        moment = datetime(2024, 1, 15, 13, tzinfo=timezone.utc).timestamp()
        self.harness.clock.advance(moment - self.harness.now())
        self.cached()

    def target(self, date: bytes, expires: bytes) -> bytes:
        """A presigned GET."""
        return (
            b"/key?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AK%%2F20240115%%2Fus-east-1%%2Fs3%%2Faws4_request"
            b"&X-Amz-Date=%s&X-Amz-Expires=%s&X-Amz-SignedHeaders=host&X-Amz-Signature=%s" % (date, expires, b"0" * 64)
        )

    def check(self, date: bytes, expires: bytes, outcome: str) -> None:
        """Valid ones are served, expired ones refused as S3 does it; what is not understood is S3's to judge."""
        target = self.target(date, expires)
        client = self.harness.get(target)
        if outcome == "valid":
            self.served(client, b"HIT")
        elif outcome == "expired":
            self.assertEqual((client.status, client.ended), (403, "finished"))
            self.assertIn(b"<Code>AccessDenied</Code>", client.answer)
        else:
            self.assertEqual(self.asks(1).request.target, target)
            self.upstream.last.respond(error(400, b"AuthorizationQueryParametersError"))
            self.assertEqual(client.status, 400)
            self.served(self.harness.get(), b"HIT")
        self.assertEqual(len(self.upstream.asked), outcome == "forwarded")

    def test_v7_without_algorithm(self) -> None:
        """V7: without X-Amz-Algorithm it is no presigned request that could expire here; with the rest of one it is S3
        that judges it.
        """
        rest = self.target(b"20240115T120000Z", b"60").replace(b"X-Amz-Algorithm=AWS4-HMAC-SHA256&", b"")
        client = self.harness.get(rest)
        self.asks(1).respond(error(403, b"AccessDenied"))
        self.assertEqual(client.status, 403)
        self.served(self.harness.get(b"/key?X-Amz-Date=20240115T120000Z&X-Amz-Expires=60"), b"HIT")


add_rows(
    PresignedVectors,
    "V7",
    [
        (b"20240115T120000Z", b"3600", "valid"),
        (b"20240115T120000Z", b"3599", "expired"),
        (b"20240115T120000Z", b"604800", "valid"),
        (b"20240115T120000Z", b"604801", "forwarded"),
        (b"20240115T120000Z", b"0", "forwarded"),
        (b"20240115T120000Z", b"-1", "forwarded"),
        (b"20240115T120000Z", b"abc", "forwarded"),
        (b"20240115T1200Z", b"3600", "forwarded"),
        (b"19690101T000000Z", b"60", "forwarded"),
    ],
    PresignedVectors.check,
)


class LookUpTests(ModelTestCase):
    """V4: an object of 1000 bytes of which 0-99, 200-299 and 250-399 are held, read without a signature."""

    settings = {"range_merge_gap_threshold": 0}

    def setUp(self) -> None:
        super().setUp()
        self.body = BODY[:1000]
        self.s3.put(b"key", self.body)
        for start, stop in ((0, 100), (200, 300), (250, 400)):
            self.hold(start, stop)
        self.s3.reads.clear()

    def hold(self, start: int, stop: int) -> None:
        """Have these bytes in the cache; a signed Range is fetched whole although some of it is there."""
        self.exactly(self.read_range(start, stop, authorization=signed(b"range")), self.body[start:stop], 206)

    def check(self, wanted: bytes, *asked: tuple[int, int]) -> None:
        """Reading this range asks S3 for these bytes."""
        client = self.harness.get(range=b"bytes=" + wanted)
        interval = resolve(parse_range(b"bytes=" + wanted), 1000)  # type: ignore[arg-type]
        assert interval is not None
        self.exactly(client, self.body[slice(*interval)], 206)
        self.assertEqual(client.header(b"content-range"), b"bytes %d-%d/1000" % (interval[0], interval[1] - 1))
        self.assertEqual(self.s3.asked_intervals(), list(asked))

    def test_v4_slice(self) -> None:
        """V4: a slice of one extent."""
        self.check(b"10-20")

    def test_v4_overlapping_extents(self) -> None:
        """V4: two extents that overlap give each byte once."""
        self.check(b"200-399")

    def test_v4_one_gap(self) -> None:
        """V4: one gap is one request."""
        self.check(b"50-249", (100, 200))

    def test_v4_two_gaps(self) -> None:
        """V4: two gaps are two requests."""
        self.check(b"0-499", (100, 200), (400, 500))

    def test_v4_open_end(self) -> None:
        """V4: an open end ends with the object."""
        self.check(b"950-", (950, 1000))

    def test_v4_suffix(self) -> None:
        """V4: a suffix is counted from the end."""
        self.check(b"-50", (950, 1000))

    def test_v4_clamped(self) -> None:
        """V4: an end beyond the object is the object's."""
        self.check(b"990-2000", (990, 1000))

    def test_v4_outside(self) -> None:
        """V4: a range outside of the object can't be satisfied; the answer is S3's, or in S3's form while the size is
        fresh.
        """
        client = self.harness.get(range=b"bytes=1000-1001")
        self.assertEqual((client.status, client.ended), (416, "finished"))
        self.assertEqual(client.header(b"content-range"), b"bytes */1000")
        self.assertIn(b"<Code>InvalidRange</Code>", client.answer)

    def test_v4_at_once(self) -> None:
        """V4: 0-99 and 0-0 of a cold object at once are one request: any overlap is shared."""
        self.s3.put(b"cold", self.body)
        self.s3.holding = True
        wide, narrow = self.read_range(0, 100, b"/cold"), self.read_range(0, 1, b"/cold")
        self.s3.let_go()
        self.exactly(wide, self.body[:100], 206)
        self.exactly(narrow, self.body[:1], 206)
        self.assertEqual(self.s3.asked_intervals(), [(0, 100)])


class MergingLookUpTests(LookUpTests):
    """V4 with a threshold of 1 MiB: what lies between two gaps is fetched again with them."""

    settings = {"range_merge_gap_threshold": 1 << 20}

    def test_v4_two_gaps(self) -> None:
        """V4: two gaps are joined into one request."""
        self.check(b"0-499", (100, 500))


class SalvageTests(ReadTestCase):
    """V10: the bytes 100 to 199 are asked for, and S3's answer breaks off."""

    # A body that is held in memory until it is complete is kept whole or not at all.
    settings = {"partial_range_commit_ratio": 0.5, "small_object_bytes": 0}

    def check(self, received: int, kept: int) -> None:
        """So many bytes come, so many are kept."""
        client = FakeClient(b"GET", b"/key", {b"Range": b"bytes=100-199"})
        self.harness.gateway.handle(client)
        response = self.asks(1).respond(part(100, 200, deliver=False))
        if received:
            response.sink.data_received(BODY[100 : 100 + received])
        if received < 100:
            response.sink.stream_failed(Failure(UpstreamUnreachable("reset", sent=True)))
            while client.ended is None:
                self.upstream.last.fail(UpstreamUnreachable("down"))
            self.assertEqual(client.answer, BODY[100 : 100 + received])
        else:
            response.sink.stream_ended()
        self.upstream.asked.clear()
        self.assertEqual(self.harness.left_over(), [])
        if kept:
            client = self.harness.get(range=b"bytes=100-%d" % (99 + kept))
            self.served(client, b"HIT", BODY[100 : 100 + kept], 206)
        if kept < 100:
            self.harness.get(range=b"bytes=%d-%d" % (100 + kept, 100 + kept))
            self.asks(1)

    def test_v10_all(self) -> None:
        """V10: 100 of 100 bytes."""
        self.check(100, 100)

    def test_v10_half(self) -> None:
        """V10: 50 bytes are kept."""
        self.check(50, 50)

    def test_v10_less_than_half(self) -> None:
        """V10: 49 bytes are not."""
        self.check(49, 0)

    def test_v10_nothing(self) -> None:
        """V10: nor is nothing."""
        self.check(0, 0)


class SalvageAllTests(SalvageTests):
    """V10 with a ratio of 0: any beginning is kept."""

    settings = {"partial_range_commit_ratio": 0.0, "small_object_bytes": 0}

    def test_v10_less_than_half(self) -> None:
        """V10: 49 bytes are kept."""
        self.check(49, 49)


class SalvageNoneTests(SalvageTests):
    """V10 with a ratio of 1: nothing but the whole is kept."""

    settings = {"partial_range_commit_ratio": 1.0, "small_object_bytes": 0}

    def test_v10_half(self) -> None:
        """V10: 50 bytes are not kept."""
        self.check(50, 0)

    def test_v10_nearly_all(self) -> None:
        """V10: nor are 99."""
        self.check(99, 0)
