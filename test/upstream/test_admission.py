"""Tests for :mod:`s3proxy.upstream.admission`."""

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.s3.headers import Headers
from s3proxy.upstream.admission import PATIENCE, AdmittingUpstream
from s3proxy.upstream.interfaces import UpstreamBusy, UpstreamRequest
from s3proxy.util.bodymemory import BodyMemory


class _Upstream:
    def __init__(self) -> None:
        self.asked: list[Deferred[Any]] = []

    def request(self, request: UpstreamRequest) -> "Deferred[Any]":
        self.asked.append(Deferred())
        return self.asked[-1]


def _request(method: bytes = b"GET") -> UpstreamRequest:
    return UpstreamRequest(method=method, target=b"/b/k", host="h", port=80, headers=Headers(()))


class AdmissionTests(SynchronousTestCase):
    """AdmittingUpstream."""

    def setUp(self) -> None:
        """Memory for 100 bytes."""
        self.clock = Clock()
        self.inner = _Upstream()
        self.memory = BodyMemory(100)
        self.upstream = AdmittingUpstream(self.clock, self.inner, self.memory)

    def test_room(self) -> None:
        """With room, or without a body to come, S3 is asked at once."""
        self.upstream.request(_request())
        self.memory.hold(100)
        self.upstream.request(_request(b"HEAD"))
        self.upstream.request(_request(b"PUT"))
        self.assertEqual(len(self.inner.asked), 3)

    def test_waits(self) -> None:
        """Without room S3 is asked as soon as there is some; the answer is S3's."""
        self.memory.hold(100)
        asking = self.upstream.request(_request())
        self.assertEqual(self.inner.asked, [])
        self.memory.let_go(1)
        self.inner.asked[0].callback("answer")
        self.assertEqual(self.successResultOf(asking), "answer")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_refused(self) -> None:
        """Without room for too long the client shall come again."""
        self.memory.hold(100)
        asking = self.upstream.request(_request())
        self.clock.advance(PATIENCE)
        self.failureResultOf(asking, UpstreamBusy)
        self.assertEqual((self.inner.asked, self.memory.waiting, self.upstream.refused), ([], 0, 1))

    def test_cancelled(self) -> None:
        """Who gives up waits no more, and cancels the request if it is under way."""
        self.memory.hold(100)
        first, second = self.upstream.request(_request()), self.upstream.request(_request())
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.assertEqual((self.memory.waiting, len(self.clock.getDelayedCalls())), (1, 1))
        self.memory.let_go(50)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertTrue(self.inner.asked[0].called)
