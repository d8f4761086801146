"""Which settings hold for an object."""

import json
import time
from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.config.model import Cache, Config
from s3proxy.policy import rules as module
from s3proxy.policy.globs import Glob
from s3proxy.policy.rules import Rules
from s3proxy.policy.rules_file import FIELDS, Rule, read_rules
from s3proxy.s3.address import ObjectAddress, locate
from s3proxy.s3.headers import Headers
from s3proxy.s3.target import parse_target
from test.s3.table import add_rows

CONFIG = Config(cache=Cache(get_ttl=60.0, head_ttl=30.0, put_ttl=10.0))
DEFAULTS = Rules(CONFIG).resolve(ObjectAddress(store="aws", bucket=b"b", key=b"k"))


def rules(*given: dict[str, Any], config: Config = CONFIG) -> Rules:
    """The rules of a file."""
    return Rules(config, read_rules(json.dumps({"rules": given}).encode(), 5.0).rules)


def address(name: str) -> ObjectAddress:
    """The object ``bucket/key``."""
    bucket, _, key = name.partition("/")
    return ObjectAddress(store="aws", bucket=bucket.encode(), key=key.encode())


class PrecedenceTests(SynchronousTestCase):
    """Each setting on its own comes from the first rule that fits and has it."""

    def test_without_rules(self) -> None:
        """Everything is as the configuration says, and finding that out costs nothing."""
        none = Rules(CONFIG)
        self.assertIs(none.resolve(address("b/k")), none.resolve(address("c/x")))
        expected: dict[str, Any] = {
            "get_ttl": 60.0, "head_ttl": 30.0, "put_ttl": 10.0, "stale_if_error": 0.0, "read_cache_enabled": True,
            "write_cache_enabled": True, "evaluate_conditions": True, "honor_cache_control": False,
            "ram_cache_eligible": True, "compression": None, "page_widening": False, "page_size": 16 << 20,
            "hedging_enabled": False, "hedge_trigger_after": 0.25, "hedge_max_per_request": 1, "source": "",
        }  # fmt: skip
        self.assertEqual(expected, {name: getattr(DEFAULTS, name) for name in expected})

    def test_each_setting_by_itself(self) -> None:
        """One object may take its TTL from the third rule and its page size from the second."""
        found = rules(
            {"pattern": "b/k", "head_ttl": "1s"},
            {"pattern": "b/*", "page_size": 1000, "head_ttl": "2s"},
            {"pattern": "b/**", "get_ttl": "3s", "page_size": 2000},
            {"pattern": "**", "get_ttl": "4s", "put_ttl": "5s"},
        ).resolve(address("b/k"))
        self.assertEqual(
            found, attrs.evolve(DEFAULTS, head_ttl=1.0, page_size=1000, get_ttl=3.0, put_ttl=5.0, source="b/k")
        )

    def test_the_order_of_the_file_decides(self) -> None:
        """A general rule above a special one hides it."""
        general, special = {"pattern": "b/**", "get_ttl": "1s"}, {"pattern": "b/k", "get_ttl": "2s"}
        self.assertEqual(rules(general, special).resolve(address("b/k")).get_ttl, 1.0)
        self.assertEqual(rules(special, general).resolve(address("b/k")).get_ttl, 2.0)

    def test_null_says_nothing(self) -> None:
        """A rule with null leaves the setting to those below it."""
        found = rules({"pattern": "b/k", "get_ttl": None}, {"pattern": "b/**", "get_ttl": "2s"})
        self.assertEqual(found.resolve(address("b/k")).get_ttl, 2.0)

    def test_false_and_zero_say_something(self) -> None:
        """They are settings like others."""
        found = rules(
            {"pattern": "b/k", "get_ttl": "0s", "write_cache_enabled": False, "hedge_max_per_request": 0},
            {"pattern": "**", "get_ttl": "2s", "write_cache_enabled": True, "hedge_max_per_request": 2},
        ).resolve(address("b/k"))
        self.assertEqual((found.get_ttl, found.write_cache_enabled, found.hedge_max_per_request), (0.0, False, 0))

    def test_every_field_has_its_setting(self) -> None:
        """What a rule may set is set."""
        values: dict[str, Any] = {
            "get_ttl": 1.0, "head_ttl": 2.0, "put_ttl": 3.0, "stale_if_error": 4.0, "read_cache_enabled": True,
            "write_cache_enabled": False, "compression_enabled": True, "ram_cache_eligible": False,
            "evaluate_conditions_from_cache": False, "honor_cache_control": True, "page_widening": True,
            "page_size": 5, "hedging_enabled": True, "hedge_trigger_after": 0.5, "hedge_max_per_request": 6,
        }  # fmt: skip
        self.assertEqual(values.keys(), FIELDS.keys())
        found = rules({"pattern": "b/**", **values}).resolve(address("b/k"))
        self.assertEqual(
            found,
            attrs.evolve(
                DEFAULTS,
                get_ttl=1.0,
                head_ttl=2.0,
                put_ttl=3.0,
                stale_if_error=4.0,
                read_cache_enabled=True,
                write_cache_enabled=False,
                compression=True,
                ram_cache_eligible=False,
                evaluate_conditions=False,
                honor_cache_control=True,
                page_widening=True,
                page_size=5,
                hedging_enabled=True,
                hedge_trigger_after=0.5,
                hedge_max_per_request=6,
                source="b/**",
            ),
        )

    def test_source(self) -> None:
        """The first rule that fits is named, whatever it sets."""
        found = rules({"pattern": "b/**"}, {"pattern": "**", "get_ttl": "1s"})
        self.assertEqual([found.resolve(address(name)).source for name in ("b/k", "c/k")], ["b/**", "**"])

    def test_allowlist(self) -> None:
        """Where nothing is kept by default, a rule may allow it."""
        found = rules(
            {"pattern": "kept/**", "read_cache_enabled": True}, config=Config(cache=Cache(read_cache_enabled=False))
        )
        self.assertTrue(found.resolve(address("kept/k")).read_cache_enabled)
        self.assertTrue(found.resolve(address("kept/k")).ram_cache_eligible)
        self.assertFalse(found.resolve(address("other/k")).read_cache_enabled)

    def eligible(self, asked: bool | None, expected: bool, rule: dict[str, Any], config: Config) -> None:
        """One row: what a rule says of memory, and what holds, under another rule and a configuration."""
        found = rules({"pattern": "**", "ram_cache_eligible": asked}, {"pattern": "b/**", **rule}, config=config)
        self.assertIs(found.resolve(address("b/k")).ram_cache_eligible, expected)

    @given(st.lists(st.tuples(st.sampled_from(["b/*", "b/**", "**/x", "*/k", "?/**"]), st.booleans(), st.booleans())))
    def test_like_reading_the_file_from_the_top(self, given: list[tuple[str, bool, bool]]) -> None:
        """What is remembered of buckets, objects and combinations changes nothing."""
        file = [
            Rule(glob=Glob(pattern), get_ttl=float(n) if ttl else None, head_ttl=float(n) if head else None)
            for n, (pattern, ttl, head) in enumerate(given)
        ]
        subject = Rules(CONFIG, file)
        for name in ("b/k", "b/x", "b/k/x", "cc/k", "b/k", "b/k/x"):
            fitting = [rule for rule in file if rule.glob.fits(name)]
            found = subject.resolve(address(name))
            self.assertEqual(found.get_ttl, next((r.get_ttl for r in fitting if r.get_ttl is not None), 60.0))
            self.assertEqual(found.head_ttl, next((r.head_ttl for r in fitting if r.head_ttl is not None), 30.0))


