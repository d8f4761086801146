"""Two workers on one directory, at the level of the gateway: what one of them changed, the other doesn't contradict."""

import errno
import os
import tempfile
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.storage.errors import StoreError
from s3proxy.storage.hostmemory import HostMemory
from test.gateway.test_read import ok
from test.support.gateway import FakeClient, FakeResponse, GatewayHarness

OLD, NEW = b"old-" * 50_000, b"new-" * 30_000
OLD_TAG, NEW_TAG = b'"old"', b'"new"'


class CoherenceTests(SynchronousTestCase):
    """Two workers."""

    def setUp(self) -> None:
        """Start them."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        fd = HostMemory.make()
        self.addCleanup(os.close, fd)
        root = os.path.join(folder.name, "cache")
        self.one = GatewayHarness(root=root, memory=HostMemory(fd, 0, founder=True))
        self.other = GatewayHarness(root=root, memory=HostMemory(fd, 1))
        for worker in (self.one, self.other):
            self.addCleanup(worker.close)

    def put(self, worker: GatewayHarness) -> None:
        """A PUT of the new version that S3 takes."""
        client = worker.send(b"PUT", b"/key", {}, NEW)
        source = worker.upstream.last.request.body
        assert source is not None
        source.start(_Nowhere())
        client.body.sink.data_received(NEW)
        client.body.sink.stream_ended()
        worker.upstream.last.respond(FakeResponse(200, {b"ETag": NEW_TAG}))
        self.assertEqual((client.status, client.ended), (200, "finished"))

    def delete(self, worker: GatewayHarness) -> None:
        """A DELETE that S3 takes."""
        client = worker.send(b"DELETE", b"/key")
        worker.upstream.last.respond(FakeResponse(204))
        self.assertEqual(client.status, 204)

    def get(self, worker: GatewayHarness, asked: bool) -> FakeClient:
        """A GET; whether it must ask S3."""
        before = len(worker.upstream.asked)
        client = worker.get()
        self.assertEqual(len(worker.upstream.asked) - before, asked)
        return client

    def test_record_in_memory(self) -> None:
        """A hit of one worker ends with a write through the other."""
        self.get(self.one, asked=True)
        self.one.upstream.last.respond(ok(OLD, OLD_TAG))
        self.assertEqual(self.get(self.other, asked=False).answer, OLD)
        self.delete(self.one)
        self.get(self.other, asked=True)

    def test_request_that_waits(self) -> None:
        """Who comes after the write does not wait for the answer to a request from before."""
        early = self.get(self.other, asked=True)
        first = self.other.upstream.last
        self.get(self.other, asked=False)
        self.put(self.one)
        late = self.get(self.other, asked=True)
        self.other.upstream.last.respond(ok(NEW, NEW_TAG))
        self.assertEqual(late.answer, NEW)
        first.respond(ok(OLD, OLD_TAG))
        self.assertEqual(early.answer, OLD)
        again = self.other.get()
        self.assertNotEqual(again.answer[:4], OLD[:4], "what was asked for before the write came back")

    def test_body_under_way(self) -> None:
        """Nor does anybody join a body that was asked for before."""
        self.get(self.other, asked=True)
        response = self.other.upstream.last.respond(ok(None, OLD_TAG, length=len(OLD)))
        response.sink.data_received(OLD[:1000])
        self.get(self.other, asked=False)
        self.delete(self.one)
        self.get(self.other, asked=True)
        response.sink.data_received(OLD[1000:])
        response.sink.stream_ended()
        self.other.upstream.last.respond(ok(NEW, NEW_TAG))
        self.one.upstream.automatic = lambda request: ok(NEW, NEW_TAG)
        late = self.one.get()
        for _ in range(100):
            self.one.clock.advance(0.1)
            self.other.clock.advance(0.1)
        self.assertEqual(late.answer, NEW)

    def test_asked_while_the_write_was_on_its_way(self) -> None:
        """What S3 was asked between the beginning of a write and its end may be the old version: it is not joined after
        the end.
        """
        writing = self.one.send(b"DELETE", b"/key")
        self.get(self.other, asked=True)
        self.one.upstream.last.respond(FakeResponse(204))
        self.assertEqual(writing.status, 204)
        self.get(self.other, asked=True)

    def test_other_objects(self) -> None:
        """A write of one object disturbs no request for another one."""
        self.get(self.other, asked=True)
        client = self.one.send(b"DELETE", b"/another")
        self.one.upstream.last.respond(FakeResponse(204))
        self.assertEqual(client.status, 204)
        self.get(self.other, asked=False)

    def test_disk_refuses_the_invalidation(self) -> None:
        """When one worker can't write down that an entry is gone, no worker serves it, until that is done."""
        self.get(self.one, asked=True)
        self.one.upstream.last.respond(ok(OLD, OLD_TAG))
        self.get(self.other, asked=False)
        store = self.one.store
        arm, drop = store.arm, store.drop

        def refuse(name: Any) -> Any:
            raise StoreError(errno.EROFS, "Read-only file system")

        store.arm = store.drop = refuse  # type: ignore[method-assign]
        self.delete(self.one)
        self.get(self.other, asked=True)
        self.get(self.one, asked=True)
        store.arm, store.drop = arm, drop  # type: ignore[method-assign]
        self.assertTrue(self.one.cache.catch_up())
        self.get(self.other, asked=True)
        self.other.upstream.last.respond(ok(NEW, NEW_TAG))
        for worker in (self.one, self.other):
            self.assertEqual(self.get(worker, asked=False).answer, NEW)


class _Nowhere:
    """Takes a body and forgets it."""

    def data_received(self, data: bytes) -> None:
        """Forget it."""

    def stream_ended(self) -> None:
        """It is over."""

    def stream_failed(self, reason: Any) -> None:
        """It broke off."""
