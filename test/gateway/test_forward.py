"""What passes through, and what it makes untrue."""

from twisted.python.failure import Failure

from s3proxy.gateway.forward import LATE
from s3proxy.upstream.interfaces import UpstreamError, UpstreamUnreachable
from test.gateway.test_read import BODY, ReadTestCase, error, not_modified, ok, part
from test.support.gateway import FakeClient, FakeResponse
from test.support.streams import RecordingSink

DELETE_TWO = b"<Delete><Object><Key>key</Key></Object><Object><Key>other</Key></Object></Delete>"
BOUNDARY = b"------------------------0123456789abcdef"
FORM = (
    b"--" + BOUNDARY + b'\r\nContent-Disposition: form-data; name="key"\r\n\r\nkey\r\n'
    b"--"
    + BOUNDARY
    + b'\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\nbytes\r\n--'
    + BOUNDARY
    + b"--\r\n"
)


class ForwardTestCase(ReadTestCase):
    """An object is cached; then something is sent through."""

    def setUp(self) -> None:
        super().setUp()
        self.cached()

    def upload(
        self, method: bytes = b"PUT", target: bytes = b"/key", body: bytes = b"new", **headers: bytes
    ) -> tuple[FakeClient, RecordingSink]:
        """A request with a body that S3 takes as it comes; all of it has arrived."""
        fields = {name.replace("_", "-").encode(): value for name, value in headers.items()}
        client = self.harness.send(method, target, fields, body)
        sink = RecordingSink()
        source = self.upstream.last.request.body
        assert source is not None
        source.start(sink)
        client.body.sink.data_received(body[:-1])
        client.body.sink.data_received(body[-1:])
        client.body.sink.stream_ended()
        return client, sink

    def is_dropped(self, target: bytes = b"/key") -> None:
        """Nothing of the older object is served, whatever S3 says: it is asked for the bytes, or about newer ones."""
        before = len(self.upstream.asked)
        self.harness.get(target)
        self.assertEqual(len(self.upstream.asked), before + 1)
        self.assertIn(self.upstream.last.header(b"if-none-match"), (None, b'"new"'))

    def is_kept(self) -> None:
        """The entry is still there; S3 is asked for confirmation at most."""
        before = len(self.upstream.asked)
        client = self.harness.get()
        if len(self.upstream.asked) > before:
            self.upstream.last.respond(not_modified())
        self.assertEqual(client.answer, BODY)


class PassingTests(ForwardTestCase):
    """Bytes in both directions."""

    def test_upload_is_untouched(self) -> None:
        """Target, headers and body reach S3 as they came."""
        client, sink = self.upload(target=b"/k%2Fey?x-id=PutObject", body=b"0123456789", x_amz_meta_a=b"\xc3\xa9")
        asked = self.asks(1)
        self.assertEqual(asked.request.target, b"/k%2Fey?x-id=PutObject")
        self.assertEqual(asked.header(b"x-amz-meta-a"), b"\xc3\xa9")
        self.assertEqual((sink.data, sink.ended), (b"0123456789", True))
        asked.respond(FakeResponse(200, {b"ETag": b'"new"'}))
        self.assertEqual((client.status, client.ended), (200, "finished"))
        self.assertEqual(client.header(b"x-cache"), b"BYPASS")

    def test_answer_at_the_clients_pace(self) -> None:
        """A client that does not read pauses S3."""
        client = self.harness.send(b"GET", b"/?list-type=2")
        client.stalled = True
        response = self.asks(1).respond(FakeResponse(200, {}, None))
        response.sink.data_received(b"a")
        self.assertTrue(response.paused)
        client.unstall()
        self.assertFalse(response.paused)
        response.sink.stream_ended()
        self.assertEqual((client.answer, client.ended), (b"a", "finished"))

    def test_client_leaves(self) -> None:
        """A client that leaves ends S3's answer, too."""
        client = self.harness.send(b"GET", b"/?list-type=2")
        response = self.asks(1).respond(FakeResponse(200, {}, None))
        client.leave()
        self.assertTrue(response.aborted)
        self.assertEqual(self.harness.gateway.in_flight, 0)

    def test_broken_answer(self) -> None:
        """An answer that breaks off is cut, not ended."""
        client = self.harness.send(b"GET", b"/?list-type=2")
        response = self.asks(1).respond(FakeResponse(200, {}, None))
        response.sink.data_received(b"a")
        response.sink.stream_failed(Failure(UpstreamError("reset", sent=True)))
        self.assertEqual(client.ended, "aborted")
        self.assertTrue(self.harness.records[-1].upstream_aborted)

    def test_unknown_methods(self) -> None:
        """S3 knows what to say to methods that we don't know."""
        client = self.harness.send(b"OPTIONS", b"/key")
        self.asks(1).respond(FakeResponse(200, {b"Access-Control-Allow-Origin": b"*"}))
        self.assertEqual(client.header(b"access-control-allow-origin"), b"*")


