"""A file of rules that changes under the running proxy."""

import json
import os
import signal
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from test.support.waiting import poll
from test.system.stage import Stage

SIZE = 1000


class RulesTests(SynchronousTestCase):
    """``cache_rules.json`` in the cache directory."""

    def make(self, threshold: str, *rules: dict[str, Any]) -> None:
        """A proxy, with these rules from the start, and two objects in its cache unless rules forbid it."""
        self.stage = Stage({"cache": {"bucket_settings_staleness_threshold": threshold}}, start=False)
        self.addCleanup(self.stage.stop)
        self.proxy = self.stage.proxy
        self.path = self.proxy.cache_dir / "cache_rules.json"
        self.proxy.cache_dir.mkdir(parents=True)
        if rules:
            self.write(json.dumps({"rules": rules}))
        self.proxy.start()
        for key in (b"private/k", b"public/k"):
            self.stage.put(key, 1, SIZE)
            self.assertEqual(self.source(key), b"MISS")

    def write(self, text: str) -> None:
        """Replace the file as one should."""
        new = self.path.with_suffix(".new")
        new.write_text(text)
        os.rename(new, self.path)

    def always_ask(self) -> dict[str, Any]:
        """A rule by which S3 is asked for every read of some objects."""
        return {"pattern": f"{self.stage.bucket}/private/**", "get_ttl": "0s"}

    def source(self, key: bytes) -> bytes:
        """Where a read is answered from; its bytes are right."""
        reading = self.stage.read(key, 1, SIZE)
        self.assertTrue(reading.exact)
        return reading.x_cache

    def wait_for(self, key: bytes, source: bytes) -> None:
        """Wait until that is where it is answered from."""
        poll(lambda: self.source(key) == source, 10, f"{key!r} to be {source!r}", interval=0.1)

    def state(self) -> tuple[str, str]:
        """State and message of the component ``rules`` of the health document."""
        (found,) = [part for part in self.proxy.health()["components"] if part["name"] == "rules"]
        return found["status"], found["message"]

    def wait_until(self, state: str) -> None:
        """Wait for this state; the health document may be a second old."""
        poll(lambda: self.state()[0] == state, 10, f"rules to be {state}", interval=0.1)

    def test_life_of_a_file(self) -> None:
        """Made, broken, mended, removed: each takes effect on objects that are in the cache and in the fast lane
        already, without a restart; a broken one has no effect, but shows.
        """
        self.make("1s")
        for key in (b"private/k", b"public/k"):
            self.assertEqual(self.source(key), b"HIT")
        self.write(json.dumps({"rules": [self.always_ask()]}))
        self.wait_for(b"private/k", b"REVALIDATED")
        self.assertEqual(self.source(b"public/k"), b"HIT")
        self.assertEqual((self.proxy.metric("s3proxy_rules_loaded"), self.state()), (1, ("healthy", "")))
        self.write('{"rules": [{"pattern": "**", "get_ttl": "1 fortnight"}]}')
        self.wait_until("degraded")
        self.assertIn('rules[0].get_ttl: value "1 fortnight" has the unknown unit', self.state()[1])
        self.assertEqual(self.proxy.metric("s3proxy_rules_on_fallback"), 1)
        self.assertEqual((self.source(b"private/k"), self.source(b"public/k")), (b"REVALIDATED", b"HIT"))
        never = {"pattern": f"{self.stage.bucket}/public/*", "read_cache_enabled": False}
        self.write(json.dumps({"rules": [never, self.always_ask()]}))
        self.wait_for(b"public/k", b"BYPASS")
        self.assertEqual(self.source(b"private/k"), b"REVALIDATED")
        self.wait_until("healthy")
        self.path.unlink()
        self.wait_for(b"private/k", b"HIT")
        self.assertEqual([self.source(b"public/k") for _ in range(2)], [b"MISS", b"HIT"])
        self.assertEqual(self.stage.tracebacks(), [])
        self.assertEqual(self.proxy.app_log().count("1 fortnight"), 2, "not once from the file and once from health")

    def test_from_the_start(self) -> None:
        """The first requests are answered under the rules."""
        self.make("1h", {"pattern": "stage-*/private/**", "get_ttl": "0s"}, {"pattern": "**", "head_ttl": "0s"})
        self.assertEqual([self.source(key) for key in (b"private/k", b"public/k")], [b"REVALIDATED", b"HIT"])

    def test_hangup(self) -> None:
        """SIGHUP looks at the file at once."""
        self.make("1h")
        self.assertEqual(self.source(b"private/k"), b"HIT")
        self.write(json.dumps({"rules": [self.always_ask()]}))
        self.proxy.signal(signal.SIGHUP)
        self.wait_for(b"private/k", b"REVALIDATED")
        self.assertEqual(self.source(b"public/k"), b"HIT")
