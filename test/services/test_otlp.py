"""The export by OTLP: with a clock, and to a small collector."""

import gzip
import json
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from s3proxy.config.model import Otlp
from s3proxy.services.otlp import OtlpExporter
from s3proxy.telemetry.instruments import Family, Instruments

_RESOURCE = {"service.name": "s3-proxy"}


def a_snapshot() -> Any:
    made = Instruments((Family(name="x_things_total", type="counter", help="Things."),))
    made.counter("x_things_total").inc(3)
    return made.describe()


class ExporterTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.sent: list[tuple[str, dict[str, str], bytes]] = []
        self.answers: list[Any] = []
        self.results: list[str] = []
        self.waiting: list[Deferred[Any]] = []

    def post(self, url: str, headers: dict[str, str], body: bytes) -> "Deferred[tuple[int, str, bytes]]":
        self.sent.append((url, headers, body))
        if not self.answers:
            self.waiting.append(Deferred())
            return self.waiting[-1]
        answer = self.answers.pop(0)
        done: Deferred[tuple[int, str, bytes]] = Deferred()
        done.callback(answer)
        return done

    def start(self, **config: Any) -> OtlpExporter:
        snapshot = config.pop("snapshot", a_snapshot)
        exporter = OtlpExporter(
            self.clock,
            Otlp(enabled=True, **{"export_interval": 60.0, "timeout": 10.0, **config}),
            snapshot=snapshot,
            resource=_RESOURCE,
            exported=self.results.append,
            started_at=0.0,
            now=lambda: 1.0,
            post=self.post,
        )
        exporter.startService()
        self.addCleanup(exporter.stopService)
        return exporter

    def test_every_interval(self) -> None:
        """One batch per interval, without anybody scraping; the first after the first interval."""
        self.answers = [(200, "", b"{}")] * 3
        self.start()
        self.assertEqual(self.sent, [])
        self.clock.pump([60.0] * 3)
        self.assertEqual(self.results, ["success"] * 3)
        url, headers, body = self.sent[0]
        self.assertEqual(url, "http://localhost:4318/v1/metrics")
        self.assertEqual(headers, {"Content-Type": "application/json"})
        (metric,) = json.loads(body)["resourceMetrics"][0]["scopeMetrics"][0]["metrics"]
        self.assertEqual(metric["sum"]["dataPoints"][0]["asInt"], "3")

    def test_headers_and_compression(self) -> None:
        """Fields for authorization are sent; what is exported can be compressed."""
        self.answers = [(200, "", b"")]
        self.start(headers={"Authorization": "Bearer x"}, compression="gzip")
        self.clock.advance(60)
        _, headers, body = self.sent[0]
        self.assertEqual((headers["Authorization"], headers["Content-Encoding"]), ("Bearer x", "gzip"))
        self.assertIn("resourceMetrics", json.loads(gzip.decompress(body)))

    def test_tried_again(self) -> None:
        """A collector that is busy, or not there, gets the same batch again within the interval."""
        self.answers = [(503, "", b""), Failure(ConnectionRefusedError()), (200, "", b"{}")]
        self.start()
        self.clock.advance(60)
        self.assertEqual(len(self.sent), 1)
        self.clock.pump([0.5] * 20)
        self.assertEqual((len(self.sent), self.results), (3, ["success"]))
        self.assertEqual(len({body for _, _, body in self.sent}), 1)

    def test_retry_after(self) -> None:
        """It says when it wants to be asked."""
        self.answers = [(429, "20", b""), (200, "", b"{}")]
        self.start()
        self.clock.advance(60)
        self.clock.advance(19)
        self.assertEqual(len(self.sent), 1)
        self.clock.advance(2)
        self.assertEqual(self.results, ["success"])

    def test_given_up(self) -> None:
        """A batch is given up before the next is due, said once, and the next one is exported."""
        self.answers = [(503, "", b"")] * 100
        self.start()
        self.clock.pump([0.5] * 360)
        self.assertEqual(self.results, ["failure"] * 2)
        self.assertLess(len(self.sent), 20)
        self.answers = [(200, "", b"{}")] * 10
        self.clock.pump([0.5] * 120)
        self.assertEqual(self.results[-1], "success")

    def test_refused(self) -> None:
        """What can't be cured by trying again is not tried again."""
        self.answers = [(400, "", b"bad"), (401, "", b"")]
        self.start()
        self.clock.pump([60.0, 30.0])
        self.assertEqual((len(self.sent), self.results), (1, ["failure"]))

    def test_partial_success(self) -> None:
        """The collector takes some of it."""
        self.answers = [(200, "", b'{"partialSuccess": {"rejectedDataPoints": 2, "errorMessage": "old"}}')]
        self.start()
        self.clock.advance(60)
        self.assertEqual(self.results, ["partial"])

    def test_silence(self) -> None:
        """A collector that does not answer is given so many seconds, and delays no other batch."""
        self.start(timeout=25.0)
        self.clock.pump([1.0] * 120)
        self.assertEqual(self.results, ["failure"])
        self.clock.pump([1.0] * 60)
        self.assertEqual(self.results, ["failure"] * 2)

    def test_end(self) -> None:
        """The end of the process cuts an export, and waits for nothing."""
        exporter = self.start()
        self.clock.advance(60)
        self.assertIsNone(exporter.stopService())
        self.assertEqual(self.results, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_of_several_processes(self) -> None:
        """The snapshot may have to be collected first."""
        self.answers = [(200, "", b"{}")]
        collecting: Deferred[Any] = Deferred()
        self.start(snapshot=lambda: collecting)
        self.clock.advance(60)
        self.assertEqual(self.sent, [])
        collecting.callback(a_snapshot())
        self.assertEqual(self.results, ["success"])

    def test_a_snapshot_that_fails(self) -> None:
        """It is a failed export, and the timer goes on."""
        self.start(snapshot=lambda: 1 / 0)
        self.clock.pump([60.0] * 2)
        self.assertEqual(self.results, ["failure"] * 2)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)


