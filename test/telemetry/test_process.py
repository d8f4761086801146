"""What is known of the process and of the installation."""

import importlib.metadata
import json

from prometheus_client import CollectorRegistry
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.telemetry import process


class _Installed:
    def __init__(self, noted: str | None) -> None:
        self._noted = noted

    def read_text(self, name: str) -> str | None:
        return self._noted if name == "direct_url.json" else None


class CollectTests(SynchronousTestCase):
    def test_families(self) -> None:
        """Of the process, of Python and of its garbage collector, ready to be merged and sent."""
        registry = CollectorRegistry()
        process.register(registry)
        found = dict(process.collect(registry))
        self.assertLessEqual(
            {"process_resident_memory_bytes", "process_cpu_seconds_total", "python_info",
             "python_gc_collections_total"}, set(found)
        )  # fmt: skip
        self.assertEqual(found["process_start_time_seconds"]["merge"], "min")
        self.assertEqual(found["process_cpu_seconds_total"]["type"], "counter")
        self.assertEqual(found["process_open_fds"]["merge"], "sum")
        self.assertEqual(json.loads(json.dumps(found)), found)


class CommitTests(SynchronousTestCase):
    def installed(self, noted: str | None) -> str:
        self.patch(importlib.metadata, "distribution", lambda name: _Installed(noted))
        return process.installed_commit()

    def test_from_a_repository(self) -> None:
        """What pip has noted."""
        self.assertEqual(self.installed('{"vcs_info": {"commit_id": "0123abcd"}}'), "0123abcd")

    def test_unknown(self) -> None:
        """From an archive, from elsewhere, or not installed at all."""
        for noted in (None, "", "{}", "junk", '{"vcs_info": null}'):
            self.assertEqual(self.installed(noted), "unknown", noted)

        def missing(name: str) -> _Installed:
            raise importlib.metadata.PackageNotFoundError(name)

        self.patch(importlib.metadata, "distribution", missing)
        self.assertEqual(process.installed_commit(), "unknown")
