"""Each command before a proxy that gives what a test wants: what it asks, what it writes, how it ends."""

import json
from pathlib import Path
from test.control.fake_admin import CARD, EXPLANATION, ROLLED, ROW, STATUS, SUMMARY, TOP, VERIFIED, FakeAdmin, Running
from typing import Any
from urllib.parse import parse_qs

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.control import warm
from s3proxy.control.outcome import BadNews, Unreachable, Usage


class CommandCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.admin = FakeAdmin()
        self.admin.documents = {
            "status": STATUS, "top": TOP, "cache/object": CARD, "rules/match": EXPLANATION,
            "stats": {
                "metrics": {"a_total": [{"labels": {}, "value": 1.0}], "b": [{"labels": {"x": "y"}, "value": 2.0}]}
            },
        }  # fmt: skip
        self.admin.results = {
            "cache/refresh": ([("progress", {"what": "looking", "done": 0.5, "total": 1})], {}),
            "cache/purge": ([], {"objects": 3, "purged": 3, "dry_run": False}),
            "cache/verify": ([], {**VERIFIED, "bad": 0, "corrupt": 0, "doubtful": 0}),
            "drain": ([], {"delay": 5.0, "drain_timeout": 30.0}),
        }

    def run_(self, *words: str, **more: Any) -> Running:
        return Running(self.admin, *words, **more)

    def orders(self, name: str) -> list[Any]:
        return [order for each, order in self.admin.asked if each == name]


class LookingTests(CommandCase):
    def test_status(self) -> None:
        """Fine when all is well, and bad news otherwise, with a table or a document."""
        self.assertEqual(self.run_("status").code, 0)
        self.assertEqual(self.run_("--json", "status").document, STATUS)
        for change in ({"status": "degraded"}, {"status": "unhealthy"}, {"ready": False}, {"draining": True}):
            self.admin.documents["status"] = {**STATUS, "health": {**STATUS["health"], **change}}
            self.assertEqual(self.run_("status").code, 1, change)

    def test_top(self) -> None:
        """Elsewhere than on a terminal once, with the rates of the time in between; or as often as wanted."""
        later = {**TOP, "summary": {**SUMMARY, "time": SUMMARY["time"] + 1, "requests_total": 1244}}
        self.admin.documents["top"] = [TOP, later]
        running = self.run_("top", "--json")
        self.assertEqual((running.code, running.document["rates"]["requests_total"]), (0, 10.0))
        self.admin.documents["top"] = TOP
        running = self.run_("top", "--times", "3", "--json")
        self.assertEqual((running.code, running.text.count('"rates"')), (0, 3))

    def test_top_on_a_terminal(self) -> None:
        """It goes on, in place."""
        self.admin.documents["top"] = [TOP, TOP, TOP, Unreachable("gone")]
        running = self.run_("top", terminal=True)
        self.assertEqual(running.code, 3)
        self.assertIn("\x1b[?1049h", running.text)
        self.assertIn("\x1b[?1049l", running.text.rpartition("\x1b[?1049h")[2], "the screen is not given back")

    def test_stats(self) -> None:
        """All of them, some of them, none of them."""
        self.assertIn("metrics", self.run_("stats", "--json").document)
        self.assertEqual([row["name"] for row in self.run_("stats", "total", "--json").document], ["a_total"])
        self.assertEqual([row["name"] for row in self.run_("stats", "?", "--json").document], ["b"])
        self.assertEqual(self.run_("stats", "none").code, 1)

    def test_no_proxy(self) -> None:
        """Exit code 3, for programs as a document."""
        running = Running(Unreachable("nobody is there"), "status")
        self.assertEqual(
            (running.code, running.text, running.stderr.getvalue()), (3, "", "s3proxyctl: nobody is there\n")
        )
        running = Running(Unreachable("nobody is there"), "status", "--json")
        self.assertEqual((running.code, running.document), (3, {"error": "nobody is there", "code": 3}))


