"""GET and HEAD of objects through the cache."""

import shutil

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.upstream.interfaces import UpstreamError, UpstreamTimeout, UpstreamUnreachable
from test.support.gateway import Asked, FakeClient, FakeResponse, GatewayHarness
from test.support.streams import ManualThread

BODY = bytes(range(256)) * 4
SIGNED_RANGE = (
    b"AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/20231114/us-east-1/s3/aws4_request, "
    b"SignedHeaders=host;range;x-amz-date, Signature=" + b"0" * 64
)


def ok(body: bytes | None = BODY, etag: bytes = b'"v1"', length: int | None = None, **headers: bytes) -> FakeResponse:
    """A 200 with the whole object."""
    fields = {
        b"ETag": etag,
        b"Last-Modified": b"Wed, 21 Oct 2015 07:28:00 GMT",
        b"Content-Type": b"text/plain",
        b"x-amz-request-id": b"S3REQUEST",
        b"Date": b"Wed, 21 Oct 2015 07:28:00 GMT",
        b"Server": b"AmazonS3",
        b"x-amz-meta-colour": b"gr\xc3\xbcn",
    }
    fields.update({name.replace("_", "-").encode(): value for name, value in headers.items()})
    return FakeResponse(200, fields, body, length)


def part(start: int, stop: int, body: bytes = BODY, etag: bytes = b'"v1"', deliver: bool = True) -> FakeResponse:
    """A 206 with these bytes."""
    return FakeResponse(
        206,
        {
            b"ETag": etag,
            b"Content-Range": b"bytes %d-%d/%d" % (start, stop - 1, len(body)),
            b"Content-Type": b"text/plain",
        },
        body[start:stop] if deliver else None,
        stop - start,
    )


def not_modified(etag: bytes = b'"v1"') -> FakeResponse:
    """A 304."""
    return FakeResponse(304, {b"ETag": etag}, b"")


def error(status: int, code: bytes) -> FakeResponse:
    """An error of S3."""
    return FakeResponse(status, {b"Content-Type": b"application/xml"}, b"<Error><Code>%s</Code></Error>" % code)


class ReadTestCase(SynchronousTestCase):
    """A harness with the default settings."""

    settings: dict[str, object] = {}

    def setUp(self) -> None:
        self.harness = GatewayHarness(**self.settings)  # type: ignore[arg-type]
        self.addCleanup(self.harness.close)
        self.upstream = self.harness.upstream

    def cached(self, body: bytes = BODY, **headers: bytes) -> None:
        """Put the object into the cache."""
        client = self.harness.get()
        self.upstream.last.respond(ok(body, **headers))
        self.assertEqual(client.answer, body)
        self.upstream.asked.clear()

    def served(self, client: FakeClient, outcome: bytes, body: bytes = BODY, status: int = 200) -> None:
        """The client got exactly this."""
        self.assertEqual((client.status, client.ended), (status, "finished"))
        self.assertEqual(client.answer, body)
        self.assertEqual(client.header(b"x-cache"), outcome)

    def asks(self, count: int) -> Asked:
        """S3 was asked so often; the latest request."""
        self.assertEqual(len(self.upstream.asked), count)
        return self.upstream.last


