"""Faults known from caches of this kind: rules for some objects that hold for all, or for none.

The ids are those of the table in doc/faults.md.
"""

from test.gateway.model_case import ModelTestCase
from test.gateway.test_read import error
from test.support.gateway import FakeResponse
from typing import Any

from s3proxy.policy.globs import Glob
from s3proxy.policy.rules import Rules
from s3proxy.policy.rules_file import Rule
from s3proxy.upstream.interfaces import UpstreamRequest

BODY = bytes(range(251)) * 2000
PAGE = 65_536


class RuleTestCase(ModelTestCase):
    """Some rules."""

    rules: tuple[tuple[str, dict[str, Any]], ...] = ()

    def setUp(self) -> None:
        super().setUp()
        rules = [Rule(glob=Glob(pattern), **fields) for pattern, fields in self.rules]
        self.harness.gateway.reconfigure(Rules(self.harness.config, rules), max_requests=100, bypass_headers=True)

    def asks_again(self, *targets: bytes) -> list[bytes]:
        """Those of these objects about which S3 is asked for every read."""
        found = []
        for target in targets:
            self.s3.put(target[1:], BODY)
            self.exactly(self.harness.get(target), BODY)
            before = len(self.upstream.asked)
            self.exactly(self.harness.get(target), BODY)
            if len(self.upstream.asked) > before:
                found.append(target)
        return found


class PrefixTests(RuleTestCase):
    """A TTL of 0 for one prefix."""

    rules = (("bucket/p/**", {"get_ttl": 0.0}), ("bucket/temp", {"get_ttl": 0.0}), ("other/**", {"get_ttl": 0.0}))

    def test_st25_prefix(self) -> None:
        """ST-25: a rule is for bucket and key together, and for those that it names only."""
        found = self.asks_again(b"/p/a", b"/p/a/b", b"/q/a", b"/pp/a", b"/x/p/a", b"/other/a")
        self.assertEqual(found, [b"/p/a", b"/p/a/b"])

    def test_st25_spellings(self) -> None:
        """ST-25: also where the bucket is in the path, and where the key is encoded."""
        self.s3.put(b"bucket/p/a", BODY)
        for target, host in ((b"/bucket/p/a", b"s3.us-east-1.amazonaws.com"), (b"/%70/b", b"bucket.s3.amazonaws.com")):
            self.s3.put(b"p/b", BODY)
            for number in (1, 2):
                self.harness.send(b"GET", target, {b"Host": host})
                self.assertEqual(self.s3.reads[-1].status, 200 if number == 1 else 304)

    def test_st26_pattern_without_stars(self) -> None:
        """ST-26: a pattern is for the whole name: without stars it is for one object, and not for what is below it."""
        self.assertEqual(self.asks_again(b"/temp", b"/temp/x", b"/temporary"), [b"/temp"])


class WideningTests(RuleTestCase):
    """Whole pages for small ranges."""

    rules = (("bucket/**", {"page_widening": True, "page_size": PAGE}),)

    def setUp(self) -> None:
        super().setUp()
        self.s3.put(b"key", BODY)

    def test_rg20_refused_page(self) -> None:
        """RG-20: when S3 does not give a whole page, the client gets its own range all the same."""

        def choosy(request: UpstreamRequest) -> FakeResponse:
            if request.headers.get(b"range") != b"bytes=1000-1099":
                return error(500, b"InternalError")
            return self.s3(request)

        self.harness.s3 = choosy
        client = self.read_range(1000, 1100)
        self.exactly(client, BODY[1000:1100], 206)

    def test_rg20_page(self) -> None:
        """RG-20: and when S3 does, the client gets its own range, too, and so does the next one."""
        for start in (1000, 1500, 3):
            client = self.read_range(start, start + 100)
            self.exactly(client, BODY[start : start + 100], 206)
            expected = b"bytes %d-%d/%d" % (start, start + 99, len(BODY))
            self.assertEqual((client.header(b"content-range"), client.length), (expected, 100))
        self.assertEqual(self.s3.asked_intervals(), [(0, PAGE)])