class ListTests(CommandCase):
    def page(self, number: int, **more: Any) -> dict[str, Any]:
        return {"objects": [ROW] * number, "gone": 0, "total": number, "size": 1, "folders": [], "now": 0.0, **more}

    def test_folders(self) -> None:
        """After a look through the directory, what lies at the prefix."""
        self.admin.documents["cache/objects"] = self.page(1)
        self.assertEqual(self.run_("ls", "s3://b/dir/").code, 0)
        self.assertEqual(self.admin.asked[0][0], "cache/refresh")
        query = parse_qs(self.admin.asked[1][1])
        self.assertEqual((query["prefix"], query["folders"], query["sort"]), (["b/dir/"], ["1"], ["name"]))

    def test_flat(self) -> None:
        """Everything below; or what fits."""
        self.admin.documents["cache/objects"] = self.page(1)
        self.run_("ls", "-r", "b/", "--sort=-size", "--limit", "5")
        query = parse_qs(self.admin.asked[-1][1])
        self.assertEqual((query["folders"], query["sort"], query["limit"]), (["0"], ["-size"], ["5"]))
        self.run_("ls", "--match", "*.tmp")
        self.assertEqual(parse_qs(self.admin.asked[-1][1])["q"], ["*.tmp"])

    def test_pages(self) -> None:
        """As many as there are, though some go away meanwhile; or as many as wanted."""
        pages = [self.page(999, gone=1), self.page(1000), self.page(3)]
        self.admin.documents["cache/objects"] = list(pages)
        self.assertEqual(len(self.run_("ls", "-r", "--limit", "0", "--json").document["objects"]), 2002)
        offsets = [parse_qs(query)["offset"] for name, query in self.admin.asked if name == "cache/objects"]
        self.assertEqual(offsets, [["0"], ["1000"], ["2000"]])
        self.admin.documents["cache/objects"] = [self.page(1000), self.page(200)]
        self.assertEqual(len(self.run_("ls", "-r", "--limit", "1200", "--json").document["objects"]), 1200)

    def test_nothing(self) -> None:
        """An empty cache is no bad news."""
        self.admin.documents["cache/objects"] = self.page(0)
        self.assertEqual(self.run_("ls").code, 0)

    def test_inspect(self) -> None:
        """One object; bad news when it is not there."""
        self.assertEqual(self.run_("inspect", "b/dir/k", "--json").document, CARD)
        self.assertEqual(self.admin.asked[-1], ("cache/object", "name=b%2Fdir%2Fk"))
        self.admin.documents["cache/object"] = BadNews("Nothing of this object is cached.")
        self.assertEqual(self.run_("inspect", "b/none").code, 1)


class PurgeTests(CommandCase):
    def test_names(self) -> None:
        """Each is removed; sums are of all."""
        running = self.run_("purge", "b/1", "b/2", "--json")
        self.assertEqual((running.code, running.document), (0, {"objects": 6, "purged": 6, "dry_run": False}))
        self.assertEqual(
            self.orders("cache/purge"), [{"name": "b/1", "dry_run": False}, {"name": "b/2", "dry_run": False}]
        )

    def test_prefix_and_glob(self) -> None:
        """Without a terminal nobody is asked."""
        self.run_("purge", "--prefix", "s3://b/x/", "-n")
        self.run_("purge", "--glob", "b/*.tmp")
        self.assertEqual(
            self.orders("cache/purge"), [{"prefix": "b/x/", "dry_run": True}, {"glob": "b/*.tmp", "dry_run": False}]
        )

    def test_asked_first(self) -> None:
        """On a terminal, many are removed only when somebody agrees; one who named the object has agreed."""
        running = self.run_("purge", "--prefix", "b/", terminal=True, stdin="n\n")
        self.assertEqual((running.code, len(self.orders("cache/purge"))), (1, 1))
        self.assertTrue(self.orders("cache/purge")[0]["dry_run"])
        self.assertIn("3 object(s) will be removed", running.stderr.getvalue())
        self.assertEqual(self.run_("purge", "--prefix", "b/", terminal=True, stdin="y\n").code, 0)
        self.assertEqual(len(self.orders("cache/purge")), 3)
        self.run_("purge", "--prefix", "b/", "--yes", terminal=True)
        self.run_("purge", "b/k", terminal=True)
        self.assertEqual(len(self.orders("cache/purge")), 5)

    def test_careless(self) -> None:
        """Nothing is sent when it is not clear what is meant."""
        for words in (
            ["purge"],
            ["purge", "b"],
            ["purge", "b/k", "--prefix", "b/"],
            ["purge", "--prefix", "b/", "--glob", "*"],
        ):
            self.assertEqual(self.run_(*words).code, 2, words)
        self.assertEqual(self.admin.asked, [])

    def test_refused(self) -> None:
        """What the proxy finds senseless is a matter of usage."""
        self.admin.results["cache/purge"] = ([], Usage("Name at least the whole bucket."))
        running = self.run_("purge", "--prefix", "b")
        self.assertEqual((running.code, "whole bucket" in running.stderr.getvalue()), (2, True))


