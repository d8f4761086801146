"""Objects that are uploaded through the running proxy are read from its cache.

Large objects have 20 MiB, or 200 MiB with S3PROXY_TEST_LARGE=1, which also makes ten thousand rounds of some hundreds.
"""

import atexit
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from hashlib import md5
from pathlib import Path
from test.support.content import content, content_pieces
from test.support.fake_control import RemoteFakeS3
from test.support.fake_script import Action, Match
from test.support.proxy_process import ProxyProcess
from test.support.raw_client import ConnectionEnded, RawClient, RawResponse, request_bytes
from test.support.raw_server import RawRequest, RawServer
from test.support.s3_clients import CLIENTS, file_sha256, installed_clients
from test.support.sigv4 import Pair
from test.support.waiting import poll
from test.system.stage import HOST, LARGE_TESTS, MIB, Cached, Stage, at_once, dangling_generations, unfinished_files
from typing import Any, ClassVar

from twisted.trial.unittest import SynchronousTestCase

SIZES = {"empty": 0, "small": 1024, "middle": 300_000, "large": 20 * MIB}
if LARGE_TESTS:
    SIZES["huge"] = 200 * MIB
NOT_OF_THE_OBJECT = {
    b"date",
    b"server",
    b"connection",
    b"x-amz-id-2",
    b"x-amz-request-id",
    b"x-cache",
    b"cache-status",
    b"age",
}


def of_the_object(answer: RawResponse) -> list[Pair]:
    """The fields of an answer that belong to the object."""
    return sorted((name.lower(), value) for name, value in answer.headers if name.lower() not in NOT_OF_THE_OBJECT)


class UploadCase(SynchronousTestCase):
    """One proxy."""

    config: ClassVar[dict[str, Any]] = {}

    def setUp(self) -> None:
        """Start it."""
        self.stage = Stage(self.config)
        self.addCleanup(self.stage.stop)

    def direct(self, method: bytes, key: bytes, *headers: Pair) -> RawResponse:
        """What S3 itself answers."""
        with RawClient("127.0.0.1", self.stage.fake.port) as client:
            client.send(self.stage.request(method, key, headers=headers))
            return client.read_response(method)

    def is_described_as_by_s3(self, key: bytes) -> None:
        """GET, HEAD, a range and a GET with checksums have the fields that S3 sends, no more and no fewer."""
        ranged = (b"Range", b"bytes=0-0")
        checked = (b"x-amz-checksum-mode", b"ENABLED")
        for method, headers in ((b"GET", ()), (b"HEAD", ()), (b"GET", (ranged,)), (b"GET", (checked,))):
            expected = self.direct(method, key, *headers)
            answer = self.stage.ask(method, key, headers=headers)
            self.assertEqual((answer.status, of_the_object(answer)), (expected.status, of_the_object(expected)))
            self.assertTrue(answer.body == expected.body)


class ClientTests(SynchronousTestCase):
    """Real clients upload, and read back."""

    stage: ClassVar[Stage]
    folder: ClassVar[Path]
    number: ClassVar[int] = 0

    def setUp(self) -> None:
        """Start the proxy once."""
        cls = ClientTests
        if "stage" not in vars(cls):
            cls.folder = Path(tempfile.mkdtemp(prefix="uploads-"))
            atexit.register(shutil.rmtree, cls.folder)
            cls.stage = Stage({"server": {"mode": "proxy_only"}})
            atexit.register(cls.stage.stop)
            for name, size in SIZES.items():
                with (cls.folder / name).open("wb") as file:
                    for piece in content_pieces(len(name), 0, size):
                        file.write(piece)

    def uploads(self, client_name: str, size_name: str) -> None:
        """S3 sends not one byte of what this client has uploaded."""
        folder = self.folder / f"{client_name}-{size_name}"
        folder.mkdir()
        stage = self.stage
        client = {**CLIENTS, **installed_clients()}[client_name](
            endpoint=f"http://{HOST.decode()}",
            credential=stage.fake.credential,
            proxy=f"http://127.0.0.1:{stage.proxy.port}",
            folder=folder,
        )
        key, source, target = f"{client_name}/{size_name}", self.folder / size_name, folder / "target"
        stage.fake.clear_requests()
        client.upload(source, stage.bucket, key)
        for _ in range(2):
            client.download(stage.bucket, key, target)
            self.assertEqual(file_sha256(target), file_sha256(source))
            target.unlink()
        bodies = stage.fake.requests.reads_with_body(key.encode())
        self.assertEqual([(read.method, read.target, read.body_sent) for read in bodies], [])
        UploadCase.direct(self, b"HEAD", key.encode())  # type: ignore[arg-type]
        for headers in ((), ((b"x-amz-checksum-mode", b"ENABLED"),)):
            expected = UploadCase.direct(self, b"HEAD", key.encode(), *headers)  # type: ignore[arg-type]
            answer = stage.ask(b"GET", key.encode(), headers=headers)
            self.assertEqual(of_the_object(answer), of_the_object(expected))
        self.assertEqual(stage.tracebacks(), [])


