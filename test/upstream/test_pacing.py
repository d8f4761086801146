"""Tests for :mod:`s3proxy.upstream.pacing`."""

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.s3.headers import Headers
from s3proxy.upstream.interfaces import UpstreamRequest
from s3proxy.upstream.pacing import PacedUpstream, Pacer
from s3proxy.upstream.qos import BURST, TICK
from test.support.gateway import FakeResponse

MIB = 1 << 20


class _Sink:
    def __init__(self) -> None:
        self.size = 0
        self.end: Any = None

    def data_received(self, data: bytes) -> None:
        self.size += len(data)

    def stream_ended(self) -> None:
        self.end = True

    def stream_failed(self, reason: Failure) -> None:
        self.end = reason


class _Upstream:
    def __init__(self, response: FakeResponse) -> None:
        self.response = response

    def request(self, request: UpstreamRequest) -> "Deferred[Any]":
        return succeed(self.response)


def _request(share: str | None = "bkt:b") -> UpstreamRequest:
    return UpstreamRequest(method=b"GET", target=b"/b/k", host="h", port=80, headers=Headers(()), share=share)


class PacingTests(SynchronousTestCase):
    """PacedUpstream."""

    def setUp(self) -> None:
        """One MiB per second."""
        self.clock = Clock()
        self.pacer = Pacer(self.clock, MIB)

    def ask(self, share: str | None = "bkt:b", status: int = 200, length: int = 10 * MIB) -> tuple[Any, FakeResponse]:
        inner = FakeResponse(status, body=None, length=length)
        return self.successResultOf(PacedUpstream(_Upstream(inner), self.pacer).request(_request(share))), inner

    def spend(self) -> Any:
        """Leave nothing in the bucket."""
        response, inner = self.ask("other")
        response.start(_Sink())
        inner.sink.data_received(b"x" * (2 * MIB))
        return response

    def test_rate(self) -> None:
        """A connection is paused and resumed so that its bytes come at the limit's rate, by one timer."""
        response, inner = self.ask()
        sink = _Sink()
        response.start(sink)
        for _ in range(int(5 / 0.01)):
            self.clock.advance(0.01)
            if not inner.paused:
                inner.sink.data_received(b"x" * 32768)
            self.assertLessEqual(len(self.clock.getDelayedCalls()), 1)
        self.assertLess(abs(sink.size - (5 + BURST) * MIB), 0.03 * 5 * MIB)

    def test_waits_before_it_starts(self) -> None:
        """A small body that came with its head waits for its turn, too."""
        self.spend()
        response, inner = self.ask(length=1000)
        sink = _Sink()
        response.start(sink)
        self.assertNotIn("start", inner.calls)
        self.clock.pump([TICK] * 150)
        self.assertIn("start", inner.calls)
        inner.sink.data_received(b"x" * 1000)
        inner.sink.stream_ended()
        self.assertEqual((sink.size, sink.end), (1000, True))

    def test_pauses_of_the_sink(self) -> None:
        """A sink that paused is not resumed because it is its turn; and one that resumes still waits for its turn."""
        self.spend()
        response, inner = self.ask()
        response.start(_Sink())
        response.pause()
        self.clock.pump([TICK] * 150)
        self.assertTrue("start" in inner.calls and inner.paused)
        response.resume()
        self.assertFalse(inner.paused)
        inner.sink.data_received(b"x" * MIB)
        self.assertTrue(inner.paused)
        response.pause()
        response.resume()
        self.assertTrue(inner.paused)
        self.clock.pump([TICK] * 100)
        self.assertFalse(inner.paused)

    def test_abort(self) -> None:
        """Who gives up while he waits leaves nothing behind."""
        first = self.spend()
        response, inner = self.ask()
        response.start(_Sink())
        response.abort()
        first.abort()
        self.clock.pump([TICK] * 200)
        self.assertTrue(inner.aborted)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_what_is_not_limited(self) -> None:
        """Requests in nobody's name, answers without a body or with an error, and all without a limit, are untouched.
        """
        for share, status, length in ((None, 200, 5), ("a", 304, 0), ("a", 404, 300), ("a", 200, 0)):
            response, inner = self.ask(share, status, length)
            self.assertIs(response, inner)
        self.pacer.set_rate(0)
        response, inner = self.ask()
        self.assertIs(response, inner)

    def test_another_limit(self) -> None:
        """Without a limit all go on at once."""
        self.spend()
        response, inner = self.ask()
        response.start(_Sink())
        self.assertNotIn("start", inner.calls)
        self.pacer.set_rate(0)
        self.assertIn("start", inner.calls)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_failure(self) -> None:
        """A body that breaks off is told as it is."""
        response, inner = self.ask()
        sink = _Sink()
        response.start(sink)
        inner.sink.stream_failed(Failure(ValueError("x")))
        self.assertIsInstance(sink.end, Failure)

    def test_readings(self) -> None:
        """The limit, bytes by share, and who waits."""
        self.spend()
        response, _ = self.ask()
        response.start(_Sink())
        found = {(each.name, each.labels): each for each in self.pacer.readings()}
        value = {key: getattr(each, "value", None) for key, each in found.items()}
        self.assertEqual(value["s3proxy_qos_limit_bytes_per_second", ()], MIB)
        self.assertEqual(value["s3proxy_qos_class_bytes_total", ("other",)], 2 * MIB)
        self.assertEqual(value["s3proxy_qos_waiting", ()], 2)
