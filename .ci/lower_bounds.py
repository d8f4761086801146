"""Writes a pip constraints file that pins every requirement of setup.cfg to its lower bound.

    python .ci/lower_bounds.py constraints.txt

Requirements without a lower bound are left out.
"""

import configparser
import re
import sys
from pathlib import Path

SETUP = Path(__file__).parents[1] / "setup.cfg"
#: What the tests need is pinned like what the program needs. Tools that only build and install are not.
EXTRAS = ("otlp", "test")
TOOLS = ("pip", "setuptools", "wheel")
REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*>=\s*(?P<bound>[0-9.]+)")


def lower_bounds(text: str) -> list[str]:
    """``name==bound`` for every requirement in the text of a setup.cfg."""
    config = configparser.ConfigParser(interpolation=None)
    config.read_string(text)
    lines = config["options"]["install_requires"].splitlines()
    for extra in EXTRAS:
        lines += config["options.extras_require"][extra].splitlines()
    found = (REQUIREMENT.match(line.strip()) for line in lines)
    pinned = (match for match in found if match and match["name"] not in TOOLS)
    return [f"{match['name']}=={match['bound']}" for match in pinned]


if __name__ == "__main__":
    Path(sys.argv[1]).write_text("\n".join(lower_bounds(SETUP.read_text())) + "\n")