class VerifyTests(CommandCase):
    def test_everything(self) -> None:
        """Without names the whole cache; fine when all is sound."""
        self.assertEqual(self.run_("verify").code, 0)
        self.assertEqual(self.orders("cache/verify"), [{"repair": False}])

    def test_bad(self) -> None:
        """What is not sound is bad news, removed or not, and is listed."""
        found = {"verdict": "corrupt", "name": "b/k", "store": "aws", "ref": "", "reason": "x", "removed": True}
        events = [("progress", {"what": "reading", "done": 1, "total": 3, **VERIFIED}), ("found", found)]
        self.admin.results["cache/verify"] = (events, VERIFIED)
        running = self.run_("verify", "--prefix", "b/", "--repair", "--json")
        self.assertEqual((running.code, running.document), (1, {**VERIFIED, "found": [found]}))
        self.assertEqual(self.orders("cache/verify"), [{"prefix": "b/", "repair": True}])

    def test_sums(self) -> None:
        """Several names are one answer."""
        self.assertEqual(self.run_("verify", "b/1", "b/2", "--json").document["objects"], 6)


class WarmTests(CommandCase):
    def setUp(self) -> None:
        super().setUp()
        self.calls: list[tuple[int, tuple[str, int], int]] = []

        def fake(
            targets: list[warm.Target], proxy: tuple[str, int], *, parallel: int, patience: float, told: Any
        ) -> Any:
            self.calls.append((len(targets), proxy, parallel))
            results = [
                warm.Warmed(target=each, status=200, outcome="MISS", size=5, error="no" if "bad" in each.target else "")
                for each in targets
            ]
            for each in results:
                told(each)
            return results

        self.patch(warm, "warm", fake)

    def test_where(self) -> None:
        """Through the listener that the proxy names, or through the one that is given."""
        running = self.run_("warm", "-", stdin="# list\nhttps://h/k\nhttps://h/l\n")
        self.assertEqual((running.code, self.calls), (0, [(2, ("127.0.0.1", 80), 8)]))
        self.run_("warm", "-", "--via", "[::1]:3128", "-p", "3", stdin="https://h/k\n")
        self.assertEqual(self.calls[-1], (1, ("::1", 3128), 3))

    def test_failure(self) -> None:
        """One that fails is bad news; the others are read."""
        running = self.run_("warm", "-", "--json", stdin="https://h/bad\nhttps://h/k\n")
        self.assertEqual((running.code, running.document["read"], running.document["failed"]), (1, 1, 1))

    def test_lists(self) -> None:
        """A file; one that is not there, or is no list, is a matter of usage, and nothing is sent."""
        path = Path(self.mktemp())
        path.write_text("https://h/k\n")
        self.assertEqual(self.run_("warm", str(path)).code, 0)
        self.assertEqual(self.run_("warm", str(path) + "x").code, 2)
        self.assertEqual(self.run_("warm", "-", stdin="h/k\n").code, 2)
        self.assertEqual(len(self.calls), 1)

    def test_only_tls(self) -> None:
        """A proxy that takes nobody without TLS can't be asked this way."""
        self.admin.documents["status"] = {**STATUS, "listeners": STATUS["listeners"][1:]}
        self.assertEqual(self.run_("warm", "-", stdin="https://h/k\n").code, 1)