class InvalidationTests(ForwardTestCase):
    """Writes and what is cached."""

    def test_not_served_while_it_is_written(self) -> None:
        """From the last byte of an upload on, nothing is served without asking S3."""
        client = self.harness.send(b"PUT", b"/key", {}, b"ab")
        sink = RecordingSink()
        source = self.upstream.last.request.body
        assert source is not None
        source.start(sink)
        client.body.sink.data_received(b"a")
        self.served(self.harness.get(), b"HIT")
        client.body.sink.data_received(b"b")
        client.body.sink.stream_ended()
        self.assertEqual(sink.data, b"ab")
        reader = self.harness.get()
        self.assertEqual(self.asks(2).header(b"if-none-match"), b'"v1"')
        self.upstream.last.respond(not_modified())
        self.served(reader, b"REVALIDATED")
        self.harness.get()
        self.asks(3)

    def test_dropped_before_the_status(self) -> None:
        """When the client can know of the success, the older object is gone."""
        client, _ = self.upload()
        response = FakeResponse(200, {b"ETag": b'"new"'})
        original = client.start_response

        def checked(*args: object) -> None:
            original(*args)  # type: ignore[arg-type]
            self.is_dropped()

        client.start_response = checked  # type: ignore[method-assign, assignment]
        self.asks(1).respond(response)
        self.assertEqual(client.ended, "finished")

    def test_every_write_drops(self) -> None:
        """Each operation that changes an object drops its entry."""
        for method, target, headers in (
            (b"PUT", b"/key", {}),
            (b"PUT", b"/key?tagging", {}),
            (b"PUT", b"/key?acl", {}),
            (b"PUT", b"/key?retention", {}),
            (b"PUT", b"/key?legal-hold", {}),
            (b"PUT", b"/key?unknown", {}),
            (b"PUT", b"/key", {b"x-amz-write-offset-bytes": b"5"}),
            (b"PUT", b"/key", {b"x-amz-server-side-encryption-customer-key": b"k"}),
            (b"PUT", b"/k%65y", {}),
            (b"POST", b"/key?restore", {}),
            (b"DELETE", b"/key", {}),
            (b"DELETE", b"/key?versionId=3", {}),
            (b"DELETE", b"/key?tagging", {}),
        ):
            self.harness.send(method, target, headers)
            self.upstream.last.respond(FakeResponse(200))
            self.is_dropped()
            self.upstream.last.respond(ok())
        self.harness.send(b"PUT", b"/other?renameObject", {b"x-amz-rename-source": b"/bucket/key"})
        self.upstream.last.respond(FakeResponse(200))
        self.is_dropped()

    def test_refused_write_keeps_the_entry(self) -> None:
        """ST-20, CN-14: 4xx changes nothing; the entry costs one confirmation."""
        for status in (400, 403, 404, 409, 412):
            client, _ = self.upload()
            self.upstream.last.respond(error(status, b"Refused"))
            self.assertEqual(client.status, status)
            self.is_kept()
        self.assertEqual(self.harness.left_over(), [])

    def test_unknown_outcome_drops(self) -> None:
        """ST-19: a write whose outcome will never be known may have happened."""
        client, _ = self.upload()
        self.asks(1).fail(UpstreamUnreachable("reset", sent=True))
        self.assertEqual(client.status, 502)
        self.is_dropped()

    def test_internal_error_drops(self) -> None:
        """S3 may have acted before it failed."""
        self.upload()
        self.asks(1).respond(error(500, b"InternalError"))
        self.is_dropped()

    def test_failure_before_the_last_byte_keeps(self) -> None:
        """S3 can't act on half an upload."""
        client = self.harness.send(b"PUT", b"/key", {}, b"ab")
        self.asks(1).fail(UpstreamUnreachable("refused", sent=False))
        self.assertEqual(client.status, 502)
        self.served(self.harness.get(), b"HIT")

    def test_client_leaves_after_the_last_byte(self) -> None:
        """Nobody will hear of the outcome: the entry is dropped."""
        client, _ = self.upload()
        client.leave()
        self.is_dropped()

    def test_client_leaves_before_the_last_byte(self) -> None:
        """The entry stays fresh."""
        client = self.harness.send(b"PUT", b"/key", {}, b"ab")
        client.leave()
        self.served(self.harness.get(), b"HIT")

    def test_read_from_before_the_write(self) -> None:
        """A read that began before a write can't bring the old bytes back."""
        self.harness.clock.advance(61)
        reader = self.harness.get(cache_control=b"no-cache")
        asked = self.asks(1)
        self.harness.send(b"DELETE", b"/key")
        self.upstream.last.respond(FakeResponse(204))
        asked.respond(ok())
        self.assertEqual(reader.answer, BODY)
        self.is_dropped()

    def test_read_during_the_write(self) -> None:
        """Nor can one that began while the write was on its way."""
        self.harness.send(b"DELETE", b"/key")
        write = self.upstream.last
        reader = self.harness.get(cache_control=b"no-cache")
        read = self.upstream.last
        late = self.harness.get(cache_control=b"no-cache")
        late_read = self.upstream.last
        read.respond(ok())
        write.respond(FakeResponse(204))
        late_read.respond(ok())
        self.assertEqual((reader.answer, late.answer), (BODY, BODY))
        self.is_dropped()

    def test_join_after_the_write(self) -> None:
        """A read that starts after the acknowledgement joins nothing that began before it."""
        body = b"0123456789" * 50_000
        self.harness.get(b"/large")
        response = self.upstream.last.respond(ok(None, length=len(body)))
        response.sink.data_received(body[:1000])
        self.harness.send(b"PUT", b"/large")
        self.upstream.last.respond(FakeResponse(200))
        before = len(self.upstream.asked)
        reader = self.harness.get(b"/large")
        self.assertEqual(len(self.upstream.asked), before + 1)
        self.assertEqual(reader.answer, b"")

    def test_joins_after_a_write_that_was_read_meanwhile(self) -> None:
        """Nor does it join a read that began while the write was on its way, whether that has its answer or not."""
        for answered in (True, False):
            target = b"/answered" if answered else b"/unanswered"
            self.harness.get(target, range=b"bytes=0-99")
            self.upstream.last.respond(part(0, 100))
            self.harness.send(b"PUT", target)
            write = self.upstream.last
            self.harness.get(target, range=b"bytes=100-1023", cache_control=b"no-cache")
            if answered:
                self.upstream.last.respond(part(100, 1024, deliver=False)).sink.data_received(BODY[100:200])
            write.respond(FakeResponse(200))
            before = len(self.upstream.asked)
            reader = self.harness.get(target, range=b"bytes=100-199")
            self.assertEqual((len(self.upstream.asked), reader.answer), (before + 1, b""))

    def test_multi_delete(self) -> None:
        """ST-03: every key in the body is dropped before S3 has the body's end."""
        client, sink = self.upload(b"POST", b"/?delete", DELETE_TWO)
        self.assertEqual(sink.data, DELETE_TWO)
        self.asks(1).respond(FakeResponse(200, {}, b"<DeleteResult/>"))
        self.assertEqual(client.answer, b"<DeleteResult/>")
        self.is_dropped()
        self.is_dropped(b"/other")

    def test_multi_delete_of_a_thousand(self) -> None:
        """ST-03: as many keys as S3 takes are dropped, and S3's answer need not name any of them."""
        keys = [b"key", *(b"key-%d&amp;" % number for number in range(999))]
        listed = b"".join(b"<Object><Key>%s</Key></Object>" % key for key in keys)
        for target in (b"/key-0%26", b"/key-998%26"):
            self.harness.get(target)
            self.upstream.last.respond(ok())
        self.upstream.asked.clear()
        self.upload(b"POST", b"/?delete", b"<Delete><Quiet>true</Quiet>%s</Delete>" % listed)
        self.asks(1).respond(FakeResponse(200, {}, b"<DeleteResult/>"))
        for target in (b"/key", b"/key-0%26", b"/key-998%26"):
            self.is_dropped(target)

    def test_multi_delete_that_is_not_understood(self) -> None:
        """S3 never gets the end of a list that the cache can't follow."""
        client, sink = self.upload(b"POST", b"/?delete", b"<Delete><Object>")
        assert isinstance(sink.ended, Failure)
        self.asks(1).fail(UpstreamError("the body failed", sent=False))
        self.assertEqual(client.status, 400)
        self.assertIn(b"MalformedXML", client.answer)

    def test_form_upload(self) -> None:
        """The key is in the form."""
        client, sink = self.upload(b"POST", b"/", FORM, Content_Type=b"multipart/form-data; boundary=" + BOUNDARY)
        self.assertEqual(sink.data, FORM)
        self.asks(1).respond(FakeResponse(204))
        self.assertEqual(client.status, 204)
        self.is_dropped()

    def test_form_upload_named_by_s3(self) -> None:
        """Or in S3's answer."""
        body = FORM.replace(b'name="key"', b'name="kez"')
        self.upload(b"POST", b"/", body, Content_Type=b"multipart/form-data; boundary=" + BOUNDARY)
        self.asks(1).respond(FakeResponse(204, {b"Location": b"https://bucket.s3.amazonaws.com/key"}))
        self.is_dropped()

    def form(self, body: bytes, status: int, location: bytes) -> None:
        """A form is uploaded, and S3 sends the browser on."""
        client, _ = self.upload(b"POST", b"/", body, Content_Type=b"multipart/form-data; boundary=" + BOUNDARY)
        self.upstream.last.respond(FakeResponse(status, {b"Location": location}))
        self.assertEqual((client.status, client.header(b"location")), (status, location))

    def test_form_upload_that_leads_to_a_page(self) -> None:
        """The page that the form names is shown after a success; its address has the key, if the form does not tell."""
        page = b"https://example.com/done?bucket=bucket&key=key&etag=%22x%22"
        for status in (303, 302):
            for body in (FORM, FORM.replace(b'name="key"', b'name="kez"')):
                self.form(body, status, page)
                self.is_dropped()
                self.upstream.last.respond(ok())

    def test_form_upload_that_is_redirected(self) -> None:
        """S3's own redirects mean that it has to be asked elsewhere: nothing has happened."""
        for status in (301, 307):
            self.form(FORM, status, b"https://bucket.s3.eu-west-1.amazonaws.com/")
            self.is_kept()


