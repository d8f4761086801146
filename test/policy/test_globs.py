"""Patterns over object names."""

import time
from functools import lru_cache

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.policy.globs import Glob
from test.s3.table import add_rows

NAME = "my-bucket/logs/2024/a.txt"
LONG = 1088
"""Characters of the longest name of an object: bucket, slash and key."""


TOKENS: st.SearchStrategy[tuple[str, str]] = st.one_of(
    st.tuples(st.just("*"), st.text("ab", max_size=3)),
    st.tuples(st.just("**"), st.text("ab/", max_size=4)),
    st.tuples(st.just("?"), st.sampled_from("ab")),
    st.sampled_from(["a", "b", "/", "ab", "ba", "a/"]).map(lambda each: (each, each)),
)
"""A part of a pattern, and what it may stand for."""


def slowly(pattern: str, name: str) -> bool:
    """Whether the pattern fits, by trying everything."""

    @lru_cache(None)
    def fits(at: int, position: int) -> bool:
        if at == len(pattern):
            return position == len(name)
        there = name[position : position + 1]
        if pattern.startswith("**", at):
            return fits(at + 2, position) or (bool(there) and fits(at, position + 1))
        if pattern[at] == "*":
            return fits(at + 1, position) or (there not in ("", "/") and fits(at, position + 1))
        if pattern[at] == "?":
            return there not in ("", "/") and fits(at + 1, position + 1)
        return there == pattern[at] and fits(at + 1, position + 1)

    return fits(0, 0)


