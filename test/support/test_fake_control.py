"""Tests for the fake S3 as a process of its own."""

import signal
import threading
import urllib.error
import urllib.request
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from test.support.content import content
from test.support.fake_control import RemoteFakeS3
from test.support.fake_script import Action, Match
from test.support.raw_client import ConnectionEnded, RawClient, signed_get, signed_request_bytes
from test.support.sigv4 import Credential
from test.support.waiting import open_descriptors, poll, resident_bytes

HOST = b"localhost"


class RemoteFakeS3Tests(SynchronousTestCase):
    """The other process can be told everything, and tells everything."""

    def setUp(self) -> None:
        """A fake with a bucket."""
        self.fake = RemoteFakeS3()
        self.addCleanup(self.fake.stop)
        self.fake.create_bucket("bucket")

    def get(self, key: bytes = b"key", **more: object) -> bytes:
        """Read an object in plain text."""
        address = ("127.0.0.1", self.fake.port)
        return signed_get(address, b"/bucket/" + key, HOST, self.fake.credential, **more).body  # type: ignore[arg-type]

    def test_objects_and_records(self) -> None:
        """Objects with any bytes can be put, read, and found in the record."""
        etag = self.fake.put_object("bucket", b"k\xff", bytes(range(256)), [(b"x-amz-meta-a", b"\xe9")])
        self.assertEqual(self.get(b"k%FF"), bytes(range(256)))
        (record,) = self.fake.wait_finished(1)
        self.assertEqual((record.key, record.status, record.body_sent), (b"k\xff", 200, 256))
        self.assertEqual(record.header(b"host"), HOST)
        self.assertEqual(len(etag), 34)
        self.fake.clear_requests()
        self.assertEqual(len(self.fake.requests), 0)

    def test_tls(self) -> None:
        """TLS is verified against the authority of this fake."""
        self.fake.put_object("bucket", b"key", b"over TLS")
        with RawClient("127.0.0.1", self.fake.tls_port, ca_file=self.fake.ca_file) as client:
            client.send(signed_request_bytes(b"GET", b"/bucket/key", HOST, self.fake.credential))
            self.assertEqual(client.read_response().body, b"over TLS")
        self.assertTrue(self.fake.requests[0].tls)

    def test_scripts(self) -> None:
        """Scripts with bytes in them arrive whole, count their hits, and hold until they are released."""
        self.fake.put_object("bucket", b"key", b"x" * 100)
        lie = self.fake.script(Match(key=b"key"), Action(set_headers=((b"ETag", b'"\xff"'),), cut_after=10))
        self.assertRaises(ConnectionEnded, self.get)
        self.assertEqual(lie.hits, 1)
        held = self.fake.script(Match(), Action(stall_after=50), times=None)
        answers: list[bytes] = []
        thread = threading.Thread(target=lambda: answers.append(self.get()))
        thread.start()
        poll(lambda: held.held == 1, 10, "the request to be held")
        held.release()
        thread.join(10)
        self.assertEqual(answers, [b"x" * 100])
        self.fake.behave()
        self.assertEqual(self.get(), b"x" * 100)

    def test_predicates_stay_here(self) -> None:
        """What can't be sent is refused at once."""
        self.assertRaises(ValueError, self.fake.script, Match(predicate=lambda _: True), Action())

    def test_mistakes_come_back(self) -> None:
        """An error of the other process is an error here, and it goes on."""
        self.assertRaises(RuntimeError, self.fake.put_object, "missing", b"key", b"")
        self.assertEqual(self.fake.connection_counts()["open"], 0)

    def test_credentials(self) -> None:
        """Further credentials can be added and denied."""
        other = Credential("OTHER", "secret")
        address = ("127.0.0.1", self.fake.port)
        self.fake.put_object("bucket", b"key", b"x")
        self.fake.add_credential(other)
        self.assertEqual(signed_get(address, b"/bucket/key", HOST, other).status, 200)
        self.fake.deny("OTHER", "bucket", b"key")
        self.assertEqual(signed_get(address, b"/bucket/key", HOST, other).status, 403)
        self.fake.allow_all()
        self.assertEqual(signed_get(address, b"/bucket/key", HOST, other).status, 200)

    def test_large_objects_cost_no_memory(self) -> None:
        """Half a gigabyte goes out and 64 MiB come in without being kept, and nothing stays open."""
        self.fake.put_generated("bucket", b"huge", 4, 512 << 20)
        descriptors = open_descriptors(self.fake.pid)
        self.get()
        before = resident_bytes(self.fake.pid)
        with RawClient("127.0.0.1", self.fake.port, timeout=60) as client:
            client.send(signed_request_bytes(b"GET", b"/bucket/huge", HOST, self.fake.credential))
            client.read_head()
            at = 0
            while at < 512 << 20:
                piece = client.read_some(1 << 20)
                if at % (64 << 20) == 0:
                    self.assertEqual(piece, content(4, at, at + len(piece)))
                at += len(piece)
            body = content(5, 0, 64 << 20)
            headers = [(b"Content-Length", b"%d" % len(body)), (b"x-amz-content-sha256", b"UNSIGNED-PAYLOAD")]
            client.send(signed_request_bytes(b"PUT", b"/bucket/up", HOST, self.fake.credential, headers=headers))
            client.send(body)
            self.assertEqual(client.read_response().status, 200)
        self.assertLess(resident_bytes(self.fake.pid) - before, 32 << 20)
        self.fake.delete_object("bucket", b"up")
        poll(lambda: open_descriptors(self.fake.pid) <= descriptors, 5, "descriptors to close")

    def test_slow_reader_costs_no_memory(self) -> None:
        """A client that stops reading makes the fake wait."""
        self.fake.put_generated("bucket", b"huge", 4, 512 << 20)
        self.get()
        before = resident_bytes(self.fake.pid)
        with RawClient("127.0.0.1", self.fake.port, receive_buffer=65536) as client:
            client.send(signed_request_bytes(b"GET", b"/bucket/huge", HOST, self.fake.credential))
            client.read_head()
            client.read_exactly(1 << 20)
            poll(lambda: self.fake.requests[1].body_sent, 5, "bytes")
            self.assertLess(self.fake.requests[1].body_sent, 16 << 20)
            self.assertLess(resident_bytes(self.fake.pid) - before, 16 << 20)
            client.abort()
        poll(lambda: self.fake.connection_counts()["open"] == 0, 5, "the connection to end")

    def test_presigned_url_of_boto3(self) -> None:
        """URLs that boto3 signs are accepted in both versions, and not for another key."""
        try:
            import boto3  # type: ignore[import-untyped]
            from botocore.config import Config  # type: ignore[import-untyped]
        except ImportError:
            raise SkipTest("boto3 is not installed") from None
        self.fake.put_object("bucket", b"key", b"signed")
        for version in ("s3", "s3v4"):
            client = boto3.client(
                "s3",
                endpoint_url=f"http://127.0.0.1:{self.fake.port}",
                region_name="us-east-1",
                aws_access_key_id=self.fake.credential.access_key,
                aws_secret_access_key=self.fake.credential.secret_key,
                config=Config(signature_version=version, s3={"addressing_style": "path"}),
            )
            url = client.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "key"})
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url) as answer:
                self.assertEqual(answer.read(), b"signed")
            refused = self.assertRaises(urllib.error.HTTPError, urllib.request.urlopen, url.replace("/key?", "/kez?"))
            self.addCleanup(refused.close)
            self.assertEqual(refused.code, 403)

    def test_ends_with_its_parent(self) -> None:
        """The process ends when its standard input ends, and does not need a signal."""
        self.fake.stop()
        self.assertEqual(self.fake._process.returncode, 0)
        self.assertNotEqual(self.fake._process.returncode, -signal.SIGKILL)
