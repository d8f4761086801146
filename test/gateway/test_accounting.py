"""What is noted about a request."""

from twisted.python.failure import Failure

from s3proxy.telemetry.record import RequestRecord
from s3proxy.upstream.interfaces import UpstreamError
from test.gateway.test_read import BODY, ReadTestCase, error, not_modified, ok, part
from test.support.gateway import FakeClient, FakeResponse
from test.support.streams import RecordingSink


class RecordTests(ReadTestCase):
    """Records of ended requests."""

    @property
    def record(self) -> RequestRecord:
        """The latest one."""
        return self.harness.records[-1]

    def bytes(self) -> tuple[int, int, int]:
        """Sent to the client, out of the cache, sent by S3 for this request."""
        return self.record.bytes_sent, self.record.bytes_from_cache, self.record.bytes_from_upstream

    def test_miss_and_hit(self) -> None:
        """A miss costs what it delivers, a hit nothing."""
        self.cached()
        self.assertEqual((self.record.outcome, self.record.reason, self.bytes()), ("MISS", "cold", (1024, 0, 1024)))
        self.harness.get()
        self.assertEqual((self.record.outcome, self.record.reason, self.bytes()), ("HIT", "", (1024, 1024, 0)))
        self.assertEqual((self.record.status, self.record.object_size, self.record.key), (200, 1024, b"key"))

    def test_coalesced(self) -> None:
        """Bytes of another client's fetch are not this client's to pay for."""
        for _ in range(2):
            self.harness.get()
        self.harness.clock.advance(2)
        self.asks(1).respond(ok())
        first, second = self.harness.records
        self.assertEqual((first.bytes_from_cache, first.bytes_from_upstream), (0, 1024))
        self.assertEqual((second.outcome, second.bytes_from_cache, second.bytes_from_upstream), ("COALESCED", 1024, 0))
        self.assertEqual((first.wait_seconds, second.wait_seconds), (None, 2.0))

    def test_resumed(self) -> None:
        """The rest of a body that broke off is paid for by who asked for it."""
        body = b"0123456789" * 20_000
        self.harness.get()
        follower = self.harness.get()
        response = self.asks(1).respond(ok(None, length=len(body)))
        response.sink.data_received(body[:1000])
        response.sink.stream_failed(Failure(UpstreamError("reset", sent=True)))
        self.asks(2).respond(part(1000, len(body), body))
        self.assertEqual(follower.answer, body)
        self.assertEqual(
            sorted((each.bytes_from_cache, each.bytes_from_upstream) for each in self.harness.records),
            [(0, len(body)), (len(body), 0)],
        )

    def test_relayed(self) -> None:
        """What is passed through came from S3."""
        self.harness.send(b"GET", b"/?list-type=2")
        self.asks(1).respond(FakeResponse(200, {}, b"<ListBucketResult/>"))
        self.assertEqual(self.bytes(), (19, 0, 19))

    def test_revalidated(self) -> None:
        """A confirmed object is sent out of the cache; its age begins anew."""
        self.cached()
        self.harness.clock.advance(61)
        client = self.harness.get()
        self.asks(1).respond(not_modified())
        self.assertEqual((self.record.outcome, self.bytes()), ("REVALIDATED", (1024, 1024, 0)))
        self.assertEqual(client.header(b"age"), b"0")

    def test_served_range(self) -> None:
        """Partial answers name their bytes, whole ones don't."""
        self.harness.get(range=b"bytes=10-19")
        self.asks(1).respond(part(10, 20))
        self.assertEqual(self.record.served_range, "bytes=10-19")
        self.harness.get(range=b"bytes=-1009")
        self.asks(2).respond(part(15, 1024))
        self.harness.get(range=b"bytes=12-14")
        self.assertEqual((self.record.outcome, self.record.served_range), ("HIT", "bytes=12-14"))
        self.harness.get(b"/key?versionId=1", range=b"bytes=0-0")
        self.asks(3).respond(part(0, 1))
        self.assertEqual((self.record.outcome, self.record.served_range), ("BYPASS", "bytes=0-0"))
        self.harness.get(b"/other")
        self.asks(4).respond(ok())
        self.assertEqual(self.record.served_range, "")

    def test_identifiers_of_s3(self) -> None:
        """S3's own names of the request and of the version."""
        response = ok(x_amz_id_2=b"HOST", x_amz_version_id=b"V1")
        self.harness.get()
        self.asks(1).respond(response)
        record = self.record
        self.assertEqual((record.upstream_request_id, record.upstream_address), (b"S3REQUEST", "198.51.100.1:443"))
        self.assertEqual((record.host_id, record.version_id), (b"HOST", b"V1"))
        self.harness.get()
        record = self.record
        self.assertEqual((record.upstream_request_id, record.host_id, record.version_id), (b"", b"", b"V1"))
        self.harness.send(b"DELETE", b"/key")
        self.asks(2).respond(FakeResponse(204, {b"x-amz-request-id": b"R2", b"x-amz-id-2": b"H2"}))
        self.assertEqual((self.record.upstream_request_id, self.record.host_id), (b"R2", b"H2"))

    def test_error_code(self) -> None:
        """S3's code of a relayed error, from reads and from what is passed through."""
        self.harness.get()
        self.asks(1).respond(error(404, b"NoSuchKey"))
        self.assertEqual((self.record.status, self.record.error_code), (404, "NoSuchKey"))
        self.harness.send(b"DELETE", b"/key")
        self.asks(2).respond(error(403, b"AccessDenied"))
        self.assertEqual((self.record.status, self.record.error_code), (403, "AccessDenied"))
        self.harness.head()
        self.asks(3).respond(FakeResponse(404, {}, b"", claimed=100))
        self.assertEqual((self.record.status, self.record.error_code), (404, ""))
        self.harness.get(b"/?list-type=2")
        self.asks(4).respond(FakeResponse(200, {}, b"<x><Code>Ok</Code></x>"))
        self.assertEqual(self.record.error_code, "")

    def test_upload(self) -> None:
        """Bytes of the client's body are counted, whatever the operation and the outcome."""
        for number, target in enumerate((b"/key", b"/key?partNumber=1&uploadId=U"), 1):
            client = self.harness.send(b"PUT", target, {}, b"0123456789")
            source = self.asks(number).request.body
            assert source is not None
            sink = RecordingSink()
            source.start(sink)
            client.body.sink.data_received(b"01234")
            client.body.sink.data_received(b"56789")
            client.body.sink.stream_ended()
            self.assertEqual((sink.data, sink.ended), (b"0123456789", True))
            self.upstream.last.respond(FakeResponse(200))
            self.assertEqual((self.record.body_bytes_received, self.record.bytes_sent), (10, 0))
        client = self.harness.send(b"PUT", b"/key", {}, b"0123456789")
        source = self.upstream.last.request.body
        assert source is not None
        source.start(RecordingSink())
        client.body.sink.data_received(b"01234")
        client.leave()
        self.assertEqual((self.record.body_bytes_received, self.record.aborted), (5, True))

    def test_endings(self) -> None:
        """A request is accounted for once, with the status it was told, if any."""
        client = self.harness.get()
        client.leave()
        self.assertEqual((self.record.status, self.record.ending), (0, "client_abort"))
        client = self.harness.get()
        response = self.asks(2).respond(ok(None, length=200_000))
        response.sink.data_received(b"x" * 10)
        client.leave()
        self.assertEqual((self.record.status, self.record.ending, self.bytes()), (200, "client_abort", (10, 0, 10)))
        self.assertEqual(len(self.harness.records), 2)
        self.assertTrue(all(record.closed for record in self.harness.records))

    def test_condition(self) -> None:
        """A 304 out of the cache has no bytes."""
        self.cached()
        self.harness.get(if_none_match=b'"v1"')
        self.assertEqual((self.record.status, self.record.outcome, self.bytes()), (304, "HIT", (0, 0, 0)))
        self.assertEqual(len(BODY), self.record.object_size)

    def test_client_that_left_at_once(self) -> None:
        """A client that is gone before anything is asked is accounted for as well."""
        client = FakeClient(b"GET", b"/key")
        gone = client.when_gone

        def when_gone() -> object:
            waiter = gone()
            client.leave()
            return waiter

        client.when_gone = when_gone  # type: ignore[method-assign, assignment]
        self.harness.gateway.handle(client)
        self.assertTrue(self.record.aborted)
        self.assertTrue(self.asks(1).cancelled)
