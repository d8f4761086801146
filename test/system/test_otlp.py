"""The real proxy exports its metrics by OTLP: with one worker and with two, while it runs and when it ends."""

import socket
from pathlib import Path
from test.support.otlp_collector import OtlpCollector, series
from test.support.waiting import poll
from test.system.stage import Stage
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

import s3proxy

CHECKOUT = Path(s3proxy.__file__).parents[1]
#: What moves without requests, or while somebody asks; and what is not exported without being asked for.
RESTLESS = (
    "process_",
    "python_",
    "s3proxy_bucket_",
    "s3proxy_log_messages",
    "s3proxy_otlp",
    "s3proxy_scrape",
    "s3proxy_access_log",
)


class OtlpTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.collector = OtlpCollector()
        self.addCleanup(self.collector.stop)

    def start(self, workers: int = 1, **otlp: Any) -> Stage:
        stage = Stage(
            {
                "server": {"workers": workers},
                "metrics": {"otlp": {"enabled": True, "endpoint": self.collector.url, **otlp}},
            }
        )
        self.addCleanup(stage.stop)
        stage.put(b"key", 1, 1000)
        for _ in range(12):
            self.assertEqual(stage.ask(b"GET", b"key").status, 200)
        return stage

    def exported(self) -> dict[str, float]:
        """Series and values of the newest export."""
        return dict(pair for metric in self.collector.got[-1].metrics().values() for pair in series(metric))

    def counters(self, values: dict[str, float]) -> dict[str, float]:
        """Those that stay as they are while nobody does anything, without those of single buckets."""
        return {
            name: value
            for name, value in values.items()
            if name.partition("{")[0].endswith("_total") and not name.startswith(RESTLESS)
        }

    def check_while_it_runs(self, workers: int) -> None:
        stage = self.start(workers, export_interval="1s")

        def the_same() -> bool:
            exported = self.counters(self.exported())
            requests = [value for name, value in exported.items() if name.startswith("s3proxy_http_requests_total")]
            return sum(requests) == 12 and self.counters(stage.proxy.metrics()) == exported

        poll(lambda: self.collector.got, 15, "the first export")
        poll(the_same, 15, "an export of what /metrics shows", interval=0.2)
        self.assertEqual(
            self.collector.got[-1].resource(),
            {
                "service.name": "s3-proxy",
                "service.version": s3proxy.__version__,
                "service.instance.id": f"{socket.gethostname()}:{stage.proxy.pid}",
                "host.name": socket.gethostname(),
            },
        )
        self.assertGreater(stage.proxy.metric("s3proxy_otlp_exports_total", result="success"), 0)
        self.assertEqual(stage.tracebacks(), [])

    def test_one_worker(self) -> None:
        """What arrives is what /metrics shows."""
        self.check_while_it_runs(1)

    def test_two_workers(self) -> None:
        """It is that of all of them together."""
        self.check_while_it_runs(2)

    def check_at_the_end(self, workers: int) -> None:
        stage = self.start(workers, export_interval="1h")
        before = self.counters(stage.proxy.metrics())
        self.assertEqual(self.collector.got, [])
        self.assertEqual(stage.proxy.terminate(), 0)
        self.assertEqual(len(self.collector.got), 1)
        after = self.counters(self.exported())
        requests = {name: value for name, value in before.items() if name.startswith("s3proxy_http_requests_total")}
        self.assertEqual(sum(requests.values()), 12)
        self.assertEqual({name: after[name] for name in requests}, requests)
        self.assertEqual(stage.tracebacks(), [])

    def test_the_end_of_one_worker(self) -> None:
        """When the proxy ends, what was counted since the last export is exported."""
        self.check_at_the_end(1)

    def test_the_end_of_two_workers(self) -> None:
        """That of workers that have ended before is not lost."""
        self.check_at_the_end(2)

    def test_a_dead_collector(self) -> None:
        """The proxy serves, says once that nobody takes its metrics, and ends in time."""
        self.collector.silent.set()
        stage = self.start(export_interval="1s", timeout="300ms")
        poll(lambda: stage.proxy.metric("s3proxy_otlp_exports_total", result="failure") > 1, 15, "failures")
        self.assertEqual(stage.ask(b"GET", b"key").status, 200)
        self.assertEqual(stage.proxy.app_log().count("could not be exported by OTLP"), 1)
        self.assertEqual(stage.proxy.terminate(), 0)
        self.assertEqual(stage.tracebacks(), [])
        self.assertNotIn("Failed to export", stage.proxy.output())

    def test_without_the_extra(self) -> None:
        """The start ends with one line that says what to do."""
        stage = Stage({"metrics": {"otlp": {"enabled": True, "endpoint": self.collector.url}}}, start=False)
        self.addCleanup(stage.stop)
        package = stage.proxy.folder / "path" / "opentelemetry"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'opentelemetry'\")\n")
        stage.proxy.spawn(environment={"PYTHONPATH": f"{package.parent}:{CHECKOUT}"})
        self.assertEqual(stage.proxy.wait(), 1)
        self.assertRegex(
            stage.proxy.output(),
            r"\A\S+:\d+: metrics\.otlp\.enabled: the value true needs packages that are not installed "
            r"\(No module named 'opentelemetry'\); install them: pip install \"s3proxy\[otlp\]\"\n\Z",
        )
