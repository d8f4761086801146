"""The declaration of metrics and its documentation."""

import os
import re

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.telemetry.families import FAMILIES

_DOCUMENT = os.path.join(os.path.dirname(__file__), "..", "..", "doc", "observability.md")
_ROW = re.compile(r"^\| `(s3proxy_\w+)` \| (\w+) \| (.*) \| (.*) \|$", re.MULTILINE)


class DocumentTests(SynchronousTestCase):
    def test_the_table_is_the_declaration(self) -> None:
        """The document lists every metric in order, with its type, labels and meaning, and no other."""
        with open(_DOCUMENT, encoding="utf-8") as file:
            rows = _ROW.findall(file.read())
        self.assertEqual(
            rows,
            [
                (family.name, family.type, ", ".join(f"`{label}`" for label in family.labels) or "–", family.help)
                for family in FAMILIES
                if not family.hidden
            ],
        )

    def test_names_are_unique(self) -> None:
        """Nothing is declared twice."""
        names = [family.name for family in FAMILIES]
        self.assertEqual(len(names), len(set(names)))

    def test_merging(self) -> None:
        """Counters and histograms add up; what is said of a state has no sum."""
        for family in FAMILIES:
            if family.type != "gauge":
                self.assertEqual(family.merge, "sum", family.name)
            if family.name.endswith("_ratio"):
                self.assertEqual(family.merge, "ratio", family.name)
            if family.name.endswith(("_timestamp_seconds", "_info", "_status", "_ready")):
                self.assertIn(family.merge, ("min", "max"), family.name)