def _add_clients() -> None:
    def row(client_name: str, size_name: str) -> Callable[[Any], None]:
        def test(self: Any) -> None:
            self.uploads(client_name, size_name)

        test.__doc__ = f"{client_name} reads back {SIZES[size_name]} bytes that it uploaded; S3 sends none of them."
        return test

    for client_name in {**CLIENTS, **installed_clients()}:
        for size_name in SIZES:
            setattr(ClientTests, f"test_{client_name}_{size_name}", row(client_name, size_name))


_add_clients()


class DescriptionTests(UploadCase):
    """What is said of an uploaded object."""

    def test_headers(self) -> None:
        """Every field that S3 repeats, also values that S3 does not take as plain text, shows as S3 shows it."""
        sets: tuple[tuple[Pair, ...], ...] = (
            (),
            ((b"Content-Type", b"application/x-odd; a=b"), (b"Content-Encoding", b"gzip, br")),
            ((b"x-amz-meta-name", "grün".encode()), (b"Cache-Control", b"max-age=1")),
            ((b"x-amz-meta-raw", b"\xe4\xff"), (b"Content-Disposition", 'attachment; filename="ü"'.encode())),
            (
                (b"Cache-Control", b"max-age=5, public"),
                (b"Content-Disposition", b"attachment; filename=a"),
                (b"Content-Language", b"de, en"),
                (b"Expires", b"Thu, 01 Dec 1994 16:00:00 GMT"),
                (b"x-amz-meta-A", b"1"),
                (b"x-amz-meta-b", b"two words"),
                (b"x-amz-storage-class", b"STANDARD_IA"),
                (b"x-amz-website-redirect-location", b"/other"),
            ),
        )
        for number, headers in enumerate(sets):
            key = b"described-%d" % number
            self.assertEqual(self.stage.ask(b"PUT", key, headers=headers, body=b"0123456789").status, 200)
            self.is_described_as_by_s3(key)
            self.stage.fake.clear_requests()
            self.assertEqual(self.stage.ask(b"GET", key).header(b"x-cache"), b"HIT")
            self.assertEqual(len(self.stage.fake.requests), 0)

    def test_versions(self) -> None:
        """The same in a bucket with versions."""
        self.stage.bucket += "-versions"
        self.stage.fake.create_bucket(self.stage.bucket, versioned=True)
        for body in (b"one", b"two"):
            self.assertEqual(self.stage.ask(b"PUT", b"key", body=body).status, 200)
            self.is_described_as_by_s3(b"key")


class OrderTests(UploadCase):
    """Values that replace each other."""

    KEYS = 4
    ROUNDS = 2500 if LARGE_TESTS else 60

    def body(self, number: int) -> bytes:
        """A value; every third one is too large for one read of a connection."""
        return b"%08d" % number * (40_000 if number % 3 == 0 else 10)

    def value(self, body: bytes) -> int:
        """Which value this is; there is nothing of another one in it."""
        number = int(body[:8])
        self.assertTrue(body == self.body(number), f"{len(body)} bytes that begin like {number}")
        return number

    def test_never_older(self) -> None:
        """Whoever reads after a write was acknowledged gets that value or a later one: on the same connection, on
        others, and when an earlier read is still under way.
        """
        acknowledged = [0] * self.KEYS
        over = threading.Event()

        def get(client: RawClient, key: bytes) -> int:
            client.send(self.stage.request(b"GET", key))
            return self.value(client.read_response().body)

        def write(index: int) -> None:
            key = b"order-%d" % index
            with self.stage.connect() as one, self.stage.connect() as other:
                held: list[tuple[RawClient, int]] = []
                for number in range(1, self.ROUNDS + 1):
                    body = self.body(number)
                    if number % 5 == 0:
                        reader = self.stage.connect(receive_buffer=4096)
                        reader.send(self.stage.request(b"GET", key))
                        held.append((reader, number - 1))
                    fields = [(b"Content-Length", b"%d" % len(body))]
                    one.send(self.stage.request(b"PUT", key, headers=fields, body=body))
                    self.assertEqual(one.read_response(b"PUT").status, 200)
                    acknowledged[index] = number
                    self.assertEqual((get(one, key), get(other, key)), (number, number))
                    while len(held) > 1 or held and number == self.ROUNDS:
                        reader, least = held.pop(0)
                        self.assertGreaterEqual(self.value(reader.read_response().body), least)
                        reader.close()

        def read(index: int) -> None:
            key = b"order-%d" % index
            with self.stage.connect() as client:
                while not over.is_set():
                    least = acknowledged[index]
                    if least:
                        self.assertGreaterEqual(get(client, key), least)

        readers = [threading.Thread(target=_keep(read, index, over)) for index in range(self.KEYS)]
        for thread in readers:
            thread.start()
        try:
            at_once([partial(write, index) for index in range(self.KEYS)], 60 + self.ROUNDS)
        finally:
            failed = over.is_set()
            over.set()
            for thread in readers:
                thread.join(30)
        self.assertFalse(failed, "a reader got an older value")
        self.assertEqual(self.stage.tracebacks(), [])


