"""What the pages show as configuration, rules and JSON can be used, and their lists are complete."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import yaml
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.config.load import load_config
from s3proxy.config.model import Config
from s3proxy.config.schema import sections
from s3proxy.policy.rules_file import read_rules
from s3proxy.policy.verdicts import Outcome, Reason

ROOT = Path(__file__).parents[1]
DOC = ROOT / "doc"
PAGES = (ROOT / "README.md", *sorted(DOC.glob("*.md")))
SECTIONS = {path for path, _ in sections(Config) if "." not in path}


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """The blocks in this language: name of the page, and text."""
    for page in PAGES:
        for text in re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.M | re.S):
            yield page.name, text


class BlockTests(SynchronousTestCase):
    """What can be copied from a page."""

    def test_configurations(self) -> None:
        """Each piece of a configuration loads, and no key of it is unknown or without effect."""
        count = 0
        for page, text in blocks("yaml"):
            if not set(yaml.safe_load(text)) <= SECTIONS:
                continue
            path = self.mktemp()
            Path(path).write_text(text, "utf-8")
            loaded = load_config(path, environ={}, options={})
            # 8081 is the dashboard's, which gives way; and giving up TLS is worth a word.
            notices = [each.text for each in loaded.notices if not re.search("dashboard.port|without TLS", each.text)]
            self.assertEqual(notices, [], page)
            count += 1
        self.assertGreater(count, 5)

    def test_json(self) -> None:
        """Each piece of JSON is JSON; those that are rules can be used."""
        rules = 0
        for page, text in blocks("json"):
            found = json.loads(text)
            if "rules" in found:
                self.assertEqual(read_rules(text.encode(), 5.0).remarks, (), page)
                rules += 1
        self.assertGreater(rules, 1)


class ListTests(SynchronousTestCase):
    """Lists that have to be complete."""

    def test_reasons(self) -> None:
        """Troubleshooting explains each reason that logs and headers name, and no other."""
        text = (DOC / "troubleshooting.md").read_text("utf-8")
        table = text.partition("### Reasons\n")[2].partition("\n## ")[0]
        names = {name for row in re.findall(r"^\| (`.*?) \|", table, re.M) for name in re.findall("`([^`]+)`", row)}
        self.assertEqual(names, {reason.value for reason in Reason if reason is not Reason.NONE})

    def test_outcomes(self) -> None:
        """Caching explains each value of X-Cache."""
        table = (DOC / "caching.md").read_text("utf-8").partition("## Where an answer came from")[2]
        self.assertEqual(set(re.findall(r"^\| `([A-Z]+)` \|", table, re.M)), {outcome.value for outcome in Outcome})

    def test_index(self) -> None:
        """Every page is in the index, once."""
        listed = re.findall(r"^([a-z0-9-]+)$", (DOC / "index.md").read_text("utf-8"), re.M)
        self.assertEqual(sorted(listed), sorted(page.stem for page in DOC.glob("*.md") if page.stem != "index"))
