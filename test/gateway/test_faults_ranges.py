"""Faults known from caches of this kind: ranges that are mixed, shifted, short or refused.

The ids are those of the table in doc/faults.md.
"""

from test.gateway.model_case import ModelTestCase, signed
from test.gateway.test_read import BODY, ReadTestCase, error, part
from test.support.gateway import FakeResponse

from twisted.python.failure import Failure

from s3proxy.s3.ranges import FromTo, parse_range
from s3proxy.upstream.interfaces import UpstreamUnreachable

OLD = bytes(range(253)) * 2000
NEW = OLD[::-1]
SIZE = len(OLD)
MIDDLE = (100_000, 400_000)
SIGNED = signed(b"range")


class MixtureTests(ModelTestCase):
    """The ends of an object are cached; then it changes, and somebody reads across."""

    settings = {"range_merge_gap_threshold": 0}

    def setUp(self) -> None:
        super().setUp()
        self.s3.put(b"key", OLD)
        self.exactly(self.read_range(0, MIDDLE[0]), OLD[: MIDDLE[0]], 206)
        self.exactly(self.read_range(MIDDLE[1], SIZE), OLD[MIDDLE[1] :], 206)

    def across(self, **headers: bytes) -> None:
        """Read from one cached end to the other, and all: one version, the one that S3 has."""
        self.s3.put(b"key", NEW, b'"v2"')
        self.exactly(self.read_range(50_000, 450_000, **headers), NEW[50_000:450_000], 206, b'"v2"')
        self.exactly(self.harness.get(**headers), NEW, etag=b'"v2"')
        self.exactly(self.read_range(0, 100), NEW[:100], 206, b'"v2"')

    def test_rg01_changed_object(self) -> None:
        """RG-01, RG-03: no answer has bytes of two versions, and S3's refusal of a condition that is the proxy's own
        does not reach the client.
        """
        self.across()

    def test_rg01_changed_object_whole(self) -> None:
        """RG-01, RG-03: the same for who asks for all of it first."""
        self.s3.put(b"key", NEW, b'"v2"')
        self.exactly(self.harness.get(), NEW, etag=b'"v2"')

    def test_rg02_condition_ignored(self) -> None:
        """RG-02: the same at a store that does not look at If-Match: the answer's own tag counts."""
        self.s3.ignores = frozenset({b"if-match"})
        self.across()

    def test_rg01_signed(self) -> None:
        """RG-01: the same for requests whose Range must not be touched."""
        self.across(authorization=SIGNED)

    def test_rg18_signed_range(self) -> None:
        """RG-18: a signed Range reaches S3 as it is, although most of its bytes are here."""
        client = self.harness.get(range=b"bytes=50000-449999", authorization=SIGNED)
        self.exactly(client, OLD[50_000:450_000], 206)
        self.assertEqual([read.wanted for read in self.s3.reads[2:]], [b"bytes=50000-449999"])
        client = self.harness.get(range=b"bytes=50000-449999", authorization=SIGNED)
        self.exactly(client, OLD[50_000:450_000], 206)
        self.is_hit(client)

    def test_rg18_no_range_is_added_to_a_signature_that_has_one(self) -> None:
        """RG-18: nor is one added where the signature covers a Range that was not sent."""
        client = self.harness.get(authorization=SIGNED)
        self.exactly(client, OLD)
        self.assertEqual([read.wanted for read in self.s3.reads[2:]], [None])

    def test_rg19_gaps_only(self) -> None:
        """RG-19: of an object that is partly here S3 is asked for the rest only; the client, who sent no Range, gets a
        200.
        """
        self.s3.reads.clear()
        client = self.harness.get()
        self.exactly(client, OLD)
        self.assertIsNone(client.header(b"content-range"))
        self.assertEqual(self.s3.asked_intervals(), [MIDDLE])
        self.assertEqual([read.pinned for read in self.s3.reads], [b'"v1"'])
        self.is_hit(self.harness.get())

    def test_rg10_range_ignored(self) -> None:
        """RG-10: a store that answers the question for a gap with the whole object costs traffic, not a wrong byte."""
        self.s3.ignores = frozenset({b"range"})
        client = self.harness.get()
        self.exactly(client, OLD)
        self.exactly(self.read_range(50_000, 450_000), OLD[50_000:450_000], 206)

    def test_rg04_file_that_vanished(self) -> None:
        """RG-04: what is missing when it comes to reading is fetched, whatever was known of it before."""
        self.exactly(self.read_range(*MIDDLE), OLD[slice(*MIDDLE)], 206)
        self.is_hit(self.read_range(0, SIZE))
        names = [path for path in self.files() if path.stat().st_size > 1000]
        self.assertEqual(len(names), 3)
        for path in names:
            self.restart()
            self.harness.get(range=b"bytes=0-0"), self.harness.get(range=b"bytes=%d-" % (SIZE - 1))
            path.unlink()
            self.exactly(self.read_range(10, SIZE - 10), OLD[10 : SIZE - 10], 206)
            self.exactly(self.harness.get(), OLD)


