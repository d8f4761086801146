"""Faults known from caches of this kind: conditions that are not judged, or judged too early or for somebody else.

The ids are those of the table in doc/faults.md.
"""

from test.gateway.model_case import ModelTestCase, signed
from test.gateway.test_read import BODY, ReadTestCase, error, not_modified, ok, part

from s3proxy.config.model import Config

OLD = bytes(range(249)) * 1000
NEW = OLD[::-1]
DATE = b"Wed, 21 Oct 2015 07:28:00 GMT"
BEFORE = b"Tue, 20 Oct 2015 07:28:00 GMT"
AFTER = b"Thu, 22 Oct 2015 07:28:00 GMT"


class FreshTests(ModelTestCase):
    """Conditions about an entry that is fresh."""

    def setUp(self) -> None:
        super().setUp()
        self.s3.put(b"key", OLD)
        self.exactly(self.harness.get(), OLD)
        self.upstream.asked.clear()

    def test_cn01_range_with_a_wrong_tag(self) -> None:
        """CN-01: a condition is judged before a range is served; a version that S3 does not have is refused by S3."""
        client = self.harness.get(range=b"bytes=0-99", if_match=b'"v0"')
        self.assertEqual((client.status, client.ended), (412, "finished"))
        self.assertIn(b"PreconditionFailed", client.answer)
        self.assertNotIn(OLD[:50], client.answer)
        self.is_hit(self.read_range(0, 100, if_match=b'"v1"'))
        self.asks(1)

    def test_cn04_cn05_lists_and_quotes(self) -> None:
        """CN-04, CN-05: lists, commas inside of quotes and tags without quotes are understood."""
        for value in (b'"x", "v1"', b'"a,b", "v1"', b"v1", b"x, v1", b"*", b' "v1" '):
            client = self.read_range(5, 10, if_match=value)
            self.exactly(client, OLD[5:10], 206)
            self.is_hit(client)
            self.assertEqual(self.harness.get(if_none_match=value).status, 304)
        self.assertEqual(self.upstream.asked, [])

    def test_cn06_weak_tag(self) -> None:
        """CN-06: a weak tag never satisfies If-Match here: S3 decides."""
        self.harness.get(if_match=b'W/"v1"')
        self.assertEqual(self.asks(1).header(b"if-match"), b'W/"v1"')

    def test_cn07_dates_that_are_none(self) -> None:
        """CN-07: a date that can't be read is S3's to judge; all three forms of a proper one are read."""
        for number, name in enumerate(("if_modified_since", "if_unmodified_since"), 1):
            self.exactly(self.harness.get(**{name: b"last tuesday"}), OLD)
            self.assertEqual(self.asks(number).header(name.replace("_", "-").encode()), b"last tuesday")
        for date in (DATE, b"Wednesday, 21-Oct-15 07:28:00 GMT", b"Wed Oct 21 07:28:00 2015"):
            self.assertEqual(self.harness.get(if_modified_since=date).status, 304)
        self.asks(2)

    def test_cn08_fresh_entry_answers(self) -> None:
        """CN-08: while an entry is fresh, conditions are judged by it, although the object may have changed meanwhile:
        that is what the TTL says; with evaluate_conditions_from_cache off, or after the TTL, S3 judges.
        """
        self.s3.put(b"key", NEW, b'"v2"')
        self.assertEqual(self.harness.get(if_none_match=b'"v1"').status, 304)
        self.assertEqual(self.upstream.asked, [])
        self.restart(evaluate_conditions_from_cache=False)
        client = self.harness.get(if_none_match=b'"v1"')
        self.exactly(client, NEW, etag=b'"v2"')

    def test_cn12_several_conditions(self) -> None:
        """CN-12: several conditions are judged in the order of RFC 9110 13.2.2 while the entry is fresh, and go to S3
        untouched when it is not.
        """
        together = (
            ({"if_match": b'"v1"', "if_unmodified_since": BEFORE}, 200),
            ({"if_match": b'"v1"', "if_none_match": b'"v1"'}, 304),
            ({"if_none_match": b'"x"', "if_modified_since": AFTER}, 200),
            ({"if_match": b'"x"', "if_none_match": b'"v1"'}, 412),
            ({"if_unmodified_since": BEFORE, "if_none_match": b'"v1"'}, 412),
        )
        for headers, status in together:
            self.assertEqual(self.harness.get(**headers).status, status, headers)
        for headers, status in together:
            self.later()
            client = self.harness.get(**headers)
            sent = {name: self.upstream.last.header(name.replace("_", "-").encode()) for name in headers}
            self.assertEqual((client.status, sent), (status, headers))

    def test_cn12_range_and_conditions(self) -> None:
        """CN-12: If-Range beside If-Match: both have to hold for a range."""
        for if_match, if_range, status in ((b'"v1"', b'"v1"', 206), (b'"v1"', b'"v0"', 200), (b'"v0"', b'"v1"', 412)):
            client = self.harness.get(range=b"bytes=0-9", if_match=if_match, if_range=if_range)
            self.assertEqual(client.status, status)

    def test_cn14_conditional_writes(self) -> None:
        """CN-14: a write under a condition is S3's to judge; a refused one leaves the entry alone."""
        self.harness.s3 = None
        for headers in ({b"If-None-Match": b"*"}, {b"If-Match": b'"v0"'}):
            for status in (412, 409):
                self.harness.send(b"PUT", b"/key", headers)
                name, value = next(iter(headers.items()))
                self.assertEqual(self.upstream.last.header(name.lower()), value)
                self.upstream.last.respond(error(status, b"PreconditionFailed"))
        self.harness.s3 = self.s3
        self.s3.reads.clear()
        self.exactly(self.harness.get(), OLD)
        self.assertEqual(self.s3.bytes_sent(), 0)

    def test_cn16_if_match_again_and_again(self) -> None:
        """CN-16: an answer with the version that is held confirms it; it does not take it away."""
        for seconds in (0, 61, 0, 61, 0):
            self.later(seconds)
            self.exactly(self.harness.get(if_match=b'"v1"'), OLD)
            client = self.read_range(0, 100)
            self.exactly(client, OLD[:100], 206)
            self.is_hit(client)


