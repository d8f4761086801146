"""A fake S3 in a process of its own that speaks TLS, the proxy before it, and a client that compares every byte."""

import atexit
import itertools
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import attrs

from s3proxy.storage.errors import RecordError
from s3proxy.storage.layout import parse_generation, parse_temp
from s3proxy.storage.record import HEADER_SIZE, RANGES, decode_header
from test.support.content import content, content_pieces
from test.support.fake_control import RemoteFakeS3
from test.support.proxy_process import ProxyProcess
from test.support.raw_client import ConnectionEnded, RawClient, RawResponse, signed_request_bytes
from test.support.sigv4 import UNSIGNED, Pair
from test.support.waiting import poll

__all__ = [
    "HOST",
    "LARGE_TESTS",
    "MIB",
    "Cached",
    "Reading",
    "Stage",
    "at_once",
    "dangling_generations",
    "unfinished_files",
]

MIB = 1 << 20
HOST = b"s3.us-east-1.amazonaws.com"
LARGE_TESTS = os.environ.get("S3PROXY_TEST_LARGE") == "1"
"""Whether sizes are those of real use; by default they are smaller, which shows the same in less time."""

Result = TypeVar("Result")
_fakes: list[RemoteFakeS3] = []
_numbers = itertools.count(1)


def _fake() -> RemoteFakeS3:
    """The fake that all tests of this run share, with nothing left of the tests before but their buckets."""
    if not _fakes:
        fake = RemoteFakeS3(names=(HOST.decode(),))
        _fakes.append(fake)
        atexit.register(fake.stop)
    fake = _fakes[0]
    fake.behave()
    fake.allow_all()
    fake.clear_requests()
    return fake


@attrs.frozen(kw_only=True)
class Reading:
    """One answer whose body was compared while it came.

    :ivar size: bytes that came
    :ivar exact: whether all of them are what they should be, and none is missing
    :ivar first_byte: seconds from the request to the first byte of the body
    """

    status: int
    x_cache: bytes
    size: int
    exact: bool
    first_byte: float


@attrs.frozen(kw_only=True)
class Cached:
    """What is in a cache directory at one moment, in bytes of disk blocks; each file counts once.

    :ivar published: everything but files in the making
    :ivar in_flight: files in the making
    """

    published: int
    in_flight: int

    @classmethod
    def of(cls, folder: Path) -> "Cached":
        """Look through the whole directory.

        While it is read, files come and go. Counted is what was there at the moment when the walk ended: it is looked
        at a second time, and what is gone by then, or has another name, does not count.
        """
        met: dict[str, int] = {}
        for parent, folders, names in os.walk(folder):
            for name in (*folders, *names):
                path = os.path.join(parent, name)
                try:
                    met[path] = os.lstat(path).st_ino
                except FileNotFoundError:
                    continue
        published = in_flight = 0
        for path, inode in met.items():
            try:
                status = os.lstat(path)
            except FileNotFoundError:
                continue
            if status.st_ino != inode:
                continue
            if _is_unfinished(os.path.basename(path)):
                in_flight += status.st_blocks * 512
            else:
                published += status.st_blocks * 512
        return cls(published=published, in_flight=in_flight)


def _is_unfinished(name: str) -> bool:
    return name.endswith(".f") or parse_temp(name) is not None


def unfinished_files(folder: Path) -> list[Path]:
    """Files in a cache directory that have no final name: flights, ranges in the making, drafts, trash."""
    found = []
    for parent, _, names in os.walk(folder):
        trash = Path(parent).is_relative_to(folder / "trash")
        found += [Path(parent, name) for name in names if trash or _is_unfinished(name) or name.endswith(".tmp")]
    return found


