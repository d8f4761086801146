"""Small unsigned ranges that a rule lets be read in whole pages."""

from s3proxy.policy.rules import Rules
from s3proxy.policy.rules_file import read_rules
from test.gateway.test_read import SIGNED_RANGE, ReadTestCase, error, not_modified, ok, part
from test.support.gateway import FakeClient

PAGE = 1000
BODY = bytes(range(256)) * 16
RULE = b'{"rules": [{"pattern": "bucket/*", "page_widening": true, "page_size": 1000}]}'


class PageReadTests(ReadTestCase):
    """Pages of 1,000 bytes, an object of 4,096."""

    settings: dict[str, object] = {"range_merge_gap_threshold": 0}

    def setUp(self) -> None:
        super().setUp()
        rules = Rules(self.harness.config, read_rules(RULE, 30.0).rules)
        self.harness.gateway.reconfigure(rules, max_requests=100, bypass_headers=True)

    def read(self, start: int, stop: int, **headers: bytes) -> FakeClient:
        """A client reads a range."""
        return self.harness.get(range=b"bytes=%d-%d" % (start, stop - 1), **headers)

    def ranges(self) -> list[bytes | None]:
        """The ranges that S3 was asked for."""
        return [asked.header(b"range") for asked in self.upstream.asked]

    def test_cold(self) -> None:
        """S3 is asked for the page, the client gets its bytes; what else is in the page is a hit."""
        client = self.read(1100, 1200)
        self.assertEqual(self.asks(1).header(b"range"), b"bytes=1000-1999")
        self.upstream.last.respond(part(1000, 2000, BODY))
        self.served(client, b"MISS", BODY[1100:1200], 206)
        self.assertEqual(client.header(b"content-range"), b"bytes 1100-1199/4096")
        self.served(self.read(1900, 2000), b"HIT", BODY[1900:2000], 206)

    def test_finished_although_the_client_has_all(self) -> None:
        """The client needs no more, but the page is fetched to its end."""
        client = self.read(1000, 1100)
        answer = self.asks(1).respond(part(1000, 2000, BODY, deliver=False))
        answer.sink.data_received(BODY[1000:1100])
        self.served(client, b"MISS", BODY[1000:1100], 206)
        answer.sink.data_received(BODY[1100:2000])
        answer.sink.stream_ended()
        self.assertFalse(answer.aborted)
        self.served(self.read(1500, 2000), b"HIT", BODY[1500:2000], 206)

    def test_two_readers_of_one_page(self) -> None:
        """Readers in the same page share one request."""
        first, second = self.read(1100, 1200), self.read(1300, 1400)
        self.asks(1).respond(part(1000, 2000, BODY))
        self.served(first, b"MISS", BODY[1100:1200], 206)
        self.served(second, b"COALESCED", BODY[1300:1400], 206)

    def test_across_a_boundary(self) -> None:
        """When the version is known, the pages are asked for at once."""
        self.read(0, 10)
        self.asks(1).respond(part(0, 1000, BODY))
        client = self.read(1900, 2100)
        self.assertEqual(self.ranges()[1:], [b"bytes=1000-1999", b"bytes=2000-2999"])
        self.assertEqual([asked.header(b"if-match") for asked in self.upstream.asked[1:]], [b'"v1"'] * 2)
        self.upstream.asked[2].respond(part(2000, 3000, BODY))
        self.upstream.asked[1].respond(part(1000, 2000, BODY))
        self.served(client, b"PARTIAL", BODY[1900:2100], 206)
        self.served(self.read(1000, 1990), b"HIT", BODY[1000:1990], 206)

    def test_last_page(self) -> None:
        """The last page ends with the object."""
        self.read(0, 10)
        self.asks(1).respond(part(0, 1000, BODY))
        client = self.harness.get(range=b"bytes=-10")
        self.assertEqual(self.asks(2).header(b"range"), b"bytes=4000-4095")
        self.upstream.last.respond(part(4000, 4096, BODY))
        self.served(client, b"PARTIAL", BODY[-10:], 206)

    def test_cold_suffix(self) -> None:
        """The last page's worth of bytes, wherever S3 says that they are."""
        client = self.harness.get(range=b"bytes=-10")
        self.assertEqual(self.asks(1).header(b"range"), b"bytes=-1000")
        self.upstream.last.respond(part(3096, 4096, BODY))
        self.served(client, b"MISS", BODY[-10:], 206)
        self.assertEqual(client.header(b"content-range"), b"bytes 4086-4095/4096")

    def test_left_as_they_are(self) -> None:
        """Signed ranges, large ones, whole objects and those with conditions go up as they came."""
        for headers in (
            {"range": b"bytes=10-19", "authorization": SIGNED_RANGE},
            {"range": b"bytes=0-999"},
            {"range": b"bytes=10-19", "if_range": b'"v1"'},
            {"range": b"bytes=10-19", "if_match": b'"v1"'},
            {"range": b"bytes=10-"},
            {},
        ):
            self.harness.get(**headers).leave()
            self.assertEqual(self.upstream.last.header(b"range"), headers.get("range"))

    def test_failing_page(self) -> None:
        """Whatever S3 says to the page, the client gets what it says to the client's own range."""
        for response in (error(403, b"AccessDenied"), error(500, b"InternalError"), error(416, b"InvalidRange")):
            client = self.read(1100, 1200)
            self.upstream.last.respond(response)
            self.assertEqual(self.upstream.last.header(b"range"), b"bytes=1100-1199")
            self.upstream.last.respond(error(404, b"NoSuchKey"))
            self.assertEqual((client.status, client.ended), (404, "finished"))

    def test_behind_the_end(self) -> None:
        """The page exists, the range does not: 416, by the size that S3 has just told."""
        client = self.read(4097, 4099)
        self.asks(1).respond(part(4000, 4096, BODY))
        self.asks(1)
        self.assertEqual((client.status, client.header(b"content-range")), (416, b"bytes */4096"))

    def test_store_that_ignores_ranges(self) -> None:
        """Everything came: the client gets its range."""
        client = self.read(1100, 1200)
        self.asks(1).respond(ok(BODY))
        self.served(client, b"MISS", BODY[1100:1200], 206)

    def test_abandoned(self) -> None:
        """A page is fetched to its end when the client leaves; everything, from such a store, is not."""
        size = 40_000_000
        for status in (206, 200):
            client = self.harness.get(b"/of-%d" % status, range=b"bytes=10-19")
            answer = ok(None, length=size) if status == 200 else part(0, 1000, BODY, deliver=False)
            self.upstream.last.respond(answer)
            answer.sink.data_received(BODY[:5])
            client.leave()
            self.assertEqual(answer.aborted, status == 200)

    def test_expired(self) -> None:
        """An old entry is confirmed by the page that is missing, or by a 304 when none is."""
        self.read(0, 10)
        self.asks(1).respond(part(0, 1000, BODY))
        self.harness.clock.advance(61)
        client = self.read(1100, 1200)
        self.assertEqual(self.asks(2).header(b"range"), b"bytes=1000-1999")
        self.upstream.last.respond(part(1000, 2000, BODY))
        self.served(client, b"PARTIAL", BODY[1100:1200], 206)
        self.harness.clock.advance(61)
        client = self.read(1100, 1200)
        self.assertEqual(self.asks(3).header(b"if-none-match"), b'"v1"')
        self.upstream.last.respond(not_modified())
        self.served(client, b"REVALIDATED", BODY[1100:1200], 206)
