"""The file of rules."""

import json
import re
from pathlib import Path
from typing import Any

import attrs
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.config.features import FEATURES
from s3proxy.config.model import Config
from s3proxy.policy.globs import Glob
from s3proxy.policy.rules import Rules
from s3proxy.policy.rules_file import (
    FIELDS,
    LARGEST_PAGE,
    LONGEST_FILE,
    MOST_RULES,
    Rule,
    RulesError,
    RulesFile,
    read_rules,
)
from s3proxy.util.quantities import LONGEST
from test.policy.test_rules import DEFAULTS, address
from test.s3.table import add_rows

ROOT = Path(__file__).parents[2]
TTL = "allowed a duration from 0s to 3650d"
SWITCH = "allowed true or false"
PATTERN = 'allowed a glob over bucket/key, such as "my-bucket/logs/**"'
TRIGGER = "allowed a duration above 0s and below 5s, which is connection_pool.upstream_first_byte_timeout"
PAGE = "allowed a whole number from 1 to 67108864"


def read(text: str | bytes) -> RulesFile:
    """What a file says."""
    return read_rules(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"), 5.0)


def rule(text: str) -> str:
    """A file with one rule, whose pattern and first brace are given."""
    return f'{{"rules": [{{"pattern": "b/**", {text}}}]}}'


class ReadTests(SynchronousTestCase):
    """Files that can be used."""

    def test_nothing(self) -> None:
        """A file without rules is good."""
        for text in ("{}", '{"rules": []}', '{"rules": null}', '{"$schema": 5}', "\ufeff{}"):
            self.assertEqual(read(text), RulesFile(()), text)

    def test_everything(self) -> None:
        """All fields at once, in the order of the file."""
        text = {
            "$schema": "./cache_rules.schema.json",
            "rules": [
                {"pattern": "b/k"},
                {
                    "pattern": "日本/**", "get_ttl": "1.5h", "head_ttl": 90, "put_ttl": "0s", "stale_if_error": "250 ms",
                    "read_cache_enabled": True, "write_cache_enabled": False, "compression_enabled": True,
                    "ram_cache_eligible": False, "evaluate_conditions_from_cache": True, "honor_cache_control": False,
                    "page_widening": True, "page_size": LARGEST_PAGE, "hedging_enabled": True,
                    "hedge_trigger_after": "4.999s", "hedge_max_per_request": 0,
                },
            ],
        }  # fmt: skip
        expected = Rule(
            glob=Glob("日本/**"), get_ttl=5400.0, head_ttl=90.0, put_ttl=0.0, stale_if_error=0.25,
            read_cache_enabled=True, write_cache_enabled=False, compression_enabled=True, ram_cache_eligible=False,
            evaluate_conditions_from_cache=True, honor_cache_control=False, page_widening=True, page_size=LARGEST_PAGE,
            hedging_enabled=True, hedge_trigger_after=4.999, hedge_max_per_request=0,
        )  # fmt: skip
        for ascii in (True, False):
            self.assertEqual(read(json.dumps(text, ensure_ascii=ascii)), RulesFile((Rule(glob=Glob("b/k")), expected)))
        self.assertEqual(expected.given(), tuple(FIELDS))
        self.assertEqual(Rule(glob=Glob("b/k"), page_size=1).given(), ("page_size",))

    def test_null_is_nothing(self) -> None:
        """Every field but the pattern may be null."""
        text = ", ".join(f'"{name}": null' for name in FIELDS)
        self.assertEqual(read(rule(text)), RulesFile((Rule(glob=Glob("b/**")),)))

    def test_many(self) -> None:
        """As many rules as are allowed."""
        self.assertEqual(len(read(json.dumps({"rules": [{"pattern": "b/k"}] * MOST_RULES})).rules), MOST_RULES)

    def test_bounds_count_where_the_value_is_used(self) -> None:
        """A value out of bounds in a rule that switches on something else is left out, and another rule's holds."""
        found = read(
            '{"rules": [{"pattern": "**", "page_size": 0, "hedge_trigger_after": "9s"},'
            ' {"pattern": "**", "page_widening": true, "page_size": 7, "hedging_enabled": true}]}'
        )
        settings = Rules(Config(), found.rules).resolve(address("b/k"))
        self.assertEqual((settings.page_size, settings.hedge_trigger_after), (7, 0.25))
        self.assertEqual(
            found.remarks,
            (
                f"rules[0].page_size: value 0 is too small; {PAGE}; ignored, because the rule does not set "
                "page_widening",
                f'rules[0].hedge_trigger_after: value "9s" is too large; {TRIGGER}; ignored, because the rule does '
                "not set hedging_enabled",
            ),
        )

    def remark(self, text: str, expected: str) -> None:
        """One row: what is worth a word."""
        self.assertEqual(read(text).remarks, (expected,))

    def test_many_remarks(self) -> None:
        """Not thousands of lines."""
        remarks = read(json.dumps({f"field-{n}": 0 for n in range(1000)})).remarks
        self.assertEqual((len(remarks), remarks[-1]), (51, "and 950 more of this kind"))


add_rows(
    ReadTests,
    "remark",
    (
        (rule('"get_tll": "1s"'), "rules[0].get_tll: unknown field, ignored; did you mean get_ttl?"),
        (rule('"Page_Size": 1'), "rules[0].Page_Size: unknown field, ignored; did you mean page_size?"),
        (rule('"colour": 1'), "rules[0].colour: unknown field, ignored"),
        (rule('"a\\nb": 1'), 'rules[0]."a\\nb": unknown field, ignored'),
        ('{"rule": []}', "rule: unknown field, ignored; did you mean rules?"),
        (
            '{"rules": [{"pattern": "/b/**"}]}',
            'rules[0].pattern: value "/b/**" fits no object, because names begin with the bucket; remove the slash',
        ),
        (
            '{"rules": [{"pattern": "b/**"}, {"pattern": "my-bucket"}]}',
            'rules[1].pattern: value "my-bucket" fits no object, because names are bucket/key; for all of the bucket '
            'write "my-bucket/**"',
        ),
    ),
    ReadTests.remark,
)


class WrongTests(SynchronousTestCase):
    """Files that can't be used."""

    def wrong(self, text: str | bytes, *expected: str) -> None:
        """One row: everything that is said."""
        error = self.assertRaises(RulesError, read, text)
        self.assertEqual(error.problems, expected)

    def test_all_at_once(self) -> None:
        """Every problem is told, and good rules beside bad ones don't count."""
        self.wrong(
            '{"rules": [{"pattern": "b/**", "get_ttl": "5x", "page_size": "1"}, {"pattern": "b/k"}, {}]}',
            f'rules[0].get_ttl: value "5x" has the unknown unit "x"; {TTL}',
            f'rules[0].page_size: value "1" is text; {PAGE}, written in plain digits without quotes',
            f"rules[2].pattern: the value is missing; {PATTERN}",
        )

    def test_many_problems(self) -> None:
        """Not thousands of lines."""
        error = self.assertRaises(RulesError, read, json.dumps({"rules": [{}] * 1000}))
        self.assertEqual((len(error.problems), error.problems[-1]), (51, "and 950 more of this kind"))

    def test_too_long(self) -> None:
        """A file that is no file of rules is not read."""
        self.wrong(b" " * (LONGEST_FILE + 1), f"the file is larger than {LONGEST_FILE} bytes and so no file of rules")

    def test_nested_too_deeply(self) -> None:
        """However deep it goes, the answer is a problem."""
        self.assertRaises(RulesError, read, "[" * 100_000)
        self.assertRaises(RulesError, read, '{"rules": ' * 100_000)

    json_values = st.recursive(
        st.one_of(
            st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
            st.sampled_from(["1s", "9h", "-1s", 0, -1, 2**63, 1e308]),
        ),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.dictionaries(st.one_of(st.sampled_from(["rules", "pattern", *FIELDS]), st.text(max_size=6)), inner),
        ),
        max_leaves=12,
    )  # fmt: skip

    @given(st.one_of(st.binary(max_size=60), json_values.map(lambda value: json.dumps(value).encode())))
    @example(b'{"rules": [{"pattern": "\\udc80/**", "\\ud800": 1}]}')
    def test_any_input(self, data: bytes) -> None:
        """Whatever the file holds: rules come out, or problems of one printable line each."""
        try:
            lines = read(data).remarks
        except RulesError as error:
            lines = error.problems
            self.assertTrue(lines)
        for line in lines:
            self.assertTrue(line.isprintable(), line)

    @given(st.lists(st.tuples(st.sampled_from([*FIELDS, "pattern"]), json_values), max_size=4))
    def test_any_rule(self, fields: list[tuple[str, Any]]) -> None:
        """Whatever a rule holds: what comes out is within its bounds."""
        try:
            found = read(json.dumps({"rules": [{"pattern": "b/**", **dict(fields)}]}))
        except RulesError:
            return
        (only,) = found.rules
        for name in ("get_ttl", "head_ttl", "put_ttl", "stale_if_error"):
            value = getattr(only, name)
            self.assertTrue(value is None or 0 <= value <= LONGEST)
        settings = Rules(Config(), found.rules).resolve(address("b/k"))
        self.assertTrue(1 <= settings.page_size <= LARGEST_PAGE)
        self.assertTrue(0 < settings.hedge_trigger_after < 5.0)
        self.assertGreaterEqual(settings.hedge_max_per_request, 0)