class OnePermitTests(ModelTestCase):
    """The least that a request can get by with."""

    def test_rg05_repair(self) -> None:
        """RG-05: mending a damaged entry needs nothing that the request does not hold already: one permit is enough."""
        self.s3.put(b"key", OLD)
        self.harness.gateway._max_requests = 1
        self.exactly(self.read_range(0, 200_000), OLD[:200_000], 206)
        max(self.files(), key=lambda path: path.stat().st_size).write_bytes(b"damaged")
        self.restart()
        self.harness.gateway._max_requests = 1
        self.exactly(self.read_range(0, 200_000), OLD[:200_000], 206)


class AnswerTests(ReadTestCase):
    """What S3 answers to a Range counts, not what was asked."""

    def test_rg07_head_with_a_range(self) -> None:
        """RG-07: the length that a HEAD with a Range tells is not the object's."""
        client = self.harness.head(range=b"bytes=0-99")
        fields = {b"ETag": b'"v1"', b"Content-Range": b"bytes 0-99/1024"}
        self.asks(1).respond(FakeResponse(206, fields, b"", length=0, claimed=100))
        self.assertEqual((client.status, client.length), (206, 100))
        client = self.harness.head()
        self.asks(2).respond(FakeResponse(200, {b"ETag": b'"v1"'}, b"", length=0, claimed=1024))
        self.assertEqual((client.status, client.length), (200, 1024))

    def test_rg08_kept_beginning(self) -> None:
        """RG-08: what is kept of a body that broke off is as long as it is, and its rest is asked for."""
        body = OLD[:200_000]
        client = self.harness.get(range=b"bytes=0-199999")
        response = self.asks(1).respond(part(0, 200_000, OLD, deliver=False))
        response.sink.data_received(body[:120_000])
        response.sink.stream_failed(Failure(UpstreamUnreachable("reset", sent=True)))
        while client.ended is None:
            self.upstream.last.fail(UpstreamUnreachable("down"))
        self.assertEqual(client.ended, "aborted")
        self.upstream.asked.clear()
        self.served(self.harness.get(range=b"bytes=0-119999"), b"HIT", body[:120_000], 206)
        tail = self.harness.get(range=b"bytes=100000-199999")
        asked = self.asks(1)
        spec = parse_range(asked.header(b"range") or b"")
        assert isinstance(spec, FromTo)
        asked.respond(part(spec.first, 200_000, OLD))
        self.assertEqual((tail.status, tail.ended), (206, "finished"))
        self.assertTrue(tail.answer == OLD[100_000:200_000])

    def test_rg09_fewer_bytes(self) -> None:
        """RG-09: S3 may give less than was asked for: the client is told what it gets, and nothing else is held."""
        client = self.harness.get(range=b"bytes=0-99")
        self.asks(1).respond(part(0, 50))
        self.served(client, b"MISS", BODY[:50], 206)
        self.assertEqual(client.header(b"content-range"), b"bytes 0-49/1024")
        self.served(self.harness.get(range=b"bytes=0-49"), b"HIT", BODY[:50], 206)
        client = self.harness.get(range=b"bytes=50-99")
        self.asks(2).respond(part(50, 100))
        self.served(client, b"MISS", BODY[50:100], 206)

    def test_rg09_other_bytes(self) -> None:
        """RG-09: nor are bytes from another place taken for those that were asked for."""
        client = self.harness.get(range=b"bytes=100-199")
        self.asks(1).respond(part(500, 600))
        self.assertEqual(client.header(b"content-range"), b"bytes 500-599/1024")
        self.served(self.harness.get(range=b"bytes=500-599"), b"HIT", BODY[500:600], 206)
        self.harness.get(range=b"bytes=100-199")
        self.asks(2)

    def test_rg14_beyond_the_end(self) -> None:
        """RG-14: a range that goes beyond the end ends there, cold and cached."""
        for outcome in (b"MISS", b"HIT"):
            client = self.harness.get(range=b"bytes=0-52428799")
            if outcome == b"MISS":
                self.asks(1).respond(part(0, 10, b"0123456789"))
            self.served(client, outcome, b"0123456789", 206)
            self.assertEqual(client.header(b"content-range"), b"bytes 0-9/10")
        self.asks(1)

    def test_rg15_huge_numbers(self) -> None:
        """RG-15: numbers of any length are numbers."""
        self.cached()
        for last in (b"18446744073709551615", b"9" * 40, b"%d" % 2**63):
            self.served(self.harness.get(range=b"bytes=0-" + last), b"HIT", BODY, 206)
        self.assertEqual(self.upstream.asked, [])
        client = self.harness.get(range=b"bytes=%s-" % (b"9" * 40))
        if self.upstream.asked:
            self.upstream.last.respond(error(416, b"InvalidRange"))
        self.assertEqual(client.status, 416)

    def test_rg23_another_length(self) -> None:
        """RG-23: one tag with two lengths is a fault of the store: neither length is believed any longer."""
        self.harness.get(range=b"bytes=0-99")
        self.asks(1).respond(part(0, 100))
        doubled = BODY * 2
        client = self.harness.get(range=b"bytes=100-199")
        self.asks(2).respond(part(100, 200, doubled))
        self.served(client, b"MISS", doubled[100:200], 206)
        client = self.harness.get(range=b"bytes=0-99")
        self.asks(3).respond(part(0, 100, doubled))
        self.served(client, b"MISS", doubled[:100], 206)

    def test_rg24_without_content_range(self) -> None:
        """RG-24: a 206 that does not say where its bytes belong, or contradicts itself, is passed on and forgotten."""
        for number, value in enumerate((None, b"bytes 0-999/1024", b"bytes */1024", b"nonsense", b"bytes 0-99/50"), 1):
            for asked in (2 * number - 1, 2 * number):
                client = self.harness.get(range=b"bytes=0-99")
                response = part(0, 100)
                fields = [] if value is None else [(b"Content-Range", value)]
                response.headers = response.headers.without([b"content-range"]).adding(*fields)
                self.asks(asked).respond(response)
                self.assertEqual((client.status, client.answer, client.ended), (206, BODY[:100], "finished"))
        client = self.harness.get(range=b"bytes=0-99")
        self.upstream.last.respond(part(0, 100))
        self.served(client, b"MISS", BODY[:100], 206)
        self.served(self.harness.get(range=b"bytes=0-99"), b"HIT", BODY[:100], 206)