class WholeObjectTests(ReadTestCase):
    """GET without a Range."""

    def test_miss_then_hit(self) -> None:
        """The first read asks S3, the second does not."""
        client = self.harness.get()
        self.asks(1).respond(ok())
        self.served(client, b"MISS")
        again = self.harness.get()
        self.asks(1)
        self.served(again, b"HIT")

    def test_headers_of_a_hit_are_those_of_s3(self) -> None:
        """A hit has S3's headers less those of a single answer, and its own Date, request id, Age and marks."""
        self.cached()
        self.harness.clock.advance(5)
        client = self.harness.get()
        self.assertEqual(client.header(b"etag"), b'"v1"')
        self.assertEqual(client.header(b"x-amz-meta-colour"), b"gr\xc3\xbcn")
        self.assertEqual(client.header(b"last-modified"), b"Wed, 21 Oct 2015 07:28:00 GMT")
        self.assertEqual(client.header(b"age"), b"5")
        self.assertEqual(client.header(b"date"), b"Tue, 14 Nov 2023 22:13:25 GMT")
        self.assertNotIn(b"server", client.answer_headers)
        self.assertNotEqual(client.header(b"x-amz-request-id"), b"S3REQUEST")

    def test_large_object_flows_through_a_file(self) -> None:
        """A body above the small size is sent while it arrives, and is a hit afterwards."""
        body = b"0123456789abcdef" * 100_000
        client = self.harness.get()
        response = self.asks(1).respond(ok(None, length=len(body)))
        response.sink.data_received(body[:10])
        self.assertEqual(client.answer, body[:10])
        response.sink.data_received(body[10:])
        response.sink.stream_ended()
        self.served(client, b"MISS", body)
        self.served(self.harness.get(), b"HIT", body)
        self.assertEqual(self.harness.left_over(), [])

    def test_empty_object_is_a_hit(self) -> None:
        """An object without bytes is cached like any other."""
        self.cached(b"")
        self.served(self.harness.get(), b"HIT", b"")

    def test_no_etag_is_not_stored(self) -> None:
        """Without an ETag nothing tells versions apart."""
        response = ok()
        response.headers = response.headers.without([b"etag"])
        client = self.harness.get()
        self.asks(1).respond(response)
        self.assertEqual(client.answer, BODY)
        self.harness.get()
        self.asks(2)

    def test_unknown_length_is_not_stored(self) -> None:
        """A body that ends with the connection can't be known to be whole."""
        response = ok(None)
        client = self.harness.get()
        self.asks(1).respond(response)
        self.assertIsNone(client.length)
        response.sink.data_received(BODY)
        response.sink.stream_ended()
        self.served(client, b"MISS")
        self.harness.get()
        self.asks(2)

    def test_errors_are_relayed_and_not_stored(self) -> None:
        """S3's refusals reach the client as they are, and are asked for again."""
        for status, code in ((403, b"AccessDenied"), (404, b"NoSuchKey"), (503, b"SlowDown")):
            client = self.harness.get()
            self.upstream.last.respond(error(status, code))
            self.assertEqual(client.status, status)
            self.assertIn(code, client.answer)
        self.asks(3)

    def test_broken_answer_aborts(self) -> None:
        """When S3's answer breaks off and the rest can't be had, the client's connection is cut, never ended
        cleanly.
        """
        client = self.harness.get()
        response = self.asks(1).respond(ok(None, length=200_000))
        response.sink.data_received(b"x" * 1000)
        response.sink.stream_failed(_failure(UpstreamError("reset", sent=True)))
        while client.ended is None:
            self.upstream.last.fail(UpstreamUnreachable("down"))
        self.assertEqual(client.ended, "aborted")
        self.assertEqual(self.harness.left_over(), [])

    def test_broken_answer_is_resumed(self) -> None:
        """When S3's answer breaks off, the rest is asked for, of the same version only."""
        body = b"0123456789" * 20_000
        client = self.harness.get()
        response = self.asks(1).respond(ok(None, length=len(body)))
        response.sink.data_received(body[:1000])
        response.sink.stream_failed(_failure(UpstreamError("reset", sent=True)))
        again = self.asks(2)
        self.assertEqual(again.header(b"range"), b"bytes=1000-199999")
        self.assertEqual(again.header(b"if-match"), b'"v1"')
        again.respond(part(1000, len(body), body))
        self.served(client, b"MISS", body)

    def test_mostly_received_answer_is_resumed(self) -> None:
        """The same when most of the body had come: what can be kept of it is, and that is no error of the disk."""
        for size in (200_000, 9_000_000):
            body = b"0123456789" * (size // 10)
            target = b"/of-%d" % size
            client = self.harness.get(target)
            response = self.upstream.last.respond(ok(None, length=size))
            response.sink.data_received(body[:-100])
            response.sink.stream_failed(_failure(UpstreamError("reset", sent=True)))
            self.assertEqual(self.upstream.last.header(b"range"), b"bytes=%d-%d" % (size - 100, size - 1))
            self.upstream.last.respond(part(size - 100, size, body))
            self.served(client, b"MISS", body)
            self.assertEqual(self.harness.events.errors, [])
            self.assertEqual(self.harness.left_over(), [])

    def test_broken_answer_is_resumed_once(self) -> None:
        """When S3's answer breaks off under several readers, one asks for the rest, and all of them get it."""
        body = b"0123456789" * 20_000
        clients = [self.harness.get() for _ in range(3)]
        response = self.asks(1).respond(ok(None, length=len(body)))
        response.sink.data_received(body[:1000])
        slow = self.harness.get()
        response.sink.stream_failed(_failure(UpstreamError("reset", sent=True)))
        rest = self.asks(2).respond(part(1000, len(body), body, deliver=False))
        rest.sink.data_received(body[1000:5000])
        clients[0].leave()
        rest.sink.data_received(body[5000:])
        rest.sink.stream_ended()
        self.served(clients[1], b"COALESCED", body)
        self.served(clients[2], b"COALESCED", body)
        self.served(slow, b"COALESCED", body)
        self.asks(2)
        self.assertEqual(self.harness.left_over(), [])

    def test_refused_rest_is_the_one_clients_matter(self) -> None:
        """When S3 refuses the rest to the client who asked, another reader asks with its own request."""
        body = b"0123456789" * 20_000
        first, second = self.harness.get(), self.harness.get()
        response = self.asks(1).respond(ok(None, length=len(body)))
        response.sink.data_received(body[:1000])
        response.sink.stream_failed(_failure(UpstreamError("reset", sent=True)))
        self.asks(2).respond(error(403, b"AccessDenied"))
        self.assertEqual(first.ended, "aborted")
        self.asks(3).respond(part(1000, len(body), body))
        self.served(second, b"COALESCED", body)

    def test_changed_object_is_not_mixed(self) -> None:
        """When the object changed while its rest was asked for, no byte of the new version follows the old."""
        body = b"0123456789" * 20_000
        client = self.harness.get()
        response = self.asks(1).respond(ok(None, length=len(body)))
        response.sink.data_received(body[:1000])
        response.sink.stream_failed(_failure(UpstreamError("reset", sent=True)))
        self.asks(2).respond(part(1000, len(body), body.swapcase(), etag=b'"v2"'))
        self.assertEqual(client.ended, "aborted")
        self.assertEqual(client.answer, body[:1000])

    def test_unreachable_s3(self) -> None:
        """502 and 504 are S3-style documents with a request id."""
        for failure, status, code in (
            (UpstreamUnreachable("down"), 502, b"BadGateway"),
            (UpstreamTimeout("silent"), 504, b"GatewayTimeout"),
        ):
            client = self.harness.get(b"http://bucket.s3.us-east-1.amazonaws.com/a/key")
            self.upstream.last.fail(failure)
            self.assertEqual(client.status, status)
            self.assertIn(code, client.answer)
            self.assertIn(b"<Resource>/a/key</Resource>", client.answer)
            self.assertIn(client.reason, (b"Bad Gateway", b"Gateway Timeout"))
            self.assertIn(client.header(b"x-amz-request-id") or b"?", client.answer)

    def test_restart_keeps_the_cache(self) -> None:
        """What was stored before a restart is a hit after it."""
        self.cached()
        self.harness.store.close()
        self.harness.open()
        self.served(self.harness.get(), b"HIT")


class RangeTests(ReadTestCase):
    """GET with a Range."""

    def test_ranges_of_a_whole_object_are_hits(self) -> None:
        """Every form of range is answered out of a cached object."""
        self.cached()
        for value, start, stop in (
            (b"bytes=0-0", 0, 1),
            (b"bytes=100-199", 100, 200),
            (b"bytes=1000-", 1000, 1024),
            (b"bytes=-8", 1016, 1024),
            (b"bytes=0-999999999", 0, 1024),
            (b"bytes=-9999", 0, 1024),
        ):
            client = self.harness.get(range=value)
            self.served(client, b"HIT", BODY[start:stop], 206)
            self.assertEqual(client.header(b"content-range"), b"bytes %d-%d/1024" % (start, stop - 1))
        self.asks_nothing()

    def asks_nothing(self) -> None:
        """S3 was not asked."""
        self.assertEqual(self.upstream.asked, [])

    def test_unsatisfiable_range(self) -> None:
        """416 with the size and S3's document."""
        self.cached()
        client = self.harness.get(range=b"bytes=1024-2000")
        self.assertEqual(client.status, 416)
        self.assertEqual(client.header(b"content-range"), b"bytes */1024")
        self.assertIn(b"<ActualObjectSize>1024</ActualObjectSize>", client.answer)
        self.assertIn(b"<RangeRequested>bytes=1024-2000</RangeRequested>", client.answer)

    def test_cold_suffix_is_stored_where_s3_says(self) -> None:
        """The last bytes of a cold object are not its first ones."""
        client = self.harness.get(range=b"bytes=-8")
        self.asks(1).respond(part(1016, 1024))
        self.served(client, b"MISS", BODY[-8:], 206)
        first = self.harness.get(range=b"bytes=0-7")
        self.asks(2).respond(part(0, 8))
        self.served(first, b"MISS", BODY[:8], 206)
        self.served(self.harness.get(range=b"bytes=-8"), b"HIT", BODY[-8:], 206)
        self.served(self.harness.get(range=b"bytes=2-4"), b"HIT", BODY[2:5], 206)

    def test_ranges_grow_into_the_object(self) -> None:
        """An interval that several answers cover together is a hit; one byte more is not."""
        for start, stop in ((0, 100), (100, 300), (250, 400)):
            self.harness.get(range=b"bytes=%d-%d" % (start, stop - 1))
            self.upstream.last.respond(part(start, stop))
        self.asks(3)
        self.served(self.harness.get(range=b"bytes=50-349"), b"HIT", BODY[50:350], 206)
        self.harness.get(range=b"bytes=350-400")
        self.asks(4)

    def test_whole_object_after_a_range(self) -> None:
        """A GET of everything is answered with 200, also when parts of it are cached."""
        self.harness.get(range=b"bytes=0-99")
        self.asks(1).respond(part(0, 100))
        client = self.harness.get()
        self.asks(2).respond(part(100, 1024))
        self.served(client, b"PARTIAL")
        self.served(self.harness.get(), b"HIT")

    def test_signed_range_goes_up_whole(self) -> None:
        """A signed Range is never changed."""
        self.harness.get(range=b"bytes=0-99", authorization=SIGNED_RANGE)
        self.assertEqual(self.asks(1).header(b"range"), b"bytes=0-99")

    def test_200_to_a_range(self) -> None:
        """S3 may ignore a Range: the client gets its 200, and the object is stored from its first byte."""
        client = self.harness.get(range=b"bytes=100-199")
        self.asks(1).respond(ok())
        self.served(client, b"MISS")
        self.served(self.harness.get(range=b"bytes=100-199"), b"HIT", BODY[100:200], 206)

    def test_wrong_content_range_is_not_stored(self) -> None:
        """A 206 whose length contradicts its Content-Range is passed on and forgotten."""
        response = part(0, 100)
        response.headers = response.headers.without([b"content-range"]).adding((b"Content-Range", b"bytes 0-999/1024"))
        self.harness.get(range=b"bytes=0-99")
        self.asks(1).respond(response)
        self.harness.get(range=b"bytes=0-99")
        self.asks(2)

    def test_multiple_ranges_pass(self) -> None:
        """Several ranges, and what is no range, are S3's business."""
        self.cached()
        for value in (b"bytes=0-1,5-6", b"bytes=5-2", b"lines=1-2"):
            self.harness.get(range=value)
            self.assertEqual(self.upstream.last.header(b"range"), value)
        self.asks(3)

    def test_another_version_replaces_everything(self) -> None:
        """A range of a new version drops every byte of the old one."""
        self.harness.get(range=b"bytes=0-99")
        self.asks(1).respond(part(0, 100))
        new = BODY[::-1]
        client = self.harness.get(range=b"bytes=100-199")
        self.asks(2).respond(part(100, 200, new, b'"v2"'))
        self.served(client, b"MISS", new[100:200], 206)
        client = self.harness.get(range=b"bytes=0-99")
        self.asks(3).respond(part(0, 100, new, b'"v2"'))
        self.served(client, b"MISS", new[:100], 206)


class FreshnessTests(ReadTestCase):
    """What happens after the TTL."""

    def setUp(self) -> None:
        super().setUp()
        self.cached()
        self.harness.clock.advance(61)

    def test_304_renews(self) -> None:
        """An unchanged object costs one bodiless answer, then it is fresh again."""
        client = self.harness.get()
        self.assertEqual(self.asks(1).header(b"if-none-match"), b'"v1"')
        self.upstream.last.respond(not_modified())
        self.served(client, b"REVALIDATED")
        self.served(self.harness.get(), b"HIT")
        self.asks(1)

    def test_304_renews_for_a_restart(self) -> None:
        """The renewal is on disk."""
        self.harness.get()
        self.asks(1).respond(not_modified())
        self.harness.store.close()
        self.harness.open()
        self.served(self.harness.get(), b"HIT")

    def test_new_version_replaces_the_old(self) -> None:
        """An overwritten object is seen after its TTL at the price of one request."""
        client = self.harness.get()
        self.asks(1).respond(ok(b"new", b'"v2"'))
        self.served(client, b"MISS", b"new")
        self.served(self.harness.get(), b"HIT", b"new")
        self.asks(1)

    def test_refusal_keeps_the_entry(self) -> None:
        """A caller whom S3 refuses gets the refusal; the entry stays for others."""
        client = self.harness.get()
        self.asks(1).respond(error(403, b"AccessDenied"))
        self.assertEqual(client.status, 403)
        self.assertNotIn(BODY[:10], client.answer)
        other = self.harness.get()
        self.asks(2).respond(not_modified())
        self.served(other, b"REVALIDATED")

    def test_gone_drops_the_entry(self) -> None:
        """404 and 410 drop what is held."""
        for status in (404, 410):
            client = self.harness.get()
            self.upstream.last.respond(error(status, b"NoSuchKey"))
            self.assertEqual(client.status, status)
            self.harness.get()
            self.assertIsNone(self.upstream.last.header(b"if-none-match"))
            self.upstream.last.respond(ok())
            self.harness.clock.advance(61)

    def test_failure_keeps_the_entry(self) -> None:
        """When S3 fails, the failure is told and the entry kept."""
        client = self.harness.get()
        self.asks(1).fail(UpstreamUnreachable("down"))
        self.assertEqual(client.status, 502)
        client = self.harness.get()
        self.asks(2).respond(error(500, b"InternalError"))
        self.assertEqual(client.status, 500)
        client = self.harness.get()
        self.assertEqual(self.asks(3).header(b"if-none-match"), b'"v1"')
        self.upstream.last.respond(not_modified())
        self.served(client, b"REVALIDATED")

    def test_range_of_an_expired_object(self) -> None:
        """A range is confirmed with the caller's own request."""
        client = self.harness.get(range=b"bytes=5-9", authorization=SIGNED_RANGE)
        asked = self.asks(1)
        self.assertEqual((asked.header(b"range"), asked.header(b"if-none-match")), (b"bytes=5-9", b'"v1"'))
        asked.respond(not_modified())
        self.served(client, b"REVALIDATED", BODY[5:10], 206)

    def test_304_about_changed_metadata(self) -> None:
        """A 304 with another Last-Modified tells that the object was written again: it is asked for anew."""
        client = self.harness.get()
        response = not_modified()
        response.headers = response.headers.adding((b"Last-Modified", b"Thu, 22 Oct 2015 07:28:00 GMT"))
        self.asks(1).respond(response)
        self.assertIsNone(self.asks(2).header(b"if-none-match"))
        self.upstream.last.respond(ok(Last_Modified=b"Thu, 22 Oct 2015 07:28:00 GMT"))
        self.served(client, b"MISS")

    def test_concurrent_revalidations_share_one_answer(self) -> None:
        """While one caller asks, others wait for what S3 says."""
        clients = [self.harness.get() for _ in range(5)]
        self.asks(1).respond(not_modified())
        for client in clients:
            self.assertEqual(client.answer, BODY)
        self.asks(1)


class AlwaysAskTests(ReadTestCase):
    """TTL 0."""

    settings = {"get_ttl": 0.0, "head_ttl": 0.0}

    def test_every_caller_is_authorised_by_s3(self) -> None:
        """Ten reads are ten conditional requests and one body."""
        self.cached()
        for _ in range(10):
            client = self.harness.get()
            self.upstream.last.respond(not_modified())
            self.served(client, b"REVALIDATED")
        self.asks(10)

    def test_refused_caller_gets_no_byte(self) -> None:
        """403 for one caller, bytes for the next."""
        self.cached()
        client = self.harness.get()
        self.asks(1).respond(error(403, b"AccessDenied"))
        self.assertEqual(client.status, 403)
        self.assertNotIn(BODY[:16], client.answer)

    def test_cold_callers_do_not_share_permission(self) -> None:
        """A caller that waits for another's body still asks S3 with its own request."""
        first = self.harness.get()
        response = self.asks(1).respond(ok(None, length=200_000))
        response.sink.data_received(b"x" * 1000)
        second = self.harness.get()
        third = self.harness.get()
        self.assertEqual(self.asks(3).header(b"if-none-match"), b'"v1"')
        self.upstream.asked[1].respond(not_modified())
        self.upstream.asked[2].respond(error(403, b"AccessDenied"))
        response.sink.data_received(b"y" * 199_000)
        response.sink.stream_ended()
        self.assertEqual(first.answer, second.answer)
        self.assertEqual(len(second.answer), 200_000)
        self.assertEqual(third.status, 403)


class StaleIfErrorTests(ReadTestCase):
    """stale_if_error."""

    settings = {"stale_if_error": 3600.0}

    def test_served_while_s3_fails(self) -> None:
        """Within the time allowed, a failure of S3 is bridged and marked."""
        self.cached()
        self.harness.clock.advance(120)
        client = self.harness.get()
        self.asks(1).fail(UpstreamUnreachable("down"))
        self.served(client, b"STALE")
        client = self.harness.get()
        self.asks(2).respond(error(503, b"SlowDown"))
        self.served(client, b"STALE")

    def test_not_for_ever(self) -> None:
        """After that time the failure is told."""
        self.cached()
        self.harness.clock.advance(3700)
        client = self.harness.get()
        self.asks(1).fail(UpstreamUnreachable("down"))
        self.assertEqual(client.status, 502)

    def test_never_for_a_refusal(self) -> None:
        """403 is an answer, not a failure."""
        self.cached()
        self.harness.clock.advance(120)
        client = self.harness.get()
        self.asks(1).respond(error(403, b"AccessDenied"))
        self.assertEqual(client.status, 403)


class ConditionTests(ReadTestCase):
    """The client's own conditions."""

    def test_judged_locally_when_fresh(self) -> None:
        """If-None-Match and If-Modified-Since are answered with 304, a matching If-Match with the object."""
        self.cached()
        for name, value, status in (
            ("if_none_match", b'"v1"', 304),
            ("if_none_match", b'W/"v1", "x"', 304),
            ("if_none_match", b'"v0"', 200),
            ("if_modified_since", b"Wed, 21 Oct 2015 07:28:00 GMT", 304),
            ("if_modified_since", b"Tue, 20 Oct 2015 07:28:00 GMT", 200),
            ("if_match", b'"v1"', 200),
            ("if_unmodified_since", b"Wed, 21 Oct 2015 07:28:00 GMT", 200),
        ):
            client = self.harness.get(**{name: value})
            self.assertEqual((client.status, client.ended), (status, "finished"), (name, value))
            self.assertEqual(client.answer, BODY if status == 200 else b"")
        self.assertEqual(self.upstream.asked, [])

    def test_refused_only_by_s3(self) -> None:
        """A condition that fails here may name a version that the cache does not know: S3 decides."""
        self.cached()
        client = self.harness.get(if_match=b'"v2"')
        self.asks(1).respond(ok(b"new", b'"v2"'))
        self.served(client, b"MISS", b"new")
        self.served(self.harness.get(), b"HIT", b"new")

    def test_if_range(self) -> None:
        """A matching If-Range takes the range from the cache; any other goes to S3."""
        self.cached()
        self.served(self.harness.get(range=b"bytes=0-3", if_range=b'"v1"'), b"HIT", BODY[:4], 206)
        client = self.harness.get(range=b"bytes=0-3", if_range=b'"v0"')
        self.asks(1).respond(ok())
        self.served(client, b"MISS")

    def test_if_range_that_is_not_to_be_judged_here(self) -> None:
        """Where conditions are left to S3, If-Range is, too; so is what an empty object has of a range."""
        for body, status in ((BODY, 206), (b"", 416)):
            harness = GatewayHarness(evaluate_conditions_from_cache=False)
            self.addCleanup(harness.close)
            harness.get()
            harness.upstream.last.respond(ok(body))
            client = harness.get(range=b"bytes=-4", if_range=b'"v1"')
            self.assertEqual(client.status, None)
            self.assertEqual(harness.upstream.last.header(b"if-range"), b'"v1"')
            harness.upstream.last.respond(part(1020, 1024) if body else error(416, b"InvalidRange"))
            self.assertEqual(client.status, status)

    def test_forwarded_when_stale(self) -> None:
        """After the TTL the client's condition goes to S3 as it is; its 304 is relayed and renews."""
        self.cached()
        self.harness.clock.advance(61)
        client = self.harness.get(if_none_match=b'"v1"')
        self.assertEqual(self.asks(1).header(b"if-none-match"), b'"v1"')
        self.upstream.last.respond(not_modified())
        self.assertEqual(client.status, 304)
        self.served(self.harness.get(), b"HIT")
        self.asks(1)


class HeadTests(ReadTestCase):
    """HEAD."""

    def test_answered_from_a_get(self) -> None:
        """A HEAD is answered from what a GET stored."""
        self.cached()
        client = self.harness.head()
        self.assertEqual((client.status, client.length, client.answer), (200, 1024, b""))
        self.assertEqual(client.header(b"x-cache"), b"HIT")

    def test_head_then_head(self) -> None:
        """A HEAD is stored by itself; the GET that follows fetches the body and finds the rest."""
        client = self.harness.head()
        self.asks(1).respond(_head())
        self.assertEqual((client.status, client.length), (200, 1024))
        self.assertEqual(self.harness.head().header(b"x-cache"), b"HIT")
        self.asks(1)
        client = self.harness.get()
        self.asks(2).respond(ok())
        self.served(client, b"MISS")
        self.served(self.harness.get(), b"HIT")

    def test_another_etag_replaces(self) -> None:
        """A HEAD that shows another version drops the bytes of the old one."""
        self.cached()
        self.harness.clock.advance(61)
        self.harness.head()
        self.asks(1).respond(_head(b'"v2"', 3))
        client = self.harness.get()
        self.asks(2).respond(ok(b"new", b'"v2"'))
        self.served(client, b"MISS", b"new")

    def test_renews_the_entry(self) -> None:
        """A HEAD that confirms the version makes it fresh for GETs, too."""
        self.cached()
        self.harness.clock.advance(61)
        self.harness.head()
        self.asks(1).respond(not_modified())
        self.served(self.harness.get(), b"HIT")
        self.asks(1)

    def test_checksums_are_asked_for(self) -> None:
        """Checksums are only sent from answers that were asked for them; else S3 is."""
        self.cached()
        client = self.harness.head(x_amz_checksum_mode=b"ENABLED")
        self.asks(1).respond(_head(checksum=b"AAAAAA=="))
        self.assertEqual(client.header(b"x-amz-checksum-crc32"), b"AAAAAA==")
        client = self.harness.head(x_amz_checksum_mode=b"enabled")
        self.asks(1)
        self.assertEqual(client.header(b"x-amz-checksum-crc32"), b"AAAAAA==")
        self.assertNotIn(b"x-amz-checksum-crc32", self.harness.head().answer_headers)
        client = self.harness.get(x_amz_checksum_mode=b"ENABLED")
        self.served(client, b"HIT")
        self.assertEqual(client.header(b"x-amz-checksum-crc32"), b"AAAAAA==")
        ranged = self.harness.get(x_amz_checksum_mode=b"ENABLED", range=b"bytes=0-3")
        self.assertNotIn(b"x-amz-checksum-crc32", ranged.answer_headers)
        self.asks(1)

    def test_description_of_a_part_is_not_the_object(self) -> None:
        """HEAD with partNumber says nothing about the object."""
        self.harness.head(b"/key?partNumber=1")
        self.asks(1).respond(FakeResponse(206, {b"ETag": b'"v1"', b"x-amz-mp-parts-count": b"3"}, b"", claimed=10))
        self.harness.head()
        self.asks(2)


def _head(etag: bytes = b'"v1"', size: int = 1024, checksum: bytes | None = None) -> FakeResponse:
    fields = {
        b"ETag": etag,
        b"Content-Type": b"text/plain",
        b"Last-Modified": b"Wed, 21 Oct 2015 07:28:00 GMT",
        b"x-amz-meta-colour": b"gr\xc3\xbcn",
    }
    if checksum is not None:
        fields[b"x-amz-checksum-crc32"] = checksum
    return FakeResponse(200, fields, b"", length=0, claimed=size)


class BypassTests(ReadTestCase):
    """What never touches the cache."""

    def test_never_cached(self) -> None:
        """Sub-resources, versions, overrides, SSE-C, parts of parts: passed through although the object is cached."""
        self.cached()
        for number, (target, headers) in enumerate(
            (
                (b"/key?acl", {}),
                (b"/key?versionId=1", {}),
                (b"/key?response-content-type=a", {}),
                (b"/key?unknown", {}),
                (b"/key?partNumber=0", {}),
                (b"/key?partNumber=1", {b"Range": b"bytes=0-9"}),
                (b"/key", {b"x-amz-server-side-encryption-customer-key": b"k"}),
                (b"/key", {b"Cache-Control": b"no-store"}),
                (b"/?list-type=2", {}),
            ),
            1,
        ):
            client = self.harness.send(b"GET", target, headers)
            self.assertEqual(self.asks(number).request.target, target)
            self.upstream.last.respond(ok(b"other"))
            self.served(client, b"BYPASS", b"other")
        self.served(self.harness.get(), b"HIT")

    def test_no_cache_fetches_and_stores(self) -> None:
        """no-cache skips the look-up; the fresh bytes are for everybody."""
        self.cached()
        client = self.harness.get(cache_control=b"no-cache")
        self.asks(1).respond(ok(b"new", b'"v2"'))
        self.served(client, b"MISS", b"new")
        self.served(self.harness.get(), b"HIT", b"new")

    def test_expired_presigned_url(self) -> None:
        """An expired URL that is understood is refused here, as S3 does it."""
        self.cached()
        client = self.harness.get(
            b"/key?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AK%2F20231114%2Fus-east-1%2Fs3%2Faws4_request"
            b"&X-Amz-Date=20231114T200000Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=" + b"0" * 64
        )
        self.assertEqual(client.status, 403)
        self.assertIn(b"<Code>AccessDenied</Code>", client.answer)
        self.assertEqual(self.upstream.asked, [])

    def test_authority_and_host_disagree(self) -> None:
        """A request whose two names differ can't fill the cache of either."""
        client = self.harness.get(b"http://other.s3.amazonaws.com/key")
        self.asks(1).respond(ok(b"other"))
        self.served(client, b"BYPASS", b"other")
        self.harness.get()
        self.asks(2)


class CoalescingTests(ReadTestCase):
    """Several clients at once."""

    def test_one_fetch_for_all(self) -> None:
        """Fifty clients of a cold object are one request to S3; late ones get what is there at once."""
        body = b"0123456789" * 50_000
        clients = [self.harness.get() for _ in range(25)]
        response = self.asks(1).respond(ok(None, length=len(body)))
        response.sink.data_received(body[:100_000])
        late = [self.harness.get() for _ in range(25)]
        for client in clients + late:
            self.assertEqual(client.answer, body[:100_000])
        response.sink.data_received(body[100_000:])
        response.sink.stream_ended()
        for client in clients + late:
            self.assertEqual((client.answer, client.ended), (body, "finished"))
        self.asks(1)

    def test_failed_leader_hurts_nobody(self) -> None:
        """When the first caller is refused, one of the others asks next, and so on: never all of them at once."""
        clients = [self.harness.get() for _ in range(4)]
        self.asks(1).respond(error(403, b"AccessDenied"))
        self.assertEqual(clients[0].status, 403)
        self.asks(2).respond(error(403, b"AccessDenied"))
        self.assertEqual(clients[1].status, 403)
        self.asks(3).respond(ok())
        self.assertEqual([client.answer for client in clients[2:]], [BODY, BODY])

    def test_leaving_leader(self) -> None:
        """The client who asked first leaves: the fetch goes on for the others."""
        body = b"0123456789" * 50_000
        leader = self.harness.get()
        follower = self.harness.get()
        leader.leave()
        response = self.asks(1).respond(ok(None, length=len(body)))
        response.sink.data_received(body)
        response.sink.stream_ended()
        self.assertEqual(follower.answer, body)
        self.assertTrue(self.harness.records[0].aborted)

    def test_everybody_leaves_before_the_answer(self) -> None:
        """A request that nobody waits for any more is given up."""
        clients = [self.harness.get() for _ in range(3)]
        asked = self.asks(1)
        for client in clients:
            self.assertFalse(asked.cancelled)
            client.leave()
        self.assertTrue(asked.cancelled)
        self.assertEqual(self.harness.left_over(), [])
        self.assertEqual(self.harness.gateway.in_flight, 0)

    def test_slow_follower_delays_nobody(self) -> None:
        """A client that does not read stops neither S3 nor the others."""
        body = b"0123456789" * 500_000
        slow = self.harness.get()
        slow.stalled = True
        quick = self.harness.get()
        response = self.asks(1).respond(ok(None, length=len(body)))
        for start in range(0, len(body), 100_000):
            response.sink.data_received(body[start : start + 100_000])
        response.sink.stream_ended()
        self.assertEqual((quick.answer, quick.ended), (body, "finished"))
        self.assertFalse(response.paused)
        slow.unstall()
        self.assertEqual((slow.answer, slow.ended), (body, "finished"))

    def test_range_inside_a_flight(self) -> None:
        """A range that a fetch under way will bring is not asked for again."""
        body = b"0123456789" * 50_000
        self.harness.get()
        response = self.asks(1).respond(ok(None, length=len(body)))
        response.sink.data_received(body[:1000])
        client = self.harness.get(range=b"bytes=990-1009")
        self.asks(1)
        self.assertEqual(client.answer, body[990:1000])
        response.sink.data_received(body[1000:])
        response.sink.stream_ended()
        self.served(client, b"COALESCED", body[990:1010], 206)


class BrokenDiskTests(ReadTestCase):
    """A cache directory that fails."""

    def test_deleted_directory(self) -> None:
        """Whoever deletes the directory costs hits, not answers."""
        self.cached()
        shutil.rmtree(self.harness.root)
        self.harness.clock.advance(6)
        for _ in range(3):
            client = self.harness.get()
            self.upstream.last.respond(ok())
            self.assertEqual((client.answer, client.ended), (BODY, "finished"))
            self.harness.clock.advance(11)
        self.asks(3)
        self.assertTrue(self.harness.events.errors)


class CommitTests(SynchronousTestCase):
    """Commits that take their time."""

    def test_small_object_before_its_commit(self) -> None:
        """A small answer is for others from memory until it is on disk."""
        thread = ManualThread()
        harness = GatewayHarness(run=thread)
        self.addCleanup(harness.close)
        harness.get()
        harness.upstream.last.respond(ok())
        self.assertEqual(harness.get().answer, BODY)
        self.assertEqual(len(harness.upstream.asked), 1)
        thread.finish()
        self.assertEqual(harness.get().answer, BODY)
        self.assertEqual(len(harness.upstream.asked), 1)

    def test_write_during_a_commit(self) -> None:
        """An answer from before a write is not stored after it, whatever its commit waits for."""
        thread = ManualThread()
        harness = GatewayHarness(run=thread)
        self.addCleanup(harness.close)
        harness.get()
        harness.upstream.last.respond(ok())
        harness.send(b"DELETE", b"/key")
        harness.upstream.last.respond(FakeResponse(204))
        thread.finish()
        harness.get()
        self.assertEqual(len(harness.upstream.asked), 3)


def _failure(exception: Exception) -> "object":
    from twisted.python.failure import Failure

    return Failure(exception)