class UnknownOutcomeTests(ForwardTestCase):
    """S3 may act when nobody listens any more."""

    def test_read_before_it_shows(self) -> None:
        """What is read between the loss of the answer and S3's act does not stay for long."""
        for lost in range(3):
            client, _ = self.upload()
            if lost == 0:
                self.upstream.last.fail(UpstreamUnreachable("reset", sent=True))
            elif lost == 1:
                client.leave()
            else:
                self.upstream.last.respond(error(500, b"InternalError"))
            self.harness.get()
            self.upstream.last.respond(ok())
            self.served(self.harness.get(), b"HIT")
            self.harness.clock.advance(LATE)
            self.is_dropped()
            self.upstream.last.respond(ok())

    def test_many(self) -> None:
        """The same for many keys at once."""
        keys = b"".join(b"<Object><Key>k%d</Key></Object>" % number for number in range(20))
        self.upload(b"POST", b"/?delete", b"<Delete>%s<Object><Key>key</Key></Object></Delete>" % keys)
        self.upstream.last.fail(UpstreamUnreachable("reset", sent=True))
        self.harness.get()
        self.upstream.last.respond(ok())
        self.harness.clock.advance(LATE)
        self.is_dropped()

    def test_known_outcome(self) -> None:
        """Nothing more happens after a success or a refusal."""
        for answer in (FakeResponse(200, {b"ETag": b'"new"'}), error(403, b"AccessDenied")):
            self.upload()
            self.upstream.last.respond(answer)
            self.assertEqual(self.harness.clock.getDelayedCalls(), [])

    def test_success_before_the_end(self) -> None:
        """S3 says that it has the object before it has the last byte: nothing stays armed, whichever comes last."""
        client = self.harness.send(b"PUT", b"/key", {}, b"ab")
        source = self.upstream.last.request.body
        assert source is not None
        source.start(RecordingSink())
        client.body.sink.data_received(b"a")
        response = self.asks(1).respond(FakeResponse(200, {b"ETag": b'"new"'}, None, length=4))
        self.assertEqual(client.status, 200)
        client.body.sink.data_received(b"b")
        client.body.sink.stream_ended()
        response.sink.data_received(b"done")
        response.sink.stream_ended()
        self.assertEqual(client.ended, "finished")
        self.assertEqual(self.harness.store.volume.live, set())
        self.is_dropped()