class FilesTests(CommandCase):
    def setUp(self) -> None:
        super().setUp()
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        self.config = folder / "s3proxy.yaml"
        self.config.write_text(f"cache: {{cache_dir: {folder}, get_ttl: 5m}}")
        self.rules = folder / "cache_rules.json"
        self.rules.write_text(json.dumps({"rules": [{"pattern": "b/**", "get_ttl": "7s"}]}))

    def test_rules_check(self) -> None:
        """A file, or that of a configuration; no proxy is needed."""
        for words in (["rules", "check", str(self.rules)], ["rules", "check", "-c", str(self.config)]):
            self.assertEqual(Running(None, *words).code, 0, words)
        self.rules.write_text("{")
        for words in (["rules", "check", str(self.rules)], ["rules", "check", "-c", str(self.config), "--json"]):
            self.assertEqual(Running(None, *words).code, 1, words)
        self.assertEqual(Running(None, "rules", "check").code, 2)

    def test_rules_explain(self) -> None:
        """From files when they are named, else as the proxy says."""
        running = Running(None, "rules", "explain", "b/k", "-c", str(self.config), "--json")
        self.assertEqual((running.code, running.document["settings"][0]["value"]), (0, 7.0))
        running = Running(None, "rules", "explain", "c/k", "--rules", str(self.rules), "-c", str(self.config), "--json")
        self.assertEqual(running.document["settings"][0]["value"], 300.0)
        running = Running(None, "rules", "explain", "b/k", "--json", environ={"S3PROXY_CONFIG": str(self.config)})
        self.assertEqual(running.document["fitting"], [[1, "b/**"]])
        self.assertEqual(self.run_("rules", "explain", "b/k", "--json").document, EXPLANATION)
        self.assertEqual(self.admin.asked[-1], ("rules/match", "store=aws&bucket=b&key=k"))

    def test_config_check(self) -> None:
        """Fine, or bad news; without a name, usage."""
        self.assertEqual(Running(None, "config", "check", str(self.config)).code, 0)
        self.assertEqual(Running(None, "config", "check", "-c", str(self.config), "--json").document["problems"], [])
        self.config.write_text("server: {http_port: x}")
        running = Running(None, "config", "check", str(self.config))
        self.assertEqual(running.code, 1)
        self.assertIn("server.http_port", running.text)
        self.assertEqual(Running(None, "config", "check").code, 2)


class DrainTests(CommandCase):
    def test_begin(self) -> None:
        """The proxy is told; what comes is said."""
        running = self.run_("drain", "--delay", "10s")
        self.assertEqual((running.code, self.orders("drain")), (0, [{"delay": 10.0}]))
        self.assertIn("/readyz answers 503", running.text)

    def test_wait(self) -> None:
        """Until nobody answers any more."""
        self.admin.documents["status"] = [STATUS, STATUS, Unreachable("gone")]
        running = self.run_("drain", "--wait", "--json")
        self.assertEqual((running.code, running.document["ended"]), (0, True))

    def test_wait_in_vain(self) -> None:
        """A proxy that is still there when its time is over is bad news."""
        running = self.run_("drain", "--wait")
        self.assertEqual(running.code, 1)
        self.assertIn("still there", running.stderr.getvalue())


class RollTests(CommandCase):
    def test_replaced(self) -> None:
        """It waits until all are new; which, as a table or as a document."""
        self.admin.results["roll"] = ([("progress", ROLLED), ("progress", {**ROLLED, "worker": None})], ROLLED)
        running = self.run_("roll", "--limit", "10m")
        self.assertEqual((running.code, self.orders("roll")), (0, [{"limit": 600.0}]))
        self.assertIn("1 of 3 worker(s) replaced", running.text)
        self.assertEqual(self.run_("roll", "--json").document, ROLLED)
        self.assertEqual(self.run_("roll", terminal=True).code, 0)

    def test_not_replaced(self) -> None:
        """Bad news, with the proxy's words."""
        self.admin.results["roll"] = ([("progress", ROLLED)], BadNews("Not all workers are replaced after 300 s."))
        running = self.run_("roll")
        self.assertEqual(running.code, 1)
        self.assertIn("Not all workers are replaced after 300 s.", running.stderr.getvalue())
        self.assertEqual(self.run_("roll", "--json").document["code"], 1)
