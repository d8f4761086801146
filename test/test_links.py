"""The links of the Markdown files lead somewhere, also where Sphinx does not look."""

import re
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import s3proxy

CHECKOUT = Path(s3proxy.__file__).parents[1]
PAGES = [*CHECKOUT.glob("*.md"), *(CHECKOUT / "doc").glob("*.md"), *(CHECKOUT / "bench").glob("*.md")]
LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]+))?\)")
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """The anchors that a page's headings get where Markdown files are shown directly."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page: Path) -> Iterator[str]:
    """The links of a page whose file or heading does not exist."""
    for target, anchor in LINK.findall(FENCED.sub("", page.read_text())):
        goal = page.parent / target if target else page
        if not goal.exists() or (anchor and anchor not in anchors(goal.read_text())):
            yield f"{target}#{anchor}" if anchor else target


class LinksTests(SynchronousTestCase):
    """One test for each page."""


def _add(page: Path) -> None:
    def test(self: LinksTests) -> None:
        self.assertEqual(list(dead_links(page)), [])

    name = page.relative_to(CHECKOUT).with_suffix("")
    test.__doc__ = f"Every relative link of {name} leads to a file and, if it names one, to a heading."
    setattr(LinksTests, "test_" + re.sub(r"\W", "_", str(name)).lower(), test)


for _page in PAGES:
    _add(_page)