class LateOutcomeTests(ForwardTestCase):
    """A 200 that is only decided by its body."""

    def copy(self) -> tuple[FakeClient, FakeResponse]:
        client = self.harness.send(b"PUT", b"/key", {b"x-amz-copy-source": b"/bucket/other"})
        return client, self.asks(1).respond(FakeResponse(200, {}, None))

    def test_success(self) -> None:
        """The entry is gone before the client has the end of the answer."""
        client, response = self.copy()
        self.assertEqual(client.status, 200)
        response.sink.data_received(b"  ")
        response.sink.data_received(b"<CopyObjectResult/>")
        self.assertEqual(client.answer, b"  ")
        reader = self.harness.get()
        self.assertEqual(self.asks(2).header(b"if-none-match"), b'"v1"')
        response.sink.stream_ended()
        self.assertEqual((client.answer, client.ended), (b"  <CopyObjectResult/>", "finished"))
        self.is_dropped()
        self.assertEqual(reader.answer, b"")

    def test_error_in_a_200(self) -> None:
        """An <Error> changes nothing."""
        client, response = self.copy()
        response.sink.data_received(b"<Error><Code>InternalError</Code></Error>")
        response.sink.stream_ended()
        self.assertEqual(client.ended, "finished")
        self.is_kept()

    def test_broken_answer(self) -> None:
        """An answer that breaks off may have been a success."""
        client, response = self.copy()
        response.sink.data_received(b" ")
        response.sink.stream_failed(Failure(UpstreamError("reset", sent=True)))
        self.assertEqual(client.ended, "aborted")
        self.is_dropped()

    def test_completed_upload(self) -> None:
        """ST-08: CompleteMultipartUpload is such an operation."""
        client, _ = self.upload(b"POST", b"/key?uploadId=U", b"<CompleteMultipartUpload/>")
        response = self.asks(1).respond(FakeResponse(200, {}, None))
        response.sink.data_received(b"<CompleteMultipartUploadResult/>")
        response.sink.stream_ended()
        self.assertEqual(client.ended, "finished")
        self.is_dropped()


