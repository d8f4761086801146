"""Tests for the fake S3 in the trial process: what it refuses, and how it misbehaves when told to."""

import hashlib
import time
from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from test.support.content import content
from test.support.fake_s3 import DEFAULT_CREDENTIAL, FakeS3
from test.support.fake_script import Action, Match
from test.support.fake_store import BytesBody
from test.support.raw_client import ConnectionEnded, RawClient, RawResponse, request_bytes, signed_request_bytes
from test.support.sigv4 import Credential, Pair
from test.support.waiting import open_descriptors, wait_until

T = TypeVar("T")
HOST = b"s3.us-east-1.amazonaws.com"
DATA = content(1, 0, 100_000)


class FakeS3TestCase(TestCase):
    """A fake with one bucket and one object; clients run in threads."""

    timeout = 30

    def setUp(self) -> None:
        """Listen on a free port."""
        self.fake = FakeS3(reactor, min_part_size=1)
        self.fake.create_bucket("bucket")
        self.fake.put_object("bucket", b"key", DATA)
        self.port = self.fake.listen()
        self.addCleanup(self.fake.stop)

    async def thread(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run blocking code while the reactor serves it."""
        result: T = await deferToThread(function, *arguments)
        return result

    def connect(self) -> RawClient:
        """A new connection; blocks only until the kernel has queued it."""
        client = RawClient("127.0.0.1", self.port, timeout=10)
        self.addCleanup(client.close)
        return client

    def request(self, method: bytes = b"GET", target: bytes = b"/bucket/key", **more: Any) -> bytes:
        """A signed request on the wire."""
        return signed_request_bytes(method, target, HOST, DEFAULT_CREDENTIAL, **more)

    async def exchange(self, data: bytes, method: bytes = b"GET", client: RawClient | None = None) -> RawResponse:
        """Send these bytes and read one answer."""
        used = client if client is not None else self.connect()

        def run() -> RawResponse:
            used.send(data)
            return used.read_response(method)

        return await self.thread(run)

    async def ended(self, client: RawClient, data: bytes) -> ConnectionEnded:
        """Send these bytes, whose answer must be cut short."""

        def run() -> ConnectionEnded:
            client.send(data)
            try:
                client.read_response()
            except ConnectionEnded as error:
                return error
            raise AssertionError("the answer was complete")

        return await self.thread(run)


def _put(body: bytes, *headers: Pair, payload: bytes | None = None) -> dict[str, Any]:
    hashed = hashlib.sha256(body).hexdigest().encode() if payload is None else payload
    return {"headers": [(b"Content-Length", b"%d" % len(body)), *headers], "payload": hashed}


class RefusalTests(FakeS3TestCase):
    """What the fake does not let pass."""

    async def test_anonymous(self) -> None:
        """A request without a signature is refused, except in a public bucket."""
        self.fake.create_bucket("open", public=True)
        self.fake.put_object("open", b"key", b"x")
        client = self.connect()
        plain = [(b"Host", HOST)]
        refused = await self.exchange(request_bytes(b"GET", b"/bucket/key", plain), client=client)
        self.assertEqual(refused.status, 403)
        self.assertIn(b"<Code>AccessDenied</Code>", refused.body)
        allowed = await self.exchange(request_bytes(b"GET", b"/open/key", plain), client=client)
        self.assertEqual((allowed.status, allowed.body), (200, b"x"))

    async def test_wrong_secret(self) -> None:
        """The wrong secret is a mismatch, and the record says so."""
        wrong = Credential(DEFAULT_CREDENTIAL.access_key, "wrong")
        answer = await self.exchange(signed_request_bytes(b"GET", b"/bucket/key", HOST, wrong))
        self.assertEqual(answer.status, 403)
        self.assertEqual(self.fake.requests[0].error, "SignatureDoesNotMatch")

    async def test_denied(self) -> None:
        """A second credential can be refused for one object only."""
        other = Credential("OTHER", "secret")
        self.fake.add_credential(other)
        self.fake.put_object("bucket", b"free", b"free")
        self.fake.deny("OTHER", "bucket", b"key")
        client = self.connect()
        for target, status in ((b"/bucket/key", 403), (b"/bucket/free", 200)):
            answer = await self.exchange(signed_request_bytes(b"GET", target, HOST, other), client=client)
            self.assertEqual(answer.status, status)
        self.assertEqual((await self.exchange(self.request(), client=client)).status, 200)

    async def test_body_hash(self) -> None:
        """A body that is not the signed one is refused and not stored."""
        body = b"other bytes"
        data = self.request(b"PUT", b"/bucket/new", body=body, **_put(b"these bytes"))
        answer = await self.exchange(data)
        self.assertEqual(answer.status, 400)
        self.assertIn(b"XAmzContentSHA256Mismatch", answer.body)
        self.assertNotIn(b"new", self.fake.store.buckets[b"bucket"].objects)

    async def test_content_md5(self) -> None:
        """A wrong Content-MD5 is refused."""
        md5 = (b"Content-MD5", b"XrY7u+Ae7tCTyyK7j1rNww==")
        answer = await self.exchange(self.request(b"PUT", body=b"x", **_put(b"x", md5)))
        self.assertIn(b"BadDigest", answer.body)

    async def test_checksum(self) -> None:
        """A wrong checksum is refused."""
        checksum = (b"x-amz-checksum-crc32", b"AAAAAA==")
        answer = await self.exchange(self.request(b"PUT", body=b"x", **_put(b"x", checksum)))
        self.assertIn(b"BadDigest", answer.body)

    async def test_trailer(self) -> None:
        """A trailing checksum is checked, and aws-chunked leaves no trace in the object."""
        good = b"1\r\nx\r\n0\r\nx-amz-checksum-crc32:jNwWgw==\r\n\r\n"
        headers = [(b"x-amz-decoded-content-length", b"1"), (b"x-amz-trailer", b"x-amz-checksum-crc32")]
        headers.append((b"Content-Encoding", b"aws-chunked"))
        payload = b"STREAMING-UNSIGNED-PAYLOAD-TRAILER"
        target = b"/bucket/trailed"
        for body, status in ((good, 200), (good.replace(b"jNwW", b"jNwX"), 400)):
            more = _put(body, *headers, payload=payload)
            answer = await self.exchange(self.request(b"PUT", target, body=body, **more))
            self.assertEqual(answer.status, status, answer.body)
        read = await self.exchange(self.request(b"GET", target))
        self.assertEqual(read.body, b"x")
        self.assertIsNone(read.header(b"content-encoding"))

    async def test_absolute_form(self) -> None:
        """An origin is spoken to in origin-form."""
        answer = await self.exchange(self.request(authority=HOST))
        self.assertEqual(answer.status, 400)
        self.assertEqual(len(self.fake.bad_requests), 1)

    async def test_no_http(self) -> None:
        """Garbage is answered with 400 and remembered."""
        answer = await self.exchange(b"\x16\x03\x01 garbage\r\n\r\n")
        self.assertEqual(answer.status, 400)
        self.assertEqual(len(self.fake.bad_requests), 1)


class RecordTests(FakeS3TestCase):
    """What the fake remembers."""

    async def test_raw(self) -> None:
        """Targets and fields are kept as spelled and in order, and connections are told apart."""
        client = self.connect()
        odd = self.request(target=b"/bucket/k%65y?x-id=GetObject", unsigned=[(b"x-ODD", b"1")])
        await self.exchange(odd, client=client)
        await self.exchange(self.request(), client=client)
        await self.exchange(self.request())
        first, second, third = self.fake.requests
        self.assertEqual(first.target, b"/bucket/k%65y?x-id=GetObject")
        self.assertEqual(first.headers[-1], (b"x-ODD", b"1"))
        self.assertEqual((first.operation, first.bucket, first.key), ("GetObject", b"bucket", b"key"))
        self.assertEqual((first.status, first.error), (200, ""))
        self.assertEqual((second.status, second.body_sent, second.finished), (200, len(DATA), True))
        self.assertEqual([first.connection, second.connection], [1, 1])
        self.assertEqual(third.connection, 2)

    async def test_reads_with_body(self) -> None:
        """Only answers with bytes of the object count as reads."""
        etag = (await self.exchange(self.request(b"HEAD"), b"HEAD")).header(b"etag") or b""
        await self.exchange(self.request(unsigned=[(b"If-None-Match", etag)]))
        await self.exchange(self.request(target=b"/bucket/missing"))
        self.assertEqual(self.fake.requests.reads_with_body(), [])
        await self.exchange(self.request(headers=[(b"Range", b"bytes=0-9")]))
        self.assertEqual(self.fake.requests.object_bytes(b"key"), 10)
        self.assertEqual([request.status for request in self.fake.requests], [200, 304, 404, 206])

    async def test_virtual_hosted(self) -> None:
        """A bucket in the Host is found for AWS's names and for configured ones."""
        for host in (b"bucket.s3.us-east-1.amazonaws.com", b"bucket.s3.amazonaws.com", b"bucket.s3.test:80"):
            answer = await self.exchange(signed_request_bytes(b"GET", b"/key", host, DEFAULT_CREDENTIAL))
            self.assertEqual((host, answer.status), (host, 200))


class ScriptTests(FakeS3TestCase):
    """Each way of misbehaving."""

    async def test_status(self) -> None:
        """An error can be ordered, once."""
        self.fake.script(Match(key=b"key"), Action(status=503, code="SlowDown"))
        client = self.connect()
        answer = await self.exchange(self.request(), client=client)
        self.assertEqual(answer.status, 503)
        self.assertIn(b"<Code>SlowDown</Code>", answer.body)
        self.assertEqual((await self.exchange(self.request(), client=client)).status, 200)

    async def test_match(self) -> None:
        """A script passes over requests that it is not for."""
        script = self.fake.script(Match(method=b"GET", header=b"range"), Action(status=500), times=None)
        self.assertEqual((await self.exchange(self.request())).status, 200)
        ranged = self.request(headers=[(b"Range", b"bytes=0-1")])
        for _ in range(2):
            self.assertEqual((await self.exchange(ranged)).status, 500)
        self.assertEqual(len(script.hits), 2)
        self.fake.behave()
        self.assertEqual((await self.exchange(ranged)).status, 206)

    async def test_hold(self) -> None:
        """A held answer comes with the release."""
        script = self.fake.script(Match(), Action(hold=True))
        client = self.connect()
        client.send(self.request())
        await wait_until(reactor, lambda: script.held == 1)
        script.release()
        answer = await self.thread(client.read_response)
        self.assertEqual(answer.body, DATA)

    async def test_held_client_leaves(self) -> None:
        """A client that leaves while it is held ends the wait."""
        script = self.fake.script(Match(), Action(hold=True))
        client = self.connect()
        client.send(self.request())
        await wait_until(reactor, lambda: script.held == 1)
        client.abort()
        await wait_until(reactor, lambda: self.fake.open_connections == 0)
        self.assertEqual(script.held, 0)
        self.assertFalse(self.fake.requests[0].finished)

    async def test_stall(self) -> None:
        """Exactly so many bytes come before the stall."""
        script = self.fake.script(Match(), Action(stall_after=5000))
        client = self.connect()
        client.send(self.request())
        await wait_until(reactor, lambda: script.held == 1)
        head = await self.thread(client.read_head)
        self.assertEqual(head.header(b"content-length"), b"100000")
        first = await self.thread(client.read_exactly, 5000)
        self.assertEqual(self.fake.requests[0].body_sent, 5000)
        script.release()
        self.assertEqual(first + await self.thread(client.read_exactly, 95000), DATA)

    async def test_reset(self) -> None:
        """The connection is reset after so many bytes."""
        self.fake.script(Match(), Action(reset_after=5000))
        error = await self.ended(self.connect(), self.request())
        self.assertIn("reset", str(error))
        self.assertEqual(self.fake.requests[0].body_sent, 5000)

    async def test_cut(self) -> None:
        """The connection is closed in order after so many bytes."""
        self.fake.script(Match(), Action(cut_after=5000))
        error = await self.ended(self.connect(), self.request())
        self.assertIn("closed", str(error))
        self.assertEqual(len(error.received), 5000)

    async def test_lies(self) -> None:
        """Length, Content-Range and ETag can be wrong, missing or made up."""
        lies = Action(
            content_length=100_001,
            content_range=b"bytes 1-2/3",
            drop_headers=(b"etag",),
            set_headers=((b"X-New", b"1"),),
        )
        self.fake.script(Match(), lies)
        client = self.connect()
        client.send(self.request(headers=[(b"Range", b"bytes=0-9")]))
        head = await self.thread(client.read_head)
        self.assertEqual(head.header(b"content-length"), b"100001")
        self.assertEqual(head.header(b"content-range"), b"bytes 1-2/3")
        self.assertEqual((head.header(b"etag"), head.header(b"x-new")), (None, b"1"))

    async def test_ignored_range(self) -> None:
        """A Range can be ignored."""
        self.fake.script(Match(), Action(ignore_range=True))
        answer = await self.exchange(self.request(headers=[(b"Range", b"bytes=0-9")]))
        self.assertEqual((answer.status, answer.body, answer.header(b"content-range")), (200, DATA, None))

    async def test_chunked(self) -> None:
        """An object can come in chunks, without a length."""
        self.fake.script(Match(), Action(chunked=True))
        answer = await self.exchange(self.request())
        self.assertEqual((answer.body, answer.header(b"content-length")), (DATA, None))

    async def test_rate(self) -> None:
        """The body takes as long as its rate says."""
        self.fake.script(Match(), Action(rate=200_000))
        began = time.monotonic()
        answer = await self.exchange(self.request())
        self.assertEqual(answer.body, DATA)
        self.assertGreater(time.monotonic() - began, 0.4)

    async def test_delayed_head(self) -> None:
        """The head can come late."""
        self.fake.script(Match(), Action(delay_head=0.2))
        began = time.monotonic()
        await self.exchange(self.request())
        self.assertGreater(time.monotonic() - began, 0.19)

    async def test_redirect(self) -> None:
        """A redirect can be ordered."""
        self.fake.script(Match(), Action(status=307, location=b"http://elsewhere.test/key"))
        answer = await self.exchange(self.request())
        self.assertEqual((answer.status, answer.header(b"location")), (307, b"http://elsewhere.test/key"))

    async def test_error_in_200(self) -> None:
        """A copy can fail in the body of a 200."""
        self.fake.script(Match(operation="CopyObject"), Action(error_in_200="InternalError"))
        headers = [(b"x-amz-copy-source", b"/bucket/key"), (b"Content-Length", b"0")]
        answer = await self.exchange(self.request(b"PUT", b"/bucket/copy", headers=headers))
        self.assertEqual(answer.status, 200)
        self.assertIn(b"<Error><Code>InternalError</Code>", answer.body)
        self.assertNotIn(b"copy", self.fake.store.buckets[b"bucket"].objects)

    async def test_raw_answer(self) -> None:
        """Any bytes at all can be the answer."""
        self.fake.script(Match(), Action(raw=b"SSH-2.0-fake\r\n"))
        client = self.connect()
        client.send(self.request())
        self.assertEqual(await self.thread(client.read_to_end), b"SSH-2.0-fake\r\n")

    async def test_interim(self) -> None:
        """Interim responses can precede the answer."""
        self.fake.script(Match(), Action(interim=(102, 103)))
        answer = await self.exchange(self.request())
        self.assertEqual((answer.interim, answer.status), ((102, 103), 200))

    async def test_closing(self) -> None:
        """A connection can be closed after an answer, announced or not."""
        for action, announced in ((Action(say_close=True), b"close"), (Action(close_after=True), None)):
            self.fake.script(Match(), action)
            client = self.connect()
            answer = await self.exchange(self.request(), client=client)
            self.assertEqual(answer.header(b"connection"), announced)
            self.assertEqual(await self.thread(client.read_to_end), b"")

    async def test_idle_connections(self) -> None:
        """Idle connections can be closed, and time out if they are told to; busy ones stay."""
        idle, busy = self.connect(), self.connect()
        script = self.fake.script(Match(), Action(hold=True))
        busy.send(self.request())
        await wait_until(reactor, lambda: script.held == 1 and self.fake.open_connections == 2)
        self.assertEqual(self.fake.close_idle_connections(), 1)
        self.assertEqual(await self.thread(idle.read_to_end), b"")
        script.release()
        self.assertEqual((await self.thread(busy.read_response)).status, 200)
        self.fake.idle_timeout = 0.05
        late = self.connect()
        self.assertEqual(await self.thread(late.read_to_end), b"")


class UploadTests(FakeS3TestCase):
    """Uploads on the wire."""

    def expecting(self, body: bytes, wrong: bool = False) -> bytes:
        """The head of an upload that waits for 100 Continue."""
        credential = Credential(DEFAULT_CREDENTIAL.access_key, "wrong") if wrong else DEFAULT_CREDENTIAL
        more = _put(body)
        expect = [(b"Expect", b"100-continue")]
        return signed_request_bytes(b"PUT", b"/bucket/up", HOST, credential, unsigned=expect, **more)

    async def test_continue(self) -> None:
        """100 Continue comes after its delay, and only then the body is read."""
        self.fake.script(Match(), Action(delay_continue=0.1))
        client = self.connect()
        client.send(self.expecting(b"body"))
        self.assertEqual(await self.thread(client.read_continue), 100)
        self.assertEqual(self.fake.requests[0].body_received, 0)
        answer = await self.exchange(b"body", b"PUT", client)
        self.assertEqual(answer.status, 200)
        self.assertEqual((self.fake.requests[0].continued, self.fake.requests[0].body_received), (True, 4))

    async def test_refused_before_the_body(self) -> None:
        """A refusal takes the place of 100 Continue, and the connection ends."""
        client = self.connect()
        client.send(self.expecting(b"body", wrong=True))
        self.assertEqual(await self.thread(client.read_continue), 403)
        answer = await self.thread(client.read_response)
        self.assertEqual(answer.header(b"connection"), b"close")
        self.assertFalse(self.fake.requests[0].continued)

    async def test_early_answer(self) -> None:
        """An answer can come while the body is still on its way, and is read although the client goes on sending."""
        self.fake.script(Match(), Action(early=True, status=403))
        size = 4 << 20
        client = self.connect()
        more = _put(b"", (b"Content-MD5", b"XrY7u+Ae7tCTyyK7j1rNww=="))
        more["headers"][0] = (b"Content-Length", b"%d" % size)
        client.send(self.request(b"PUT", **more))
        answer = await self.thread(client.read_response)
        self.assertEqual(answer.status, 403)
        await self.thread(client.send, bytes(size))
        self.assertEqual(self.fake.requests[0].body_received, 0)

    async def test_held_body(self) -> None:
        """Reading the body can be held back."""
        script = self.fake.script(Match(), Action(hold_body=True))
        client = self.connect()
        client.send(self.request(b"PUT", body=b"body", **_put(b"body")))
        await wait_until(reactor, lambda: script.held == 1)
        script.release()
        self.assertEqual((await self.thread(client.read_response)).status, 200)

    async def test_large_upload_is_not_kept_in_memory(self) -> None:
        """A large upload goes to a file, and reads back."""
        body = content(5, 0, 6 << 20)
        answer = await self.exchange(self.request(b"PUT", b"/bucket/large", body=body, **_put(body)), b"PUT")
        self.assertEqual(answer.header(b"etag"), b'"%b"' % hashlib.md5(body).hexdigest().encode())
        stored = self.fake.store.buckets[b"bucket"].objects[b"large"][-1].body
        self.assertEqual(type(stored).__name__, "FileBody")
        self.assertEqual((await self.exchange(self.request(target=b"/bucket/large"))).body, body)

    async def test_abandoned_upload(self) -> None:
        """A large upload whose client leaves half-way stores nothing and leaves no file open."""
        await self.exchange(self.request())
        client = self.connect()
        more = _put(b"", payload=b"UNSIGNED-PAYLOAD")
        more["headers"][0] = (b"Content-Length", b"%d" % (12 << 20))
        before = open_descriptors()
        client.send(self.request(b"PUT", b"/bucket/half", **more))
        await self.thread(client.send, bytes(6 << 20))
        await wait_until(reactor, lambda: open_descriptors() > before + 1)
        client.abort()
        await wait_until(reactor, lambda: open_descriptors() < before)
        self.assertNotIn(b"half", self.fake.store.buckets[b"bucket"].objects)

    async def test_generated_object(self) -> None:
        """A gigabyte that is nowhere can be read anywhere."""
        self.fake.put_generated("bucket", b"huge", 9, 1 << 30)
        start = (1 << 30) - 1000
        ranged = self.request(target=b"/bucket/huge", headers=[(b"Range", b"bytes=%d-" % start)])
        answer = await self.exchange(ranged)
        self.assertEqual(answer.body, content(9, start, 1 << 30))

    async def test_pipelined(self) -> None:
        """Requests that come in one segment are answered in order."""
        client = self.connect()
        client.send(self.request(b"PUT", b"/bucket/a", body=b"1", **_put(b"1")) + self.request(target=b"/bucket/a"))
        self.assertEqual((await self.thread(client.read_response)).status, 200)
        self.assertEqual((await self.thread(client.read_response)).body, b"1")


class PartTests(FakeS3TestCase):
    """Reads of single parts."""

    async def test_parts_of_an_upload(self) -> None:
        """GET and HEAD of a part say where it is, how many there are, and the part's own checksum to those who ask."""
        store, bucket = self.fake.store, self.fake.store.buckets[b"bucket"]
        store.put(
            bucket,
            b"parts",
            BytesBody(DATA),
            etag=b'"e-2"',
            checksums={"crc32": b"WHOLE-2"},
            checksum_type=b"COMPOSITE",
            parts=(60_000, 40_000),
            part_checksums=({"crc32": b"FIRST"}, {"crc32": b"SECOND"}),
        )
        for method, body in ((b"GET", DATA[60_000:]), (b"HEAD", b"")):
            for headers, checksum in (((), None), ([(b"x-amz-checksum-mode", b"ENABLED")], b"SECOND")):
                data = self.request(method, b"/bucket/parts?partNumber=2", headers=headers)
                answer = await self.exchange(data, method)
                self.assertEqual((answer.status, answer.body), (206, body))
                for name, value in (
                    (b"content-range", b"bytes 60000-99999/100000"),
                    (b"content-length", b"40000"),
                    (b"x-amz-mp-parts-count", b"2"),
                    (b"etag", b'"e-2"'),
                    (b"x-amz-checksum-crc32", checksum),
                ):
                    self.assertEqual(answer.header(name), value, name)
        ranged = [(b"Range", b"bytes=0-9"), (b"x-amz-checksum-mode", b"ENABLED")]
        answer = await self.exchange(self.request(target=b"/bucket/parts", headers=ranged))
        self.assertIsNone(answer.header(b"x-amz-checksum-crc32"))

    async def test_object_without_parts(self) -> None:
        """It is its own first part, and has no count."""
        answer = await self.exchange(self.request(target=b"/bucket/key?partNumber=1"))
        self.assertEqual((answer.status, answer.body), (206, DATA))
        self.assertEqual(answer.header(b"content-range"), b"bytes 0-99999/100000")
        self.assertIsNone(answer.header(b"x-amz-mp-parts-count"))

    async def test_refused(self) -> None:
        """No such part, no such number, and no range of a part."""
        for query, headers, status, code in (
            (b"2", (), 416, b"InvalidPartNumber"),
            (b"0", (), 400, b"InvalidArgument"),
            (b"x", (), 400, b"InvalidArgument"),
            (b"1", [(b"Range", b"bytes=0-9")], 400, b"InvalidRequest"),
        ):
            answer = await self.exchange(self.request(target=b"/bucket/key?partNumber=" + query, headers=headers))
            self.assertEqual(answer.status, status)
            self.assertIn(b"<Code>%b</Code>" % code, answer.body)