add_rows(
    PrecedenceTests,
    "memory",
    (
        (None, True, {}, Config()),
        (False, False, {}, Config()),
        (True, False, {"get_ttl": "0s"}, Config()),
        (True, False, {"read_cache_enabled": False}, Config()),
        (None, False, {}, Config(cache=Cache(ram_cache_enabled=False))),
        (True, True, {}, Config(cache=Cache(ram_cache_enabled=False))),
        (None, False, {}, Config(cache=Cache(get_ttl=0.0))),
        (None, True, {"get_ttl": "1h"}, Config(cache=Cache(get_ttl=0.0))),
    ),
    PrecedenceTests.eligible,
)


class NamesTests(SynchronousTestCase):
    """What patterns are compared with."""

    def source(self, pattern: str, host: bytes, path: bytes, fits: bool) -> None:
        """One row: whether a pattern fits what a request is about."""
        found = locate(parse_target(path, Headers([(b"Host", host)])))
        assert found is not None
        self.assertEqual(rules({"pattern": pattern}).resolve(found).source, pattern if fits else "")


add_rows(
    NamesTests,
    "name",
    (
        ("b/k", b"b.s3.us-east-1.amazonaws.com", b"/k", True),
        ("b/k", b"s3.us-east-1.amazonaws.com", b"/b/k", True),
        ("b/k", b"S3.amazonaws.com", b"/b/k", True),
        ("b/k", b"b.s3-accelerate.amazonaws.com", b"/k", True),
        ("b/k", b"minio.lan:9000", b"/b/k", True),
        ("b/k", b"minio.lan:9000", b"/b/k?x-id=GetObject", True),
        ("b/k", b"minio.lan:9000", b"/b//k", False),
        ("b//k", b"minio.lan:9000", b"/b//k", True),
        ("b/a b", b"minio.lan:9000", b"/b/a%20b", True),
        ("b/a%20b", b"minio.lan:9000", b"/b/a%20b", False),
        ("b/x/../k", b"minio.lan:9000", b"/b/x/../k", True),
        ("b/é", b"minio.lan:9000", b"/b/%C3%A9", True),
        ("b/?", b"minio.lan:9000", b"/b/%C3%A9", True),
        ("b/??", b"minio.lan:9000", b"/b/%C3%A9", False),
        ("b/?", b"minio.lan:9000", b"/b/%FF", True),
        ("name-1234-s3alias/**", b"name-1234.s3-accesspoint.us-east-1.amazonaws.com", b"/k", True),
        ("alias.mrap/**", b"alias.accesspoint.s3-global.amazonaws.com", b"/k", True),
        ("b/**", b"minio.lan:9000", b"/b/", True),
        ("b/**", b"minio.lan:9000", b"/b", True),
        ("b/**", b"minio.lan:9000", b"/", False),
    ),
    NamesTests.source,
)