class ColdTests(ModelTestCase):
    """Conditions about what is not held, or not fresh."""

    def setUp(self) -> None:
        super().setUp()
        self.s3.put(b"key", OLD)

    def test_cn02_conditional_reads_fill(self) -> None:
        """CN-02: what S3 gives to a conditional read is kept: fast clients put If-Match on every range."""
        authorization = signed(b"if-match", b"range")
        for outcome in (b"MISS", b"HIT"):
            for start in range(0, len(OLD), 83_000):
                client = self.read_range(start, start + 83_000, if_match=b'"v1"', authorization=authorization)
                self.exactly(client, OLD[start : start + 83_000], 206)
                self.assertEqual(client.header(b"x-cache"), outcome)
        self.exactly(self.harness.get(), OLD)
        self.asks(3)

    def test_cn09_own_condition(self) -> None:
        """CN-09: a 304 to the proxy's own question becomes the object, whole or a range, for who asked no condition."""
        self.exactly(self.harness.get(), OLD)
        self.later()
        self.exactly(self.harness.get(), OLD)
        self.assertEqual(self.s3.reads[-1].status, 304)
        self.later()
        self.exactly(self.read_range(5, 500), OLD[5:500], 206)
        self.assertEqual(self.s3.reads[-1].status, 304)
        self.later()
        self.assertEqual(self.harness.head().status, 200)

    def test_cn10_the_clients_own_version(self) -> None:
        """CN-10: the client's condition is judged, not one that the proxy puts in its place."""
        self.exactly(self.harness.get(), OLD)
        for seconds in (0, 61):
            self.later(seconds)
            self.exactly(self.harness.get(if_none_match=b'"zz"'), OLD)
        self.assertEqual(self.s3.reads[-1].confirming, b'"zz"')

    def test_cn11_304_without_an_entry(self) -> None:
        """CN-11: a 304 or 412 about an object that is not held makes no entry."""
        self.assertEqual(self.harness.get(if_none_match=b'"v1"').status, 304)
        self.assertEqual(self.harness.get(if_match=b'"v0"').status, 412)
        client = self.harness.get()
        self.exactly(client, OLD)
        self.assertEqual(client.header(b"x-cache"), b"MISS")

    def test_cn11_412_changes_nothing(self) -> None:
        """CN-11: a 412 about one that is held neither renews nor removes it."""
        self.exactly(self.harness.get(), OLD)
        self.later()
        self.assertEqual(self.harness.get(if_match=b'"v0"').status, 412)
        self.exactly(self.harness.get(), OLD)
        self.assertEqual([read.status for read in self.s3.reads], [200, 412, 304])

    def test_cn17_if_range_confirms_nothing(self) -> None:
        """CN-17: an If-Range that matches an expired entry says nothing about its age: S3 is asked."""
        self.exactly(self.harness.get(), OLD)
        self.later()
        for _ in range(2):
            asked = len(self.upstream.asked)
            self.exactly(self.harness.get(range=b"bytes=0-9", if_range=b'"v1"'), OLD[:10], 206)
            self.assertEqual(len(self.upstream.asked), asked + 1)
            self.later()

    def test_rg06_if_range(self) -> None:
        """RG-06: only a strong tag that is the stored one makes a range of the cache's bytes; everything else goes to
        S3, whose answer counts.
        """
        self.exactly(self.harness.get(), OLD)
        client = self.harness.get(range=b"bytes=0-9", if_range=b'"v1"')
        self.exactly(client, OLD[:10], 206)
        self.is_hit(client)
        for value in (b'"old"', b'W/"v1"', b"v1", b"*", b'"v1", "v2"', BEFORE):
            client = self.harness.get(range=b"bytes=0-9", if_range=value)
            self.exactly(client, OLD)
            self.assertEqual(self.upstream.last.header(b"if-range"), value)

    def test_rg06_cold(self) -> None:
        """RG-06: the same for an object that is not held."""
        self.exactly(self.harness.get(range=b"bytes=0-9", if_range=b'"old"'), OLD)
        self.exactly(self.harness.get(range=b"bytes=0-9", if_range=b'"v1"'), OLD[:10], 206)