class ReadingTests(ModelTestCase):
    """Every way to name bytes."""

    def setUp(self) -> None:
        super().setUp()
        self.s3.put(b"key", OLD)

    def test_rg11_borders(self) -> None:
        """RG-11: a range across the border of two that were stored one after the other is whole."""
        borders = [0, 1000, 90_000, 90_001, 300_000, SIZE]
        for start, stop in zip(borders, borders[1:]):
            self.exactly(self.read_range(start, stop), OLD[start:stop], 206)
        asked = len(self.upstream.asked)
        for border in borders[1:-1]:
            for before, behind in ((1, 1), (border, 1), (1, SIZE - border), (700, 700)):
                start, stop = max(0, border - before), min(SIZE, border + behind)
                self.exactly(self.read_range(start, stop), OLD[start:stop], 206)
        self.exactly(self.harness.get(), OLD)
        self.asks(asked)

    def test_rg12_rg13_not_one_range(self) -> None:
        """RG-12, RG-13: what is not exactly one proper range is S3's to judge, cached or not; the client gets S3's very
        answer.
        """
        self.exactly(self.harness.get(), OLD)
        for value in (
            b"bytes=0-9,20-29",
            b"bytes=0-9, -5",
            b"bytes=0--1",
            b"bytes=-0",
            b"bytes=-",
            b"bytes=5-4",
            b"bytes=a-b",
            b"bytes=1-2-3",
            b"bytes 0-9",
            b"Bytes=0-9",
            b"items=0-9",
            b"",
        ):
            client = self.harness.get(range=value)
            self.assertEqual(self.upstream.last.header(b"range"), value)
            answer = self.s3(self.upstream.last.request)
            self.exactly(client, answer.whole or b"", answer.status)

    def test_rg16_suffixes(self) -> None:
        """RG-16: the last bytes of an object whose size is not known are asked of S3; afterwards they are here."""
        self.s3.put(b"small", OLD[:1000])
        for _ in range(2):
            for count in (1, 8, 1000, 5000):
                asked = len(self.upstream.asked)
                client = self.harness.get(b"/small", range=b"bytes=-%d" % count)
                self.exactly(client, OLD[:1000][-count:], 206)
                start = max(0, 1000 - count)
                self.assertEqual(client.header(b"content-range"), b"bytes %d-999/1000" % start)
                self.assertLessEqual(len(self.upstream.asked), asked + 1)
        self.is_hit(client)

    def test_rg16_cold_suffix_is_no_prefix(self) -> None:
        """RG-16: the last bytes of a cold object are not filed as its first ones."""
        self.exactly(self.harness.get(range=b"bytes=-8"), OLD[-8:], 206)
        self.exactly(self.read_range(0, 8), OLD[:8], 206)
        self.exactly(self.harness.get(range=b"bytes=%d-" % (SIZE - 100)), OLD[-100:], 206)

    def test_rg17_object_that_grew(self) -> None:
        """RG-17: who resumes a download beyond the size that was known gets the new bytes as soon as that size is not
        fresh any more; a fresh one is told as S3 tells it.
        """
        self.s3.put(b"log", OLD[:1000])
        self.exactly(self.harness.get(b"/log"), OLD[:1000])
        client = self.harness.get(b"/log", range=b"bytes=1000-")
        self.assertEqual((client.status, client.header(b"content-range")), (416, b"bytes */1000"))
        self.s3.put(b"log", OLD[:3000], b'"v2"')
        self.later()
        client = self.harness.get(b"/log", range=b"bytes=1000-")
        self.exactly(client, OLD[1000:3000], 206, b'"v2"')

    def test_rg17_conditions_come_first(self) -> None:
        """RG-17: a condition that says the object has changed is judged before the range is."""
        self.s3.put(b"log", OLD[:1000])
        self.exactly(self.harness.get(b"/log"), OLD[:1000])
        self.s3.put(b"log", OLD[:3000], b'"v2"')
        client = self.harness.get(b"/log", range=b"bytes=1000-", if_match=b'"v2"')
        self.exactly(client, OLD[1000:3000], 206, b'"v2"')
        client = self.harness.get(b"/log", range=b"bytes=9999-", if_none_match=b'"v2"')
        self.assertEqual(client.status, 304)

    def test_rg21_parts_of_all_sizes(self) -> None:
        """RG-21: parts have the bounds that S3 told, not equal shares, and only for the version that has them."""
        for etag, sizes in ((b'"v1"', (50_000, 70_000, 10_000, SIZE - 130_000)), (b'"v2"', (1, SIZE - 1))):
            self.s3.put(b"key", OLD, etag, parts=sizes)
            for _ in range(2):
                start = 0
                for number, size in enumerate(sizes, 1):
                    client = self.harness.get(b"/key?partNumber=%d" % number)
                    self.exactly(client, OLD[start : start + size], 206, etag)
                    bounds = b"bytes %d-%d/%d" % (start, start + size - 1, SIZE)
                    self.assertEqual(client.header(b"content-range"), bounds)
                    self.assertEqual(client.header(b"x-amz-mp-parts-count"), b"%d" % len(sizes))
                    start += size
            self.later()


