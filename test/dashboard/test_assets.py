"""The files of the page."""

import gzip
import hashlib
import re

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.dashboard.assets import load_assets

ASSETS = load_assets()
OURS = {path: asset.plain.decode() for path, asset in ASSETS.items() if not path.startswith(b"/vendor/")}

MAKES_CODE = re.compile(r"innerHTML|outerHTML\s*=|insertAdjacentHTML|document\.write|\beval\(|new Function")

#: As the package uplot 1.6.32 of the npm registry has them: dist/uPlot.iife.min.js and dist/uPlot.min.css.
VENDORED = {
    b"/vendor/uplot.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    b"/vendor/uplot.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}


class AssetsTests(SynchronousTestCase):
    def test_there(self) -> None:
        """The page, its style, its modules, the charts and their licence."""
        for path in (b"/", b"/style.css", b"/app.js", b"/icon.svg", *VENDORED, b"/vendor/uplot.LICENSE.txt"):
            self.assertIn(path, ASSETS)
        self.assertIn("MIT", ASSETS[b"/vendor/uplot.LICENSE.txt"].plain.decode())

    def test_vendored(self) -> None:
        """What others wrote is exactly what they published."""
        for path, checksum in VENDORED.items():
            self.assertEqual(hashlib.sha256(ASSETS[path].plain).hexdigest(), checksum)

    def test_nothing_from_elsewhere(self) -> None:
        """The page works without a network: no file names another host, but as the name of a vocabulary."""
        for path, text in OURS.items():
            found = set(re.findall(r"(?:https?:)?//[\w.-]+\.[\w.-]+", text)) - {"http://www.w3.org"}
            self.assertEqual(found, set(), path)

    def test_nothing_inline(self) -> None:
        """The policy forbids scripts and styles within the page; so there are none, and nothing that makes any."""
        page = OURS[b"/"]
        self.assertEqual(re.findall(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", page), [])
        for path, text in OURS.items():
            if path.endswith(b".js"):
                self.assertEqual(MAKES_CODE.findall(text), [], path)

    def test_modules_exist(self) -> None:
        """Every import leads to a file."""
        for path, text in OURS.items():
            for name in re.findall(r'^import .*? from "\./([\w.]+)";', text, re.MULTILINE):
                self.assertIn(b"/" + name.encode(), ASSETS, path)

    def test_budget(self) -> None:
        """A page for a tunnel over a slow line: less than 150 KB, less than 60 KB compressed."""
        page = [asset for path, asset in ASSETS.items() if not path.endswith(b".txt")]
        self.assertLess(sum(len(asset.plain) for asset in page), 150_000)
        self.assertLess(sum(len(asset.packed) for asset in page), 60_000)

    def test_packed(self) -> None:
        """Compressed and plain form are the same."""
        for asset in ASSETS.values():
            self.assertEqual(gzip.decompress(asset.packed), asset.plain)
