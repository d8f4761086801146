"""A cache with objects in it, and what looks into it, without threads."""

import zlib
from collections.abc import Callable
from test.support.gateway import FakeClient, FakeResponse, GatewayHarness
from typing import Any, TypeVar
from urllib.parse import quote

from twisted.internet.defer import Deferred, execute

from s3proxy.cache.entry import ObjectId
from s3proxy.dashboard.browse import Browser
from s3proxy.dashboard.catalog import PAUSE, Catalog
from s3proxy.policy.rules import Rules
from s3proxy.policy.rules_file import read_rules

T = TypeVar("T")
HOST = b"s3.us-east-1.amazonaws.com"


class ImmediateThread:
    """Runs each call at once.

    :ivar stopped: whether it was told to end
    """

    stopped = False

    def run(self, work: Callable[[], T]) -> "Deferred[T]":
        return execute(work)

    def stop(self) -> None:
        self.stopped = True


class Stocked:
    """The cache, its catalog and its browser.

    :ivar purged: what the browser told about each order
    """

    def __init__(self, rules: bytes = b"") -> None:
        self.harness = GatewayHarness(get_ttl=60.0)
        self.clock = self.harness.clock
        self.thread = ImmediateThread()
        self.catalog = Catalog(self.clock, self.thread, self.harness.store.volume)
        self.rules = Rules(self.harness.config, read_rules(rules, 30.0).rules if rules else ())
        self.purged: list[int] = []
        self.browser = Browser(
            self.clock, self.harness.cache, self.harness.store.volume, self.catalog, self._run, lambda: self.rules,
            self.harness.now, self.purged.append,
        )  # fmt: skip

    def _run(self, work: Callable[..., Any], *args: Any) -> "Deferred[Any]":
        return execute(work, *args)

    def read(self, name: bytes, body: bytes = b"body", *, total: int | None = None) -> FakeClient:
        """A client reads ``bucket/key``, of which S3 has this body; the first bytes of one of ``total`` if that is
        given.
        """
        headers = {b"ETag": b'"%08x"' % (zlib.crc32(name)), b"Last-Modified": b"Tue, 01 Jan 2030 00:00:00 GMT"}
        status, ask = 200, {b"Host": HOST}
        if total is not None:
            status = 206
            ask[b"Range"] = b"bytes=0-%d" % (len(body) - 1)
            headers[b"Content-Range"] = b"bytes 0-%d/%d" % (len(body) - 1, total)
        headers[b"Content-Length"] = b"%d" % len(body)
        self.harness.upstream.automatic = lambda request: FakeResponse(status, headers, body)
        client = self.harness.send(b"GET", b"/" + quote(name).encode("ascii"), ask)
        assert client.status == status, (client.status, client.answer)
        return client

    def asked(self) -> int:
        """How many requests reached S3."""
        return len(self.harness.upstream.asked)

    def walk(self) -> None:
        """Let time pass until the directory has been looked through."""
        for _ in range(10_000):
            if self.catalog.progress == 1.0:
                return
            self.clock.advance(PAUSE)
        raise AssertionError("the walk does not end")

    def close(self) -> None:
        """Close the directory."""
        self.catalog.close()
        self.harness.close()


def an_id(name: bytes) -> ObjectId:
    """The object ``bucket/key``."""
    bucket, _, key = name.partition(b"/")
    return ObjectId("aws", bucket, key)