class ConcurrencyTests(ModelTestCase):
    """Answers that overtake each other."""

    def test_rg22_two_versions_under_way(self) -> None:
        """RG-22: two ranges on their way belong to two versions: whoever reads afterwards gets one of them, the one
        that is current.
        """
        self.s3.put(b"key", OLD)
        self.s3.holding = True
        first = self.read_range(0, 200_000)
        self.s3.put(b"key", NEW, b'"v2"')
        second = self.read_range(200_000, 400_000)
        self.s3.holding = False
        bodies = self.s3.held()
        for response, body in reversed(bodies):
            response.sink.data_received(body)
            response.sink.stream_ended()
        self.harness.answer()
        self.exactly(first, OLD[:200_000], 206, b'"v1"')
        self.exactly(second, NEW[200_000:400_000], 206, b'"v2"')
        self.exactly(self.read_range(100_000, 300_000), NEW[100_000:300_000], 206, b'"v2"')
        self.exactly(self.harness.get(), NEW, etag=b'"v2"')

    def test_rg25_rg26_every_size(self) -> None:
        """RG-25, RG-26: a range of any size is a hit the second time, and every time after."""
        big = OLD * 8
        self.s3.put(b"big", big)
        start = 0
        for size in (1, 1000, 65_536, 65_537, 1 << 20, 2 << 20):
            for repeat in range(4):
                client = self.read_range(start, start + size, b"/big")
                self.exactly(client, big[start : start + size], 206)
                if repeat:
                    self.is_hit(client)
            start += size // 3 + 1
