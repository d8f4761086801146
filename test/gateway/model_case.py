"""A gateway in front of an S3 that answers by itself."""

import os
from collections.abc import Callable
from pathlib import Path
from test.gateway.test_read import ReadTestCase
from test.support.answering_s3 import AnsweringS3
from test.support.gateway import FakeClient, FakeResponse, GatewayHarness
from typing import Any

from s3proxy.config.model import Cache, Config
from s3proxy.upstream.interfaces import UpstreamRequest

__all__ = ["CREDENTIAL", "ModelHarness", "ModelTestCase", "signed"]

CREDENTIAL = b"AKIAEXAMPLE/20231114/us-east-1/s3/aws4_request"


def signed(*names: bytes) -> bytes:
    """An Authorization that covers these fields beside the usual ones."""
    listed = b";".join(sorted((b"host", b"x-amz-date", *names)))
    return b"AWS4-HMAC-SHA256 Credential=%s, SignedHeaders=%s, Signature=%s" % (CREDENTIAL, listed, b"0" * 64)


class ModelHarness(GatewayHarness):
    """:ivar s3: answers every request that nobody has answered yet; None: the test does"""

    s3: Callable[[UpstreamRequest], FakeResponse] | None = None

    def send(
        self, method: bytes, target: bytes, headers: dict[bytes, bytes] | None = None, body: bytes | None = None
    ) -> FakeClient:
        client = super().send(method, target, headers, body)
        self.answer()
        return client

    def answer(self) -> None:
        """S3 answers what it was asked, and what that brings about. As on a wire, never while it is being asked."""
        while self.s3 is not None:
            waiting = [asked for asked in self.upstream.asked if not asked.cancelled and not asked.deferred.called]
            if not waiting:
                return
            waiting[0].respond(self.s3(waiting[0].request))


class ModelTestCase(ReadTestCase):
    """:ivar s3: what S3 holds, and what it was asked"""

    harness: ModelHarness

    def setUp(self) -> None:
        self.harness = ModelHarness(**self.settings)  # type: ignore[arg-type]
        self.addCleanup(self.harness.close)
        self.upstream = self.harness.upstream
        self.s3 = AnsweringS3()
        self.harness.s3 = self.s3

    def exactly(self, client: FakeClient, body: bytes, status: int = 200, etag: bytes | None = None) -> None:
        """The client got this body, under this status and, if it is given, this entity tag."""
        self.assertEqual((client.status, client.ended), (status, "finished"))
        self.assertTrue(client.answer == body, (client.answer[:100], body[:100], len(client.answer), len(body)))
        if etag is not None:
            self.assertEqual(client.header(b"etag"), etag)

    def read_range(self, start: int, stop: int, target: bytes = b"/key", **headers: bytes) -> FakeClient:
        """A GET of the bytes [start, stop)."""
        return self.harness.get(target, range=b"bytes=%d-%d" % (start, stop - 1), **headers)

    def is_hit(self, client: FakeClient) -> None:
        """The client got its answer without S3."""
        self.assertEqual(client.header(b"x-cache"), b"HIT")

    def later(self, seconds: float = 61.0) -> None:
        """What was read before is not fresh any more."""
        self.harness.clock.advance(seconds)

    def restart(self, **cache: Any) -> None:
        """The proxy ends and begins anew on its directory, perhaps with other settings of the cache."""
        self.harness.store.close()
        if cache:
            self.harness.config = Config(cache=Cache(**cache))
        self.harness.open()

    def files(self) -> list[Path]:
        """The regular files of the cache directory that belong to objects."""
        found = []
        for parent, _, names in os.walk(os.path.join(self.harness.root, "o")):
            found += [Path(parent, name) for name in names]
        return sorted(found)
