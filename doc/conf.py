"""How Sphinx builds these pages: ``tox -e docs``."""

import configparser
import re
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_SETUP = configparser.ConfigParser(interpolation=None)
_SETUP.read(_ROOT / "setup.cfg")

project = "S3 Proxy"
author = _SETUP["metadata"]["author"]
project_copyright = author
release = re.findall(r'^__version__ = "(.+)"', (_ROOT / "s3proxy" / "__init__.py").read_text(), re.MULTILINE)[0]

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
# Links such as page.md#a-heading work here as they do where the Markdown files are shown directly.
myst_heading_anchors = 4

html_theme = "alabaster"
html_theme_options = {"description": "A transparent caching proxy for Amazon S3"}
html_static_path: list[str] = []
html_copy_source = False
html_show_sourcelink = False