class UnaffectedTests(ForwardTestCase):
    """Writes that change no object."""

    def test_parts_keep_the_entry(self) -> None:
        """ST-21: parts of an unfinished upload, its creation and its end leave the object alone."""
        for method, target in (
            (b"POST", b"/key?uploads"),
            (b"PUT", b"/key?partNumber=1&uploadId=U"),
            (b"DELETE", b"/key?uploadId=U"),
            (b"POST", b"/key?select&select-type=2"),
            (b"PUT", b"/another"),
        ):
            self.harness.send(method, target)
            self.upstream.last.respond(FakeResponse(200))
        asked = len(self.upstream.asked)
        self.served(self.harness.get(), b"HIT")
        self.asks(asked)


class PermitTests(ReadTestCase):
    """server.max_concurrent_requests."""

    settings = {"max_requests": 1}

    def test_no_permit(self) -> None:
        """Without a permit nothing is sent to S3, and clients are told to come back."""
        self.harness.get()
        client = self.harness.get()
        self.asks(1)
        self.assertEqual(client.status, 503)
        self.assertEqual(client.header(b"retry-after"), b"5")
        self.assertIn(b"<Code>SlowDown</Code>", client.answer)

    def test_permit_is_held_to_the_last_byte(self) -> None:
        """A client that reads slowly keeps its permit."""
        slow = self.harness.get()
        slow.stalled = True
        self.asks(1).respond(ok())
        self.assertEqual(self.harness.get().status, 503)
        slow.unstall()
        self.assertEqual(self.harness.get().status, 200)