class PermissionTests(ReadTestCase):
    """TTL 0: no condition leads past S3."""

    settings = {"get_ttl": 0.0, "head_ttl": 0.0}

    def test_cn03_known_tag(self) -> None:
        """CN-03: who knows or guesses the tag and is not allowed to read gets S3's refusal and no byte."""
        self.cached()
        for number, headers in enumerate(
            (
                {"if_match": b'"v1"'},
                {"if_match": b"*"},
                {"if_match": b'"v1"', "range": b"bytes=0-99"},
                {"if_range": b'"v1"', "range": b"bytes=0-99"},
                {"if_none_match": b'"x"'},
                {"if_none_match": b'"v1"'},
                {"if_unmodified_since": AFTER},
                {"if_modified_since": AFTER},
                {},
            ),
            1,
        ):
            for read in (self.harness.get, self.harness.head):
                self.upstream.asked.clear()
                client = read(authorization=signed(), **headers)
                self.assertEqual(self.asks(1).header(b"authorization"), signed())
                self.upstream.last.respond(error(403, b"AccessDenied"))
                self.assertEqual((client.status, client.ended), (403, "finished"), headers)
                self.assertNotIn(BODY[:16], client.answer)

    def test_cn03_expired(self) -> None:
        """CN-03: the same for an entry that has only expired."""
        self.harness.config = Config()
        self.harness.store.close()
        self.harness.open()
        self.cached()
        self.harness.clock.advance(61)
        client = self.harness.get(if_match=b'"v1"')
        self.asks(1).respond(error(403, b"AccessDenied"))
        self.assertEqual(client.status, 403)


class BodilessTests(ReadTestCase):
    """304."""

    def test_cn15_no_body(self) -> None:
        """CN-15: a 304, the cache's or S3's, promises no body and has none, so that the connection can go on."""
        self.cached()
        for seconds in (0, 61):
            self.harness.clock.advance(seconds)
            client = self.harness.get(if_none_match=b'"v1"')
            if seconds:
                self.asks(1).respond(not_modified())
            self.assertEqual((client.status, client.answer, client.ended), (304, b"", "finished"))

    def test_cn15_range(self) -> None:
        """CN-15: also when a range was asked for."""
        self.harness.get(range=b"bytes=0-99")
        self.asks(1).respond(part(0, 100))
        client = self.harness.get(range=b"bytes=0-99", if_none_match=b'"v1"')
        self.assertEqual((client.status, client.length, client.answer, client.ended), (304, None, b"", "finished"))
        self.asks(1)

    def test_ok_is_not_bodiless(self) -> None:
        """CN-15: the next request has its body."""
        self.cached()
        self.harness.get(if_none_match=b'"v1"')
        self.served(self.harness.get(), b"HIT")
        client = self.harness.get(cache_control=b"no-cache")
        self.asks(1).respond(ok())
        self.served(client, b"MISS")