class GlobTests(SynchronousTestCase):
    """Does it fit?"""

    def check(self, pattern: str, name: str, expected: bool) -> None:
        """One row, by the oracle, too."""
        self.assertEqual(Glob(pattern).fits(name), expected)
        self.assertEqual(slowly(pattern, name), expected)

    @settings(max_examples=500)
    @given(st.lists(TOKENS, max_size=9), st.integers(0, 20), st.sampled_from(["", "a", "b", "/", "ab", "/a"]))
    def test_same_as_trying_everything(self, tokens: list[tuple[str, str]], at: int, change: str) -> None:
        """Each block and each piece is looked for once, and yet nothing is missed: in names that fit, and in names that
        differ from these in one place.
        """
        pattern = "".join(each for each, _ in tokens)
        fitting = "".join(each for _, each in tokens)
        self.assertTrue(Glob(pattern).fits(fitting))
        for name in (fitting[:at] + change + fitting[at:], fitting[:at] + change + fitting[at + 1 :]):
            self.assertEqual(Glob(pattern).fits(name), slowly(pattern, name), name)

    @given(st.text("ab/*?", max_size=12), st.text("ab/", max_size=14))
    def test_names_that_have_nothing_to_do_with_the_pattern(self, pattern: str, name: str) -> None:
        """The same."""
        self.assertEqual(Glob(pattern).fits(name), slowly(pattern, name))

    @given(st.text(max_size=8), st.text(max_size=8))
    def test_any_characters(self, pattern: str, name: str) -> None:
        """Whatever the characters are, also those of several bytes, line ends and lone surrogates."""
        for each in (pattern, f"{pattern}*", f"**{pattern}", f"?{pattern}"):
            self.assertEqual(Glob(each).fits(name), slowly(each, name))
            self.assertEqual(Glob(each).fits(pattern), slowly(each, pattern))

    def test_no_pattern_takes_long(self) -> None:
        """Patterns for which a regular expression would try very many ways take no time worth speaking of."""
        hostile = (
            ("**a" * 300 + "b", "a" * LONG),
            ("*a" * 300 + "b", "a" * LONG),
            ("**?*a" * 300 + "b", "a" * LONG),
            ("**a*b", "a" * LONG),
            ("**/logs/*.gz", "/logs" * (LONG // 5)),
            ("**a/?/a*b**", "a/" * (LONG // 2)),
            ("**" + "?" * 500 + "b**", "a" * LONG),
            ("**" + "a?" * 200 + "b*c**", "a" * LONG),
            ("*" * 1001, "a/" * (LONG // 2)),
        )
        began = time.perf_counter()
        for pattern, name in hostile:
            Glob(pattern).fits(name)
        self.assertLess(time.perf_counter() - began, 1.0)

    def test_time_grows_with_the_name(self) -> None:
        """A name a thousand times as long as any object's takes a thousand times as long, not a million."""
        began = time.perf_counter()
        for pattern in ("**a*b", "**a*b**", "**a**b*c", "*a*b", "**/logs/*.gz"):
            self.assertFalse(Glob(pattern).fits("a" * 1_000_000))
            self.assertFalse(Glob(pattern).fits("a/" * 50_000))
            self.assertFalse(Glob(pattern).fits("a" * 1_000_000 + "/"))
        self.assertLess(time.perf_counter() - began, 5.0)

    def test_head(self) -> None:
        """What every name that fits begins with."""
        rows = (("b/x*y", "b/x"), ("b/k", "b/k"), ("**", ""), ("b?/k", "b"), ("[b]/{k}", "[b]/{k}"))
        self.assertEqual([(pattern, Glob(pattern).head) for pattern, _ in rows], list(rows))

    def test_is_its_pattern(self) -> None:
        """Two of the same pattern are the same."""
        self.assertEqual(Glob("b/**"), Glob("b/**"))
        self.assertNotEqual(Glob("b/**"), Glob("b/*"))


ROWS = (
    ("my-bucket/**", NAME, True),
    ("**/logs/**", NAME, True),
    ("**", NAME, True),
    ("my-*/logs/*/a.tx?", NAME, True),
    ("my-bucket/logs", NAME, False),
    ("my-bucket/*", NAME, False),
    ("MY-bucket/**", NAME, False),
    ("logs/**", NAME, False),
    ("my.bucket/**", "my-bucket/x", False),
    ("my.bucket/**", "my.bucket/x", True),
)
"""The patterns that were agreed on."""

MORE = (
    ("b/temp", "b/temp", True),
    ("b/temp", "b/temp/x", False),
    ("b/temp/**", "b/temp/x", True),
    ("b/temp/**", "b/temp/x/y", True),
    ("b/temp/**", "b/temp", False),
    ("b/temp/**", "b/temp/", True),
    ("**/logs/**", "logs/x", False),
    ("**/x", "x", False),
    ("**/x", "b/x", True),
    ("b/*", "b/", True),
    ("b/?", "b/", False),
    ("b/?", "b//", False),
    ("b/??", "b/xy", True),
    ("b/***", "b/x/y", True),
    ("b/***z", "b/x/yz", True),
    ("b/****", "b/x", True),
    ("b/*.tar.*", "b/x.tar.gz", True),
    ("b/[a-z]", "b/a", False),
    ("b/[a-z]", "b/[a-z]", True),
    ("b/{x,y}", "b/x", False),
    ("b/{x,y}", "b/{x,y}", True),
    ("b/\\*", "b/*", False),
    ("b/\\*", "b/\\x", True),
    ("b/(x|y)+$", "b/(x|y)+$", True),
    ("b/**", "b/line\nend", True),
    ("b/*", "b/line\nend", True),
    ("b/?", "b/\n", True),
    ("b/x", "b/x\n", False),
    ("b/日本*", "b/日本語", True),
    ("b/日本?", "b/日本語", True),
    ("b/?", "b/\U0001f600", True),
    ("b/日本/**/語?", "b/日本/x/y/語語", True),
    ("b/é", "b/e\u0301", False),
    ("b/?", "b/\udcff", True),
    ("b/a%20b", "b/a b", False),
    ("b/x**xy", "b/xy", False),
    ("b/x**xy", "b/xxy", True),
    ("b/x*y", "b/xy", True),
    ("b/xy*yz", "b/xyz", False),
    ("**a*b*c", "x/ab/ac/abc", True),
    ("**a*b*c**", "x/ab/c/ab", False),
    ("**a*b", "x/a/ab", True),
    ("**a*b", "x/ab/a", False),
    ("a*", "/a", False),
    ("", "", True),
    ("", "x", False),
    ("*", "", True),
    ("**", "", True),
    ("?", "", False),
)
add_rows(GlobTests, "V8", ROWS, GlobTests.check)
add_rows(GlobTests, "fits", MORE, GlobTests.check)
