"""Which rules an object's settings come from."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.config.model import Cache, Config
from s3proxy.policy.explain import explain
from s3proxy.policy.globs import Glob
from s3proxy.policy.rules import SETTING_NAMES, Rules
from s3proxy.policy.rules_file import FIELDS, Rule
from s3proxy.s3.address import ObjectAddress

PATTERNS = ("b/**", "b/x/*", "b/x/k", "c/**", "**/k")


def address(name: bytes) -> ObjectAddress:
    bucket, _, key = name.partition(b"/")
    return ObjectAddress(store="aws", bucket=bucket, key=key)


class ExplainTests(SynchronousTestCase):
    @given(
        st.lists(
            st.builds(
                lambda pattern, ttl, read: Rule(glob=Glob(pattern), get_ttl=ttl, read_cache_enabled=read),
                st.sampled_from(PATTERNS), st.sampled_from([None, 0.0, 5.0]), st.sampled_from([None, True, False]),
            ),
            max_size=4,
        ).map(tuple),
        st.sampled_from([b"b/x/k", b"b/y", b"c/k", b"d/z"]),
    )  # fmt: skip
    def test_as_it_is(self, rules: tuple[Rule, ...], name: bytes) -> None:
        """What it says is what holds, and the rule that it names fits and says that."""
        known = Rules(Config(cache=Cache(get_ttl=60.0)), rules)
        settings = known.resolve(address(name))
        found = explain(known, address(name))
        self.assertEqual([each.name for each in found.settings], list(FIELDS))
        fitting = dict(found.fitting)
        for each in found.settings:
            self.assertEqual(each.value, getattr(settings, SETTING_NAMES.get(each.name, each.name)))
            if each.rule is not None:
                self.assertEqual(fitting[each.rule], rules[each.rule - 1].glob.pattern)
                self.assertEqual(getattr(rules[each.rule - 1], each.name), each.value)
        self.assertEqual(settings.source, found.fitting[0][1] if found.fitting else "")

    def test_names_that_are_no_text(self) -> None:
        """Keys are bytes."""
        known = Rules(Config(), (Rule(glob=Glob("b/*"), get_ttl=1.0),))
        self.assertEqual(explain(known, address(b"b/\xff")).fitting, ((1, "b/*"),))