add_rows(
    WrongTests,
    "wrong",
    (
        ("", "line 1, column 1: this is not JSON: Expecting value"),
        ('{"rules": [\n{"pattern" "b/**"}]}', "line 2, column 12: this is not JSON: Expecting ':' delimiter"),
        (b'{"rules":\n "\xff"}', "line 2: the byte 0xFF is not UTF-8; save it as UTF-8"),
        ("[]", 'value is a list; allowed an object with a list "rules"'),
        ("null", 'the value is missing; allowed an object with a list "rules"'),
        ('"x"', 'value "x" is text; allowed an object with a list "rules"'),
        ('{"rules": NaN}', "NaN is not JSON; allowed numbers in plain digits"),
        ('{"rules": {}}', "rules: value is an object; allowed a list of rules"),
        ('{"rules": "x"}', 'rules: value "x" is text; allowed a list of rules'),
        ('{"rules": [], "rules": []}', "rules: given more than once; leave one"),
        ('{"rules": [1]}', "rules[0]: value 1 is a number; allowed an object with a pattern and settings"),
        ('{"rules": [null]}', "rules[0]: the value is missing; allowed an object with a pattern and settings"),
        ('{"rules": [{"pattern": 1}]}', f"rules[0].pattern: value 1 is a number; {PATTERN}"),
        ('{"rules": [{"pattern": null}]}', f"rules[0].pattern: the value is missing; {PATTERN}"),
        ('{"rules": [{"pattern": " \\t"}]}', f'rules[0].pattern: value " \\t" is blank; {PATTERN}'),
        ('{"rules": [{"pattern": ""}]}', f'rules[0].pattern: value "" is blank; {PATTERN}'),
        (json.dumps({"rules": [{"pattern": "b"}] * (MOST_RULES + 1)}), "rules: 1025 rules are too many; allowed at "
         "most 1024"),
        (rule('"get_ttl": "1s", "get_ttl": "1s"'), "rules[0].get_ttl: given more than once; leave one"),
        (rule('"get_ttl": "1h30m"'), f'rules[0].get_ttl: value "1h30m" is not a duration; {TTL}'),
        (rule('"get_ttl": ""'), f'rules[0].get_ttl: value "" is not a duration; {TTL}'),
        (rule('"get_ttl": "3651d"'), f'rules[0].get_ttl: value "3651d" is too large; {TTL}'),
        (rule('"get_ttl": 1e999'), f"rules[0].get_ttl: value Infinity is too large; {TTL}"),
        (rule(f'"get_ttl": {"9" * 5000}'), f"rules[0].get_ttl: value 1{'0' * 30} is too large; {TTL}"),
        (rule('"head_ttl": -1'), f"rules[0].head_ttl: value -1 is negative; {TTL}"),
        (rule('"put_ttl": true'), f"rules[0].put_ttl: value true is a boolean; {TTL}"),
        (rule('"stale_if_error": []'), f"rules[0].stale_if_error: value is a list; {TTL}"),
        (rule('"read_cache_enabled": "false"'), 'rules[0].read_cache_enabled: value "false" is text; '
         f"{SWITCH}, written without quotes"),
        (rule('"write_cache_enabled": 0'), f"rules[0].write_cache_enabled: value 0 is a number; {SWITCH}"),
        (rule('"page_size": 1.0'), f"rules[0].page_size: value 1.0 is not a whole number; {PAGE}"),
        (rule('"page_size": -1'), f"rules[0].page_size: value -1 is negative; {PAGE}"),
        (rule('"page_size": 9223372036854775808'), "rules[0].page_size: value 9223372036854775808 needs more than 63 "
         f"bits; {PAGE}"),
        (rule('"page_widening": true, "page_size": 0'), f"rules[0].page_size: value 0 is too small; {PAGE}"),
        (rule('"page_widening": true, "page_size": 67108865'), "rules[0].page_size: value 67108865 is too large; "
         f"{PAGE}"),
        (rule('"hedging_enabled": true, "hedge_trigger_after": "0s"'), 'rules[0].hedge_trigger_after: value "0s" is '
         f"too small; {TRIGGER}"),
        (rule('"hedging_enabled": true, "hedge_trigger_after": 5'), "rules[0].hedge_trigger_after: value 5 is too "
         f"large; {TRIGGER}"),
        (rule('"hedge_max_per_request": false'), "rules[0].hedge_max_per_request: value false is a boolean; allowed a "
         "whole number, 0 or more"),
        (rule(f'"get_ttl": "{"x" * 100}"'), f'rules[0].get_ttl: value "{"x" * 57}…" is not a duration; {TTL}'),
    ),
    WrongTests.wrong,
)  # fmt: skip