class CostTests(SynchronousTestCase):
    """Time and memory."""

    def test_memory_is_bounded(self) -> None:
        """However many buckets and objects clients name, and however long these names are."""
        subject = rules(
            *({"pattern": f"**/{letter}*{letter}", "get_ttl": "1s"} for letter in "abcdefghijk"),
            {"pattern": "**/z", "get_ttl": "2s"},
        )
        letters = "abcdefghijk"
        for n in range(6000):
            key = "/".join(f"{letters[bit]}{letters[bit]}" for bit in range(11) if n >> bit & 1)
            subject.resolve(address(f"bucket-{n}/{key}/{n}"))
            subject.resolve(address(f"bucket/{key}"))
        memories = subject._buckets, subject._objects, subject._combined
        limits = module.MOST_BUCKETS, module.MOST_OBJECTS, module.MOST_COMBINATIONS
        for memory, limit in zip(memories, limits, strict=True):
            self.assertTrue(0 < len(memory) <= limit)
        before = [len(memory) for memory in memories[:2]]
        long = address(f"{'b' * 2000}/{'k' * 60_000}/z")
        self.assertEqual(subject.resolve(long).get_ttl, 2.0)
        self.assertEqual([len(memory) for memory in memories[:2]], before)

    def test_a_bucket_that_is_treated_alike_needs_no_look_at_the_key(self) -> None:
        """Rules for whole buckets cost one look into a dictionary."""
        subject = rules({"pattern": "b-*/**", "get_ttl": "1s"}, {"pattern": "c/x/**", "get_ttl": "2s"})
        for n in range(10):
            self.assertEqual(subject.resolve(address(f"b-1/{n}")).get_ttl, 1.0)
            self.assertEqual(subject.resolve(address(f"d/{n}")).get_ttl, 60.0)
        self.assertEqual(len(subject._objects), 0)
        self.assertEqual(subject.resolve(address("c/x/1")).get_ttl, 2.0)
        self.assertEqual(subject.resolve(address("c/y/1")).get_ttl, 60.0)

    def test_many_rules_of_other_buckets_cost_nothing(self) -> None:
        """The price of a name is that of the rules that may fit in its bucket."""
        subject = rules(*({"pattern": f"bucket-{n}/**/*.gz", "get_ttl": f"{n}s"} for n in range(1000)))
        subject.resolve(address("bucket-7/warm"))
        began = time.perf_counter()
        for n in range(5000):
            self.assertEqual(subject.resolve(address(f"bucket-7/a/{n}.gz")).get_ttl, 7.0)
        self.assertLess(time.perf_counter() - began, 1.0)