def dangling_generations(folder: Path) -> list[Path]:
    """Generation directories that no entry file names."""
    found = []
    for parent, folders, _ in os.walk(folder / "o"):
        for text in folders:
            parsed = parse_generation(text)
            if parsed is None:
                continue
            try:
                header = decode_header(Path(parent, parsed[0].text).read_bytes()[:HEADER_SIZE])
            except (FileNotFoundError, RecordError):
                header = None
            if header is None or header.kind != RANGES or header.generation != parsed[1]:
                found.append(Path(parent, text))
    return found


def at_once(work: Sequence[Callable[[], Result]], seconds: float = 60) -> list[Result]:
    """The results of all these calls, each in a thread of its own, begun together."""
    with ThreadPoolExecutor(len(work)) as pool:
        futures = [pool.submit(call) for call in work]
        return [future.result(seconds) for future in futures]


class Stage:
    """The fake, a bucket of its own, and a proxy in ``standard`` mode whose way to S3 is TLS. :meth:`stop` ends it.

    :param config: changes to the proxy's configuration
    """

    def __init__(self, config: Mapping[str, Any] | None = None, *, start: bool = True) -> None:
        self.fake = _fake()
        self.bucket = f"stage-{next(_numbers)}"
        self.fake.create_bucket(self.bucket)
        self.proxy = ProxyProcess(
            {
                "connection_pool": {
                    "endpoint_overrides": {HOST.decode(): [f"127.0.0.1:{self.fake.tls_port}"]},
                    "upstream_overrides": {
                        f"{HOST.decode()}:80": {"scheme": "https", "ca_file": str(self.fake.ca_file)}
                    },
                },
                # Many clients at once, and each test decides for itself when S3 is asked again.
                "server": {"max_concurrent_requests": 200},
                "cache": {"get_ttl": "1h", "head_ttl": "1h", "max_cache_size": 4 << 30},
            }
        )
        self.proxy.configure(config or {})
        if start:
            try:
                self.proxy.start()
            except BaseException:
                self.stop()
                raise

    def stop(self) -> None:
        """End the proxy; the fake goes on."""
        self.fake.behave()
        self.proxy.stop()

    # Objects

    def put(self, key: bytes, seed: int, size: int) -> None:
        """Put an object into S3, not through the proxy."""
        self.fake.put_generated(self.bucket, key, seed, size)

    # Requests

    def connect(self, *, timeout: float = 30, receive_buffer: int = 0) -> RawClient:
        """A connection to the proxy."""
        return RawClient("127.0.0.1", self.proxy.port, timeout=timeout, receive_buffer=receive_buffer)

    def request(
        self,
        method: bytes,
        key: bytes,
        *,
        headers: Sequence[Pair] = (),
        unsigned: Sequence[Pair] = (),
        body: bytes = b"",
    ) -> bytes:
        """A signed request on the wire. A query may follow the key."""
        return signed_request_bytes(
            method,
            b"/%b/%b" % (self.bucket.encode(), key),
            HOST,
            self.fake.credential,
            headers=headers,
            unsigned=unsigned,
            body=body,
            payload=UNSIGNED,
        )

    def ask(
        self, method: bytes, key: bytes, *, headers: Sequence[Pair] = (), body: bytes = b"", timeout: float = 30
    ) -> RawResponse:
        """One request over a connection of its own, and its answer with the body."""
        if method in (b"PUT", b"POST"):
            headers = (*headers, (b"Content-Length", b"%d" % len(body)))
        with self.connect(timeout=timeout) as client:
            client.send(self.request(method, key, headers=headers, body=body))
            return client.read_response(method)

    def read(self, key: bytes, seed: int, size: int, *, timeout: float = 30) -> Reading:
        """Read a whole object, and compare it while it comes.

        :raises ConnectionEnded: if it breaks off
        """
        with self.connect(timeout=timeout) as client:
            began = time.monotonic()
            client.send(self.request(b"GET", key))
            return self.finish(client, seed, size, began=began)

    def finish(self, client: RawClient, seed: int, size: int, *, began: float | None = None) -> Reading:
        """Read the answer to a request for a whole object, and compare it while it comes."""
        head = client.read_head()
        length = int(head.header(b"content-length") or 0)
        at = 0
        first_byte = 0.0
        exact = head.status == 200 and length == size
        while at < length:
            data = client.read_some()
            if not data:
                raise ConnectionEnded(f"closed {length - at} bytes too early", b"")
            if at == 0 and began is not None:
                first_byte = time.monotonic() - began
            exact = exact and data == content(seed, at, at + len(data))
            at += len(data)
        return Reading(
            status=head.status, x_cache=head.header(b"x-cache") or b"", size=at, exact=exact, first_byte=first_byte
        )

    def upload(self, key: bytes, seed: int, size: int, *, timeout: float = 60) -> RawResponse:
        """PUT an object of any size piece by piece."""
        with self.connect(timeout=timeout) as client:
            client.send(self.request(b"PUT", key, headers=[(b"Content-Length", b"%d" % size)]))
            for piece in content_pieces(seed, 0, size):
                client.send(piece)
            return client.read_response(b"PUT")

    # The state of the proxy

    def cache_state(self) -> tuple[str, str]:
        """State and message of the component ``storage`` of the health document."""
        found = next(part for part in self.proxy.health()["components"] if part["name"] == "storage")
        return found["status"], found["message"]

    def sockets(self) -> int:
        """Open descriptors of the proxy that are no files."""
        return len([target for target in self._descriptors() if not target.startswith("/")])

    def held_files(self) -> list[str]:
        """Files of the cache directory that the proxy has open although they are deleted or not finished."""
        folder = str(self.proxy.cache_dir)
        return [
            target
            for target in self._descriptors()
            if target.startswith(folder)
            and (target.endswith(" (deleted)") or _is_unfinished(os.path.basename(target)))
        ]

    def reset_peak(self) -> int:
        """Let the proxy's peak of resident memory begin anew; returns what is resident now.

        :raises OSError: this kernel can't
        """
        Path(f"/proc/{self.proxy.pid}/clear_refs").write_text("5")
        return self.proxy.rss()

    def _descriptors(self) -> list[str]:
        folder = f"/proc/{self.proxy.pid}/fd"
        found = []
        for name in os.listdir(folder):
            try:
                found.append(os.readlink(f"{folder}/{name}"))
            except FileNotFoundError:
                continue
        return found

    def not_idle(self, sockets: int) -> list[str]:
        """What an idle proxy should have let go of, apart from so many descriptors."""
        metrics = self.proxy.metrics()
        names = ("s3proxy_http_requests_in_flight", "s3proxy_request_permits_held", "s3proxy_client_connections{")
        found = [f"{name} {value}" for name, value in metrics.items() if name.startswith(names) and value]
        found = [each for each in found if not each.startswith("s3proxy_request_permits_held_max")]
        found += [f"unfinished {path.name}" for path in unfinished_files(self.proxy.cache_dir)]
        found += [f"open {target}" for target in self.held_files()]
        self.fake.close_idle_connections()
        now = self.sockets()
        if now > sockets:
            found.append(f"{now} descriptors instead of {sockets}")
        return found

    def wait_idle(self, sockets: int, seconds: float = 10) -> None:
        """Wait until the proxy has let go of everything."""
        try:
            poll(lambda: not self.not_idle(sockets), seconds, "the proxy to become idle", interval=0.1)
        except TimeoutError as problem:
            raise AssertionError(f"{problem}: {self.not_idle(sockets)}") from None

    def tracebacks(self) -> list[str]:
        """Each traceback or unhandled error in the logs and in the output, with the lines around it."""
        lines = (self.proxy.app_log() + self.proxy.output()).splitlines()
        return [
            "\n".join(lines[max(0, number - 3) : number + 40])
            for number, line in enumerate(lines)
            if re.search(r"Traceback|Unhandled", line)
        ]
