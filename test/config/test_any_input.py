"""Whatever the sources hold: a configuration comes out, or a ConfigError with problems of one line each."""

import json
from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.config.environment import VARIABLES
from s3proxy.config.load import ConfigError, load_config
from s3proxy.config.model import Config
from s3proxy.config.schema import keys

PATHS = [key.path for key in keys(Config)]

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12),
    st.sampled_from(["1s", "5m", "auto", "on", "10.0.0.1", "a.lan:80", "*.x", "", "\0", "\ud800"]),
)
trees = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)


class AnyInput(SynchronousTestCase):
    """Nothing but ConfigError comes out."""

    def attempt(
        self, data: bytes, environ: Mapping[str, str] = {}, options: Mapping[str, object] = {},
    ) -> None:
        """Load this; judge the error, if there is one."""
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(data)
        try:
            loaded = load_config(path, environ=environ, options=options)
        except ConfigError as error:
            self.assertTrue(error.problems)
            lines = [str(problem) for problem in error.problems]
        else:
            lines = [notice.text for notice in loaded.notices]
        for line in lines:
            self.assertEqual(line.splitlines(), [line])
            self.assertLess(len(line), 1500)
            line.encode("utf-8")

    @settings(max_examples=150, deadline=None)
    @given(st.binary(max_size=60))
    def test_bytes(self, data: bytes) -> None:
        """Any bytes."""
        self.attempt(data)

    @settings(max_examples=150, deadline=None)
    @given(st.text(alphabet=" \n\t:-?[]{},&*!|>'\"%@`#~<=.01aey\\/", max_size=60))
    def test_text(self, text: str) -> None:
        """Any text that looks like YAML."""
        self.attempt(text.encode())

    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.tuples(st.sampled_from(PATHS), trees), max_size=6))
    def test_values(self, values: list[tuple[str, object]]) -> None:
        """Any value for any key."""
        tree: dict[str, object] = {}
        for path, value in values:
            *above, name = path.split(".")
            node: object = tree
            for word in above:
                node = node.setdefault(word, {}) if isinstance(node, dict) else node
            if isinstance(node, dict):
                node[name] = value
        self.attempt(json.dumps(tree).replace("NaN", ".nan").replace("Infinity", ".inf").encode())

    @settings(max_examples=100, deadline=None)
    @given(st.dictionaries(st.sampled_from(sorted(VARIABLES)), st.text(max_size=8)))
    def test_environment(self, environ: dict[str, str]) -> None:
        """Any environment."""
        self.attempt(b"", environ)

    @settings(max_examples=100, deadline=None)
    @given(st.dictionaries(st.sampled_from(PATHS), scalars, max_size=5))
    def test_options(self, options: dict[str, object]) -> None:
        """Any options."""
        self.attempt(b"", {}, options)
