"""Lines of the API."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.control.client import Lines

TEXT = b'{"progress":{"done":1}}\n{"found":{"name":"b/k"}}\n{"data":{}}\n{"error":"x","status":503}\n'
EVENTS = [
    ("progress", {"done": 1}), ("found", {"name": "b/k"}), ("data", {}), ("error", {"error": "x", "status": 503})
]  # fmt: skip


class LinesTests(SynchronousTestCase):
    @given(st.lists(st.integers(0, len(TEXT)), max_size=6).map(sorted))
    def test_any_pieces(self, cuts: list[int]) -> None:
        """However it is cut on its way, the same comes out."""
        found: list[tuple[str, Any]] = []
        lines = Lines(lambda kind, value: found.append((kind, value)))
        for start, stop in zip([0, *cuts], [*cuts, len(TEXT)]):
            lines.feed(TEXT[start:stop])
        self.assertEqual(found, EVENTS)

    def test_something_else(self) -> None:
        """What is not the API is found out."""
        for text in (b"<html>\n", b"[]\n", b"{}\n", b"1\n", b"\n"):
            self.assertRaises(ValueError, Lines(lambda kind, value: None).feed, text)
