"""Which requests may be sent to S3 a second time while the first is late, and how many of them for one client."""

from test.gateway.test_gaps import GapTestCase
from test.gateway.test_read import BODY, ok, part
from typing import Any

from twisted.python.failure import Failure

from s3proxy.policy.globs import Glob
from s3proxy.policy.rules import Rules
from s3proxy.policy.rules_file import Rule
from s3proxy.upstream.interfaces import Hedging, UpstreamBusy, UpstreamTimeout


class HedgedTestCase(GapTestCase):
    """A rule for one bucket."""

    fields: dict[str, Any] = {"hedging_enabled": True, "hedge_trigger_after": 0.125, "hedge_max_per_request": 2}

    def setUp(self) -> None:
        super().setUp()
        rules = [Rule(glob=Glob("bucket/**"), **self.fields)]
        self.harness.gateway.reconfigure(Rules(self.harness.config, rules), max_requests=100, bypass_headers=True)

    def hedging(self) -> Hedging | None:
        """That of the latest request to S3."""
        found: Hedging | None = self.upstream.last.request.hedging
        return found


class BudgetTests(HedgedTestCase):
    """Requests that may be sent a second time."""

    def test_reads(self) -> None:
        """GET and HEAD have what the rule says, each request of a client a budget of its own."""
        self.harness.get(b"/a")
        first = self.hedging()
        assert first is not None
        self.assertEqual((first.after, first.left), (0.125, 2))
        self.harness.head(b"/b")
        self.assertIsNotNone(self.hedging())
        self.assertIsNot(self.hedging(), first)

    def test_spans_share_it(self) -> None:
        """All spans that one answer lacks share one budget; those of another client have another."""
        self.has((100, 200), (300, 400))
        self.harness.get()
        self.assertEqual(len(self.upstream.asked), 3)
        budgets = {id(asked.request.hedging) for asked in self.upstream.asked}
        self.assertEqual(len(budgets), 1)
        self.harness.get(b"/other")
        self.assertNotIn(id(self.hedging()), budgets)

    def test_repetition_shares_it(self) -> None:
        """What is asked for again because a body broke off draws on the same budget."""
        self.harness.get()
        budget = self.hedging()
        broken = self.upstream.last.respond(ok(None, length=len(BODY)))
        assert broken.sink is not None
        broken.sink.data_received(BODY[:500])
        broken.sink.stream_failed(Failure(UpstreamTimeout("silent", sent=True)))
        self.assertEqual(len(self.upstream.asked), 2)
        self.assertIs(self.hedging(), budget)

    def test_pages(self) -> None:
        """A range that is widened to whole pages is hedged as it is asked for."""
        fields = {**self.fields, "page_widening": True, "page_size": 512}
        rules = [Rule(glob=Glob("bucket/**"), **fields)]
        self.harness.gateway.reconfigure(Rules(self.harness.config, rules), max_requests=100, bypass_headers=True)
        self.harness.get(range=b"bytes=0-9")
        self.assertEqual(self.upstream.last.header(b"range"), b"bytes=0-511")
        self.assertIsNotNone(self.hedging())

    def test_those_who_wait(self) -> None:
        """Whoever waits for another client's request sends none, late or not."""
        self.harness.get()
        self.harness.get()
        self.assertEqual(len(self.upstream.asked), 1)

    def test_writes(self) -> None:
        """Nothing that changes anything is ever sent twice."""
        for method in (b"PUT", b"DELETE", b"POST"):
            self.harness.send(method, b"/key", body=b"text" if method != b"DELETE" else None)
            self.assertEqual(self.upstream.last.request.method, method)
            self.assertIsNone(self.hedging())

    def test_get_with_a_body(self) -> None:
        """Nor is a GET that has a body."""
        self.harness.send(b"GET", b"/key", body=b"text")
        self.assertIsNone(self.hedging())

    def test_other_buckets(self) -> None:
        """Without a rule there are no second requests."""
        self.harness.send(b"GET", b"/key", {b"Host": b"other.s3.us-east-1.amazonaws.com"})
        self.assertIsNone(self.hedging())

    def test_overload(self) -> None:
        """When all connections to S3 are in use, the client is told to come back later."""
        client = self.harness.get()
        self.upstream.last.fail(UpstreamBusy("all in use"))
        self.assertEqual((client.status, client.header(b"retry-after")), (503, b"5"))
        self.assertIn(b"<Code>SlowDown</Code>", client.answer)
        record = self.harness.records[-1]
        self.assertEqual((record.reason, record.ending), ("overload", "shed"))


class NoBudgetTests(HedgedTestCase):
    """A rule that allows none."""

    fields = {"hedging_enabled": True, "hedge_max_per_request": 0}

    def test_none(self) -> None:
        """0 is off."""
        self.harness.get()
        self.assertIsNone(self.hedging())
        self.upstream.last.respond(part(0, len(BODY)))
