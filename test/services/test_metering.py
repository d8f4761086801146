"""How requests to S3 are counted and timed, before a real upstream side and a small server."""

from typing import Any

from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.s3.headers import Headers
from s3proxy.services.metering import MeteredUpstream
from s3proxy.telemetry.metrics import Metrics
from s3proxy.upstream.interfaces import (
    UpstreamBusy,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamRequest,
    UpstreamTimeout,
    UpstreamTLSError,
    UpstreamUnreachable,
    UpstreamUnresolved,
)


class _Answer:
    """An answer that ends when the test says so."""

    def __init__(self, status: int, sent_at: float, head_at: float) -> None:
        self.status, self.sent_at, self.head_at = status, sent_at, head_at
        self.fault: Failure | None = None
        self._over: list[Any] = []

    def when_over(self, callback: Any) -> None:
        self._over.append(callback)

    def end(self, fault: Exception | None = None) -> None:
        self.fault = None if fault is None else Failure(fault)
        for callback in self._over:
            callback()


class _Upstream:
    def __init__(self, clock: Clock) -> None:
        self.seconds = clock.seconds
        self.asked: list[Deferred[Any]] = []

    def request(self, request: UpstreamRequest) -> "Deferred[Any]":
        self.asked.append(Deferred())
        return self.asked[-1]


class MeteredUpstreamTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.metrics = Metrics(CollectorRegistry(), self.clock.seconds)
        self.upstream = _Upstream(self.clock)
        self.metered = MeteredUpstream(self.upstream, self.metrics)  # type: ignore[arg-type]

    def value(self, name: str, *labels: str) -> Any:
        families = self.metrics.snapshot()["families"]
        samples = families[f"s3proxy_upstream_{name}"]["samples"]
        return {tuple(found): value for found, value in samples}.get(labels)

    def ask(self, group: str = "get") -> "Deferred[Any]":
        request = UpstreamRequest(method=b"GET", target=b"/", host="h", port=80, headers=Headers(()), group=group)
        return self.metered.request(request)

    def test_an_answer(self) -> None:
        """Counted by its status, timed to its head and to its end; at S3 until then."""
        done = self.ask("head")
        self.assertEqual(self.value("in_flight"), 1)
        answer = _Answer(206, 10.0, 10.04)
        self.upstream.asked[0].callback(answer)
        self.assertIs(self.successResultOf(done), answer)
        self.assertEqual(self.value("requests_total", "head", "206"), 1)
        self.assertAlmostEqual(self.value("first_byte_seconds", "head")["sum"], 0.04)
        self.assertEqual(self.value("in_flight"), 1)
        self.clock.advance(12)
        answer.end()
        self.assertEqual(self.value("in_flight"), 0)
        self.assertAlmostEqual(self.value("request_duration_seconds", "head")["sum"], 2.0)
        self.assertEqual((self.metered.answered, self.metered.failed), (1, 0))

    def test_failures(self) -> None:
        """By their kind; what is not S3's fault does not count against it."""
        for error, word, counts in (
            (UpstreamUnresolved("x"), "dns", True),
            (UpstreamUnreachable("x"), "connect", True),
            (UpstreamUnreachable("x", sent=True), "reset", True),
            (UpstreamTLSError("x"), "tls", True),
            (UpstreamTimeout("x"), "first_byte_timeout", True),
            (UpstreamProtocolError("x", sent=True), "protocol", True),
            (UpstreamRefused("x"), "refused", False),
            (UpstreamBusy("x"), "busy", False),
        ):
            before, failed = self.value("errors_total", word), self.metered.failed
            done = self.ask()
            self.upstream.asked[-1].errback(error)
            self.failureResultOf(done, UpstreamError)
            self.assertEqual(self.value("errors_total", word), before + 1, word)
            self.assertEqual(self.metered.failed - failed, counts, word)
        self.assertEqual(self.value("in_flight"), 0)

    def test_broken_off(self) -> None:
        """An answer that is not complete is a failure, too."""
        silent, reset = UpstreamTimeout("x", sent=True), UpstreamError("x", sent=True)
        for error, word in ((silent, "idle_timeout"), (reset, "reset")):
            self.ask()
            answer = _Answer(200, 0.0, 0.0)
            self.upstream.asked[-1].callback(answer)
            answer.end(error)
            self.assertEqual(self.value("errors_total", word), 1)
        self.assertEqual((self.metered.answered, self.metered.failed), (2, 2))

    def test_cancelled(self) -> None:
        """A client that leaves is no failure of S3."""
        done = self.ask()
        done.cancel()
        self.failureResultOf(done)
        self.assertEqual((self.value("in_flight"), self.metered.failed), (0, 0))