def _keep(work: Callable[[int], None], index: int, over: threading.Event) -> Callable[[], None]:
    """The same, and if it fails it is over."""

    def run() -> None:
        try:
            work(index)
        except BaseException:
            over.set()
            raise

    return run


class PartsTests(SynchronousTestCase):
    """Uploads of very many parts."""

    COUNT = 2000 if LARGE_TESTS else 250
    SIZE = 64 * 1024

    def setUp(self) -> None:
        """An S3 that takes small parts, and the proxy."""
        self.fake = RemoteFakeS3(names=None, options=("--min-part-size", "1"))
        self.addCleanup(self.fake.stop)
        self.fake.create_bucket("parts")
        self.proxy = ProxyProcess(
            {
                "connection_pool": {
                    "endpoint_overrides": {HOST.decode(): [f"127.0.0.1:{self.fake.port}"]},
                    "upstream_overrides": {f"{HOST.decode()}:80": {"scheme": "http"}},
                }
            }
        )
        self.addCleanup(self.proxy.stop)
        self.proxy.start()

    def exchange(self, client: RawClient, method: bytes, target: bytes, body: bytes = b"") -> RawResponse:
        """A signed request and its answer."""
        fields = [(b"Content-Length", b"%d" % len(body))]
        stage = Stage.__new__(Stage)
        stage.fake, stage.bucket = self.fake, "parts"
        client.send(stage.request(method, target, headers=fields, body=body))
        return client.read_response(method)

    def upload(self, port: int, key: bytes) -> tuple[list[float], float]:
        """Upload an object; the seconds that each part took, and the end."""
        with RawClient("127.0.0.1", port) as client:
            made = self.exchange(client, b"POST", key + b"?uploads")
            upload_id = made.body.partition(b"<UploadId>")[2].partition(b"<")[0]
            listed, seconds = b"", []
            for number in range(1, self.COUNT + 1):
                body = content(number, 0, self.SIZE)
                began = time.monotonic()
                answer = self.exchange(client, b"PUT", b"%s?partNumber=%d&uploadId=%s" % (key, number, upload_id), body)
                seconds.append(time.monotonic() - began)
                self.assertEqual(answer.status, 200)
                listed += b"<Part><PartNumber>%d</PartNumber><ETag>%s</ETag></Part>" % (
                    number,
                    answer.header(b"etag") or b"",
                )
            document = b"<CompleteMultipartUpload>%s</CompleteMultipartUpload>" % listed
            began = time.monotonic()
            answer = self.exchange(client, b"POST", b"%s?uploadId=%s" % (key, upload_id), document)
            self.assertIn(b"<CompleteMultipartUploadResult", answer.body)
            return seconds, time.monotonic() - began

    def test_many_parts(self) -> None:
        """MP-10, MP-11: the last parts take no longer than the first, the end not much longer than at S3, and the
        object is read without S3.
        """
        _, end_at_s3 = self.upload(self.fake.port, b"direct")
        seconds, end = self.upload(self.proxy.port, b"kept")
        tenth = self.COUNT // 10
        first, last = (sorted(some)[tenth // 2] for some in (seconds[:tenth], seconds[-tenth:]))
        self.assertLess(last, 3 * first + 0.01)
        self.assertLess(end, end_at_s3 + 0.001 * self.COUNT + 0.25)
        with RawClient("127.0.0.1", self.proxy.port) as client:
            answer = self.exchange(client, b"GET", b"kept")
        self.assertEqual(answer.header(b"x-cache"), b"REVALIDATED")
        expected = b"".join(content(number, 0, self.SIZE) for number in range(1, self.COUNT + 1))
        self.assertTrue(answer.body == expected)
        self.assertEqual(self.fake.requests.reads_with_body(b"kept"), [])


class _SlowStore(RawServer):
    """An S3 that takes bodies at a limited pace and forgets them.

    :ivar rate: bytes per second
    """

    rate = 20 * MIB

    def _take_body(self, connection: socket.socket, request: RawRequest, buffer: bytes) -> bytes:
        length = int((request.values(b"content-length") or [b"0"])[0])
        taken, began = len(buffer), time.monotonic()
        while taken < length:
            data = connection.recv(1 << 16)
            if not data:
                raise ConnectionError("the request broke off")
            taken += len(data)
            time.sleep(max(0.0, taken / self.rate - (time.monotonic() - began)))
        return b""


class SlowStoreTests(SynchronousTestCase):
    """S3 takes less than the client sends."""

    SIZE = (512 if LARGE_TESTS else 64) * MIB
    GROWTH = 32 * MIB

    def test_memory(self) -> None:
        """The client is slowed down; the proxy's memory does not grow, although it keeps the object."""
        server = _SlowStore()
        self.addCleanup(server.stop)
        server.answer_in_the_end = lambda request: (
            b'HTTP/1.1 200 OK\r\nETag: "%d-and-no-digest"\r\nContent-Length: 0\r\n\r\n' % len(server.requests)
        )
        proxy = ProxyProcess(
            {
                "connection_pool": {
                    "endpoint_overrides": {HOST.decode(): [f"127.0.0.1:{server.port}"]},
                    "upstream_overrides": {f"{HOST.decode()}:80": {"scheme": "http"}},
                },
                "cache": {"max_cache_size": 8 << 30, "write_cache_percent": 50, "write_cache_max_object_size": 1 << 30},
            }
        )
        self.addCleanup(proxy.stop)
        proxy.start()

        def upload(size: int) -> None:
            with RawClient("127.0.0.1", proxy.port, timeout=120) as client:
                fields = [(b"Host", HOST), (b"Content-Length", b"%d" % size)]
                client.send(request_bytes(b"PUT", b"/b/slow", fields))
                for piece in content_pieces(1, 0, size):
                    client.send(piece)
                self.assertEqual(client.read_response(b"PUT").status, 200)

        upload(MIB)
        Path(f"/proc/{proxy.pid}/clear_refs").write_text("5")
        before = proxy.rss()
        upload(self.SIZE)
        self.assertLess(proxy.peak_rss() - before, self.GROWTH)
        self.assertGreater(proxy.metric("s3proxy_cache_size_bytes", tier="disk"), self.SIZE)


class CrashTests(UploadCase):
    """SIGKILL in the middle of uploads in parts."""

    config: ClassVar[dict[str, Any]] = {"cache": {"max_cache_size": 1 << 30}}
    PART = 5 * MIB
    UPLOADS = 4

    def begin(self, key: bytes) -> bytes:
        """An upload begins; its id."""
        answer = self.stage.ask(b"POST", key + b"?uploads")
        return answer.body.partition(b"<UploadId>")[2].partition(b"<")[0]

    def part(self, key: bytes, upload_id: bytes, number: int, seed: int) -> bytes:
        """A part is uploaded; its ETag."""
        body = content(seed, 0, self.PART)
        answer = self.stage.ask(b"PUT", b"%s?partNumber=%d&uploadId=%s" % (key, number, upload_id), body=body)
        self.assertEqual(answer.status, 200)
        return answer.header(b"etag") or b""

    def complete(self, key: bytes, upload_id: bytes, tags: list[bytes]) -> RawResponse:
        """The upload ends."""
        listed = b"".join(
            b"<Part><PartNumber>%d</PartNumber><ETag>%s</ETag></Part>" % (number, tag)
            for number, tag in enumerate(tags, 1)
        )
        document = b"<CompleteMultipartUpload>%s</CompleteMultipartUpload>" % listed
        return self.stage.ask(b"POST", b"%s?uploadId=%s" % (key, upload_id), body=document)

    def test_unfinished_uploads(self) -> None:
        """Of uploads that nobody went on with for longer than ``incomplete_upload_ttl`` nothing is left after a
        restart, whatever was killed; younger ones can be completed.
        """
        proxy, uploads = self.stage.proxy, self.stage.proxy.cache_dir / "up"
        proxy.configure({"cache": {"incomplete_upload_ttl": "1h"}})
        proxy.stop()
        proxy.start()
        ages = {b"old": 3700, b"young": 3000}
        ids, tags, folders = {}, {}, {}
        for key in ages:
            before = set(uploads.iterdir())
            ids[key] = self.begin(key)
            tags[key] = [self.part(key, ids[key], number, number) for number in (1, 2)]
            (folders[key],) = set(uploads.iterdir()) - before
        proxy.kill9()
        for key, age in ages.items():
            then = time.time() - age
            for path in (*folders[key].iterdir(), folders[key]):
                os.utime(path, (then, then))
        proxy.start()
        poll(lambda: not folders[b"old"].exists(), 15, "the old upload to be removed", interval=0.1)
        used = Cached.of(proxy.cache_dir).published
        self.assertLess(used, 3 * self.PART)
        poll(lambda: abs(proxy.metric("s3proxy_cache_size_bytes", tier="disk") - used) < MIB, 10, "the right usage")
        self.stage.fake.clear_requests()
        whole = content(1, 0, self.PART) + content(2, 0, self.PART)
        for key in ages:
            self.assertIn(b"<CompleteMultipartUploadResult", self.complete(key, ids[key], tags[key]).body)
            self.assertTrue(self.stage.ask(b"GET", key).body == whole)
            self.assertEqual(len(self.stage.fake.requests.reads_with_body(key)), int(key == b"old"))
        self.assertEqual(self.stage.tracebacks(), [])

    def test_parts_and_ends(self) -> None:
        """Killed while parts and ends of uploads are on their way: nothing half done is read, what was staged can be
        completed, and nothing but that is left.
        """
        proxy, fake = self.stage.proxy, self.stage.fake
        for turn in range(2):
            keys = [b"parts-%d-%d" % (turn, number) for number in range(self.UPLOADS)]
            ids = [self.begin(key) for key in keys]
            tags = [[self.part(key, upload_id, 1, 1)] for key, upload_id in zip(keys, ids)]
            for key, upload_id, tag in zip(keys[:2], ids, tags):
                tag.append(self.part(key, upload_id, 2, 2))
            held = [
                fake.script(Match(key=key, operation="CompleteMultipartUpload"), Action(hold=True)) for key in keys[:1]
            ]
            held += [fake.script(Match(key=key, operation="UploadPart"), Action(hold=True)) for key in keys[2:]]

            def quietly(work: Callable[[], object]) -> None:
                try:
                    work()
                except (ConnectionEnded, OSError):
                    return

            works: list[Callable[[], object]] = [
                partial(self.complete, keys[0], ids[0], tags[0]),
                partial(self.complete, keys[1], ids[1], tags[1]),
                *(partial(self.part, key, upload_id, 2, 2) for key, upload_id in zip(keys[2:], ids[2:])),
            ]
            threads = [threading.Thread(target=quietly, args=(work,)) for work in works]
            for thread in threads:
                thread.start()
            poll(lambda: all(script.held for script in held), 30, "S3 to have acted")
            proxy.kill9()
            for thread in threads:
                thread.join(30)
            fake.behave()
            proxy.start()
            whole = content(1, 0, self.PART) + content(2, 0, self.PART)
            for key, upload_id, tag in zip(keys[2:], ids[2:], tags[2:]):
                self.assertEqual(self.stage.ask(b"GET", key).status, 404)
                tag.append(self.part(key, upload_id, 2, 2))
                self.assertIn(b"<CompleteMultipartUploadResult", self.complete(key, upload_id, tag).body)
            for key in keys:
                truth = self.direct(b"HEAD", key)
                for _ in range(2):
                    answer = self.stage.ask(b"GET", key)
                    self.assertEqual(answer.status, truth.status)
                    self.assertTrue(answer.status == 404 or answer.body == whole)
            self.assertEqual(fake.requests.reads_with_body(keys[3]), [])
        poll(
            lambda: not unfinished_files(proxy.cache_dir) + dangling_generations(proxy.cache_dir),
            15,
            "what the crash left behind to be removed",
            interval=0.2,
        )
        self.assertEqual(self.stage.tracebacks(), [])
        self.assertEqual(md5(whole[: self.PART]).hexdigest().encode(), tags[0][0].strip(b'"'))
        self.assertTrue(os.path.isdir(proxy.cache_dir))
