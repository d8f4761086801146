"""What needs no proxy."""

import json
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.config.model import Cache, Config
from s3proxy.control.names import parse_name
from s3proxy.control.offline import check_config, check_rules, explain_rules
from s3proxy.control.outcome import Usage

RULES = {
    "rules": [
        {"pattern": "b/live/**", "get_ttl": "5s"},
        {"pattern": "b/**", "get_ttl": "1h", "head_ttl": "2h", "page_widening": True},
        {"pattern": "c/**", "get_ttl": "0s"},
    ]
}


class OfflineCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()

    def rules(self, rules: object) -> str:
        path = self.folder / "rules.json"
        path.write_text(json.dumps(rules))
        return str(path)


class RulesTests(OfflineCase):
    def test_usable(self) -> None:
        """No problems, and how many rules there are."""
        found = check_rules(self.rules(RULES), Config(), needed=True)
        self.assertEqual((found["problems"], found["notices"], found["rules"]), ([], [], 3))

    def test_wrong(self) -> None:
        """Every problem, with the file's name; remarks are no problems."""
        found = check_rules(self.rules({"rules": [{"pattern": "b", "get_ttl": "x"}, {}]}), Config(), needed=True)
        self.assertEqual(len(found["problems"]), 2)
        self.assertTrue(all(str(self.folder) in each for each in found["problems"]))
        found = check_rules(self.rules({"rules": [{"pattern": "b/**", "gett_ttl": "1s"}]}), Config(), needed=True)
        self.assertEqual((found["problems"], len(found["notices"])), ([], 1))

    def test_none(self) -> None:
        """A proxy without rules is well; a file that somebody names must be there."""
        missing = str(self.folder / "none.json")
        self.assertEqual(check_rules(missing, Config(), needed=False)["problems"], [])
        self.assertEqual(len(check_rules(missing, Config(), needed=True)["problems"]), 1)

    def test_bounds_are_those_of_the_configuration(self) -> None:
        """A second request must be due before the first one is given up."""
        path = self.rules({"rules": [{"pattern": "b/**", "hedging_enabled": True, "hedge_trigger_after": "9s"}]})
        self.assertEqual(len(check_rules(path, Config(), needed=True)["problems"]), 1)


class ExplainTests(OfflineCase):
    def explain(self, name: str) -> dict[str, tuple[object, object]]:
        config = Config(cache=Cache(get_ttl=60.0, head_ttl=30.0))
        found = explain_rules(parse_name(name), self.rules(RULES), config, needed=True)
        return {each["name"]: (each["value"], each["rule"]) for each in found["settings"]}

    def test_first_rule_that_says_it(self) -> None:
        """Each setting is that of the first fitting rule that has it, or of the configuration."""
        settings = self.explain("b/live/x")
        self.assertEqual(settings["get_ttl"], (5.0, 1))
        self.assertEqual(settings["head_ttl"], (7200.0, 2))
        self.assertEqual(settings["put_ttl"], (3600.0, None))
        self.assertEqual(self.explain("b/other")["get_ttl"], (3600.0, 2))
        self.assertEqual(self.explain("z/other")["get_ttl"], (60.0, None))

    def test_what_follows_from_others(self) -> None:
        """What is asked for every time is not kept in memory, and the answer says why."""
        found = explain_rules(parse_name("c/k"), self.rules(RULES), Config(), needed=True)
        (setting,) = [each for each in found["settings"] if each["name"] == "ram_cache_eligible"]
        self.assertEqual((setting["value"], setting["remark"][:13]), (False, "get_ttl is 0s"))

    def test_files_that_cannot_be_used(self) -> None:
        """Then there is no answer."""
        path = self.rules({"rules": 1})
        self.assertRaises(Usage, explain_rules, parse_name("b/k"), path, Config(), needed=True)
        missing = str(self.folder / "none.json")
        self.assertRaises(Usage, explain_rules, parse_name("b/k"), missing, Config(), needed=True)
        found = explain_rules(parse_name("b/k"), missing, Config(), needed=False)
        self.assertEqual(list(found["fitting"]), [])


class ConfigTests(OfflineCase):
    def check(self, text: str) -> dict[str, list[str]]:
        path = self.folder / "s3proxy.yaml"
        path.write_text(text)
        return check_config(str(path), {})

    def test_usable(self) -> None:
        """Nothing wrong; what has no effect is said."""
        found = self.check(f"cache: {{cache_dir: {self.folder}}}\nserver: {{http_prot: 1}}")
        self.assertEqual(found["problems"], [])
        self.assertIn("server.http_prot", " ".join(found["notices"]))

    def test_wrong(self) -> None:
        """All of it at once, each with its line."""
        found = self.check("server:\n  http_port: x\n  request_timeout: 0s\n")
        self.assertEqual(len(found["problems"]), 2)
        self.assertIn("s3proxy.yaml:2: server.http_port", found["problems"][0])

    def test_files_and_rules(self) -> None:
        """Certificates that are not there, and rules that can't be used, are problems, too."""
        (self.folder / "cache_rules.json").write_text("{")
        found = self.check(
            f"cache: {{cache_dir: {self.folder}}}\n"
            "server: {tls: {enabled: true, cert_path: /none/cert.pem, key_path: /none/key.pem}}"
        )
        text = "\n".join(found["problems"])
        self.assertIn("/none/cert.pem", text)
        self.assertIn("cache_rules.json", text)

    def test_no_file(self) -> None:
        """That is a problem like others."""
        self.assertEqual(len(check_config(str(self.folder / "none.yaml"), {})["problems"]), 1)