class _Collector(Resource):
    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.got: list[tuple[bytes, bytes, Any]] = []
        self.silent = False

    def render_POST(self, request: Any) -> Any:
        document = json.loads(request.content.read())
        self.got.append((request.path, request.getHeader("content-type"), document))
        return NOT_DONE_YET if self.silent else b"{}"


class CollectorTests(TestCase):
    """Over real sockets."""

    def setUp(self) -> Any:
        self.collector = _Collector()
        self.port = reactor.listenTCP(0, Site(self.collector), interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(self.port.stopListening)
        self.results: list[str] = []
        self.ended: Deferred[None] = Deferred()

    def start(self, **config: Any) -> OtlpExporter:
        def exported(result: str) -> None:
            self.results.append(result)
            if not self.ended.called:
                self.ended.callback(None)

        endpoint = config.pop("endpoint", "") or f"http://127.0.0.1:{self.port.getHost().port}"
        exporter = OtlpExporter(
            reactor,
            Otlp(enabled=True, endpoint=endpoint, export_interval=0.2, timeout=0.1, **config),
            snapshot=a_snapshot,
            resource=_RESOURCE,
            exported=exported,
            started_at=0.0,
        )
        exporter.startService()
        self.addCleanup(exporter.stopService)
        return exporter

    async def test_delivered(self) -> None:
        """What arrives is what was counted."""
        self.start(headers={"X-Token": "secret"})
        await self.ended
        path, media_type, document = self.collector.got[0]
        self.assertEqual((path, media_type), (b"/v1/metrics", "application/json"))
        self.assertEqual(document["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]["name"], "x.things")
        self.assertEqual(self.results[0], "success")

    async def test_nobody_there(self) -> None:
        """A collector that is not there is a failed export."""
        number = self.port.getHost().port
        await self.port.stopListening()
        self.start(endpoint=f"http://127.0.0.1:{number}")
        await self.ended
        self.assertEqual(self.results[0], "failure")

    async def test_cut_at_the_end(self) -> None:
        """An export under way does not outlive the service."""
        self.collector.silent = True
        exporter = self.start()
        while not self.collector.got:
            await deferLater(reactor, 0.01)  # type: ignore[arg-type]
        exporter.stopService()
        await deferLater(reactor, 0.05)  # type: ignore[arg-type]
        self.assertLessEqual(set(self.results), {"failure"})
