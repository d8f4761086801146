"""What people see of each document."""

import io
from test.control.fake_admin import CARD, EXPLANATION, ROLLED, ROW, STATUS, SUMMARY, TOP, VERIFIED
from typing import Any

from rich.console import Console
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.control import tables
from s3proxy.control.rates import rates


def shown(view: str, document: Any, width: int = 200) -> str:
    """The text, without colours."""
    file = io.StringIO()
    Console(file=file, width=width, highlight=False).print(getattr(tables, view)(document))
    return file.getvalue()


class TablesTests(SynchronousTestCase):
    def assertShows(self, text: str, *wanted: str) -> None:
        for each in wanted:
            self.assertIn(each, text)

    def test_status(self) -> None:
        """Health with its reasons, totals, where it listens."""
        self.assertShows(
            shown("status", STATUS), "S3 Proxy 1.2.3", "healthy", "proxy-1:42", "up 1 h 1 min", "http 0.0.0.0:80",
            "tls [::1]:3129", "87.4 % since the start", "5 GiB of 10 GiB (50.0 %)",
            "No address answers for s3.example.",
            "degraded: upstream: No address answers.",
        )  # fmt: skip

    def test_draining(self) -> None:
        """A proxy that ends, or is not ready yet, says so in its first line."""
        for health, word in (({"draining": True, "ready": False}, "draining"), ({"ready": False}, "not ready")):
            first = shown("status", {**STATUS, "health": {**STATUS["health"], **health}}).splitlines()[0]
            self.assertIn(word, first)

    def test_top(self) -> None:
        """Rates, requests with their progress, buckets, addresses."""
        now = {**SUMMARY, "time": SUMMARY["time"] + 1, "requests_total": 1244, "sent": SUMMARY["sent"] + (1 << 20)}
        text = shown("top", {**TOP, "rates": rates(SUMMARY, now)})
        self.assertShows(
            text, "10.0/s", "1 MiB/s", "Requests (1)", "10.0.1.7", "31 MiB", "64 MiB", "12 MiB/s", "data", "192.0.2.1",
            "excluded", "31.2 ms",
        )  # fmt: skip

    def test_top_at_first(self) -> None:
        """Without rates, and without anything to do."""
        quiet = {**TOP, "inflight": {"requests": []}, "buckets": [], "upstreams": {"hosts": []}, "attention": []}
        self.assertNotIn("Requests (", shown("top", {**quiet, "rates": rates(None, SUMMARY)}))

    def test_names_are_harmless(self) -> None:
        """A key is text, neither a command for the terminal nor rich's mark-up, and it is never cut off."""
        self.assertNotIn("\x1b", shown("top", {**TOP, "rates": rates(None, SUMMARY)}))
        key = "[red]" + 80 * "long" + "\x1b[31m"
        listing = {"prefix": "", "folders": [], "objects": [{**ROW, "key": key}], "total": 1, "size": 1, "now": 0.0}
        text = shown("listing", listing, width=1000)
        self.assertIn("b/[red]" + 80 * "long" + "\\x1b[31m", text)
        folded = "".join(line[-20:].strip() for line in shown("listing", listing, width=100).splitlines())
        self.assertIn("longlong", folded)

    def test_listing(self) -> None:
        """Folders first; what share is cached, and for how long it is fresh; how much there is in all."""
        document = {
            "prefix": "b/", "folders": [{"folder": "x/", "objects": 3, "size": 4096}],
            "objects": [
                ROW, {**ROW, "key": "old", "expires": 1.0}, {**ROW, "key": "new", "expires": None, "store": "h:1"}
            ],
            "total": 9, "size": 5000, "now": 1_800_000_030.0,
        }  # fmt: skip
        text = shown("listing", document)
        self.assertShows(
            text, "b/x/  (3)", "25.0 %", "30 s", "stale", "b/new  [h:1]", "9 object(s), 4.88 KiB; 3 shown, see --limit"
        )
        whole = shown("listing", {**document, "total": 6})
        self.assertNotIn("shown", whole)

    def test_object(self) -> None:
        """All that is known, and the ranges that are there."""
        self.assertShows(
            shown("object_card", CARD), "b/dir/k", "what is missing is fetched", "25.0 %", "b/dir/**", "1m", "500ms",
            "499",
            "Content-Type", "2027-01-15 08:00:00",
        )  # fmt: skip
        whole = shown("object_card", {**CARD, "form": "one file", "rule": "", "in_memory": True, "unconfirmed": True})
        self.assertShows(whole, "one file, in memory", "none: the configuration decides", "(not yet)")
        self.assertNotIn("last byte", whole)

    def test_stats(self) -> None:
        """Values, and of distributions their number and mean."""
        rows = [
            {"name": "a_total", "labels": {"x": "y"}, "value": 12345.0},
            {"name": "b_ratio", "labels": {}, "value": 0.25},
            {"name": "c_seconds", "labels": {}, "value": {"count": 4, "sum": 2.0, "buckets": {}}},
            {"name": "d_seconds", "labels": {}, "value": {"count": 0, "sum": 0.0, "buckets": {}}},
            {"name": "e", "labels": {}, "value": None},
        ]
        self.assertShows(shown("stats", rows), "x=y", "12,345", "0.25", "4 × 0.5")

    def test_purged(self) -> None:
        """What was done, what would be, and that nothing was there."""
        self.assertIn("3 object(s) would be removed", shown("purged", {"objects": 3, "purged": 0, "dry_run": True}))
        self.assertIn("3 object(s) removed", shown("purged", {"objects": 3, "purged": 3, "dry_run": False}))
        self.assertIn("Nothing of it", shown("purged", {"objects": 0, "purged": 0, "dry_run": False}))

    def test_verified(self) -> None:
        """What is wrong first, then the sums, then what to do."""
        found = [{"verdict": "corrupt", "name": "b/k", "store": "aws", "reason": "the checksum", "removed": False}]
        text = shown("verified", {**VERIFIED, "found": found})
        self.assertShows(text, "corrupt", "b/k", "the checksum", "1 sound, 1 corrupt, 1 doubtful", "--repair")
        self.assertNotIn(
            "--repair", shown("verified", {**VERIFIED, "bad": 0, "corrupt": 0, "doubtful": 0, "found": []})
        )

    def test_warmed(self) -> None:
        """What failed, and why; the rest as numbers."""
        urls = [
            {"line": 1, "url": "h/k", "status": 403, "outcome": "", "bytes": 0, "error": "AccessDenied: no"},
            {"line": 2, "url": "h/l", "status": 200, "outcome": "MISS", "bytes": 5, "error": ""},
        ]
        document = {"read": 1, "failed": 1, "bytes": 5, "seconds": 0.1, "outcomes": {"MISS": 1}, "urls": urls}
        text = shown("warmed", document)
        self.assertShows(text, "AccessDenied: no", "1 object(s) read, 5 bytes in 0.1 s (1 MISS); 1 failed.")
        self.assertNotIn("h/l", text)

    def test_explanation(self) -> None:
        """Which rule decided what."""
        self.assertShows(
            shown("explanation", EXPLANATION), "b/dir/k", "rule 2, b/dir/**", "0s", "S3 is asked at every read",
            "as compression.enabled says", "the configuration",
        )  # fmt: skip

    def test_checked(self) -> None:
        """Problems before remarks before the verdict."""
        text = shown("checked", {"problems": ["x: bad"], "notices": ["y: odd"], "verdict": ["No."]})
        self.assertEqual(text.split("\n")[:3], ["wrong: x: bad", "note: y: odd", "No."])

    def test_drained(self) -> None:
        """When the end comes."""
        self.assertIn("In 5 s it accepts no more", shown("drained", {"delay": 5.0, "drain_timeout": 30.0}))
        self.assertIn("has ended", shown("drained", {"delay": 5.0, "drain_timeout": 30.0, "ended": True}))

    def test_rolled(self) -> None:
        """Which are new, which were not there, and who is still at work."""
        text = shown("rolled", ROLLED)
        for word in ("41", "51", "1.5 s", "1 of 3 worker(s) replaced in 3.2 s.", "Worker 2 was not there", "1 former"):
            self.assertIn(word, text)
        nothing = {**ROLLED, "workers": [], "skipped": [], "leaving": 0}
        self.assertEqual(shown("rolled", nothing).strip(), "0 of 3 worker(s) replaced in 3.2 s.")