class DocumentsTests(SynchronousTestCase):
    """Example, schema and documentation say what the program does."""

    def test_example(self) -> None:
        """It loads without a word, and shows what it is meant to show."""
        found = read((ROOT / "etc" / "cache_rules.example.json").read_bytes())
        self.assertEqual(found.remarks, ())
        example = Rules(Config(), found.rules)

        def changed(name: str) -> dict[str, object]:
            settings = attrs.asdict(example.resolve(address(name)))
            before = attrs.asdict(DEFAULTS)
            del settings["source"]
            defaults = {"put_ttl": 3600.0, "head_ttl": 60.0}
            return {key: value for key, value in settings.items() if value != defaults.get(key, before[key])}

        day = 86400.0
        self.assertEqual(
            {name: changed(name) for name in (
                "static-assets/a.js", "static-assets/builds/latest/a.js", "live-feed/now", "confidential/a",
                "shared-data/scratch/a", "shared-data/reports/202401/a.csv", "shared-data/a", "warehouse/a/b.parquet",
                "elsewhere/a/b.zip", "elsewhere/a",
            )},
            {
                "static-assets/a.js": {"get_ttl": 7 * day, "head_ttl": 3600.0, "put_ttl": 7 * day, "compression": True},
                "static-assets/builds/latest/a.js":
                    {"get_ttl": 30.0, "head_ttl": 15.0, "put_ttl": 7 * day, "compression": True},
                "live-feed/now": {"get_ttl": 30.0, "head_ttl": 15.0, "put_ttl": 300.0, "ram_cache_eligible": False},
                "confidential/a": {"get_ttl": 0.0, "head_ttl": 0.0, "ram_cache_eligible": False},
                "shared-data/scratch/a": {
                    "read_cache_enabled": False, "write_cache_enabled": False, "ram_cache_eligible": False,
                    "get_ttl": 600.0, "honor_cache_control": True,
                },
                "shared-data/reports/202401/a.csv":
                    {"get_ttl": day, "stale_if_error": 3600.0, "honor_cache_control": True},
                "shared-data/a": {"get_ttl": 600.0, "honor_cache_control": True},
                "warehouse/a/b.parquet": {
                    "get_ttl": 3600.0, "page_widening": True, "page_size": 1 << 20, "hedging_enabled": True,
                    "hedge_trigger_after": 0.2,
                },
                "elsewhere/a/b.zip": {"compression": False},
                "elsewhere/a": {},
            },
        )  # fmt: skip

    def test_schema(self) -> None:
        """It knows the same fields, and their bounds."""
        schema = json.loads((ROOT / "etc" / "cache_rules.schema.json").read_text("utf-8"))
        rules = schema["properties"]["rules"]
        self.assertEqual(rules["maxItems"], MOST_RULES)
        fields = rules["items"]["properties"]
        self.assertEqual(list(fields), ["pattern", *FIELDS])
        self.assertEqual((fields["page_size"]["minimum"], fields["page_size"]["maximum"]), (1, LARGEST_PAGE))
        number, text = schema["$defs"]["duration"]["anyOf"][1:]
        self.assertEqual((number["minimum"], number["maximum"]), (0, LONGEST))
        for good in ("1s", "1.5h", ".5s", "250 ms", "90", "7d", "1 millisecond", "2hrs"):
            self.assertTrue(re.search(text["pattern"], good), good)
            self.assertEqual(len(read(rule(f'"get_ttl": "{good}"')).rules), 1)
        for bad in ("", "1h30m", "-1s", "1w", "1S", "1.2.3s"):
            self.assertFalse(re.search(text["pattern"], bad), bad)
            self.assertRaises(RulesError, read, rule(f'"get_ttl": "{bad}"'))

    def test_reference(self) -> None:
        """It has a row for every field, in the same order, with its bounds, and marks those without effect."""
        text = (ROOT / "doc" / "cache-rules.md").read_text("utf-8")
        rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (\*\*No effect yet\.\*\* )?\w.*\|$", text, re.MULTILINE)
        self.assertEqual([name for name, *_ in rows], list(FIELDS))
        self.assertEqual([allowed for _, allowed, *_ in rows], [kind.allowed for kind in FIELDS.values()])
        idle = {field for feature in FEATURES for field in feature.rule_fields}
        self.assertEqual({name for name, _, _, mark in rows if mark}, idle)
        self.assertLessEqual(idle, FIELDS.keys())

    def test_messages(self) -> None:
        """The messages that it shows are real."""
        text = (ROOT / "doc" / "cache-rules.md").read_text("utf-8")
        shown = re.findall(r"^rules\[.*$", text, re.MULTILINE)
        rules = [{"pattern": "b/**", "get_ttl": "5x"}, {"pattern": "b/**"}, {"pattern": "b/**"}, {}]
        error = self.assertRaises(RulesError, read, json.dumps({"rules": rules}))
        self.assertEqual(list(error.problems), shown)
