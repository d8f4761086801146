"""The gate in front of everything that is served from the cache."""

import attrs
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.config.model import Config
from s3proxy.policy.freshness import Gate, freshness_lifetime, may_serve, may_serve_stale
from s3proxy.policy.rules import Rules, Settings
from s3proxy.policy.verdicts import Reason
from s3proxy.s3.address import locate
from s3proxy.s3.headers import Headers
from s3proxy.s3.target import parse_target

AT = 1_000_000.0
DEFAULTS = Settings(
    get_ttl=60.0,
    head_ttl=30.0,
    put_ttl=10.0,
    read_cache_enabled=True,
    write_cache_enabled=True,
    evaluate_conditions=True,
    honor_cache_control=False,
    stale_if_error=0.0,
)
HONORING = attrs.evolve(DEFAULTS, honor_cache_control=True)
BARE = Headers()


def cache_control(*values: bytes, **others: bytes) -> Headers:
    """An object's own directives."""
    pairs = [(b"Cache-Control", value) for value in values]
    return Headers(pairs + [(name.encode(), value) for name, value in others.items()])


class GateTests(SynchronousTestCase):
    """May this entry be used now?"""

    def gate(self, settings: Settings = DEFAULTS, age: float = 0.0, **how: bool) -> Gate:
        return may_serve(settings, BARE, AT, AT + age, **how)

    def test_fresh_until_the_ttl_is_over(self) -> None:
        """An entry is fresh up to its TTL, that instant included, and expired afterwards."""
        for age, fresh in ((0.0, True), (60.0, True), (60.001, False)):
            gate = self.gate(age=age)
            self.assertEqual((gate.fresh, gate.reason), (fresh, Reason.NONE if fresh else Reason.EXPIRED), age)

    def test_tells_how_long_the_answer_stays(self) -> None:
        """FRESH stays the answer up to the moment it names, that one included; other answers name none."""
        for headers, settings in ((BARE, DEFAULTS), (cache_control(b"max-age=7"), HONORING)):
            for head in (False, True):
                for age in (-100.0, 0.0, 6.9):
                    gate = may_serve(settings, headers, AT, AT + age, head=head)
                    self.assertTrue(gate.fresh)
                    self.assertTrue(may_serve(settings, headers, AT, gate.until, head=head).fresh)
                    self.assertFalse(may_serve(settings, headers, AT, gate.until + 0.001, head=head).fresh)
        self.assertEqual(self.gate(age=61.0).until, 0.0)

    def test_head_has_a_ttl_of_its_own(self) -> None:
        """HEAD looks at head_ttl, GET does not."""
        self.assertTrue(self.gate(age=30.0, head=True).fresh)
        self.assertEqual(self.gate(age=31.0, head=True).reason, Reason.EXPIRED)
        self.assertTrue(self.gate(age=31.0).fresh)

    def test_ttl_zero_always_asks(self) -> None:
        """TTL 0 asks for every request, also in the instant of confirmation."""
        for ttl in (0.0, -1.0):
            gate = self.gate(attrs.evolve(DEFAULTS, get_ttl=ttl))
            self.assertEqual((gate.fresh, gate.reason), (False, Reason.ALWAYS_ASK))

    def test_must_ask(self) -> None:
        """What only S3 can answer is asked, however fresh the entry is."""
        gate = self.gate(must_ask=True)
        self.assertEqual((gate.fresh, gate.reason), (False, Reason.ALWAYS_ASK))

    def test_unconfirmed(self) -> None:
        """An entry that was only written is confirmed first; with a put_ttl of 0 that is because of the TTL."""
        self.assertEqual(self.gate(unconfirmed=True).reason, Reason.UNCONFIRMED)
        never = attrs.evolve(DEFAULTS, put_ttl=0.0)
        self.assertEqual(self.gate(never, unconfirmed=True).reason, Reason.ALWAYS_ASK)

    def test_never_validated(self) -> None:
        """Time 0 means: to be asked again, even if clocks say otherwise."""
        forever = attrs.evolve(DEFAULTS, get_ttl=1e12)
        for then in (0.0, -5.0):
            self.assertEqual(may_serve(forever, BARE, then, 10.0).reason, Reason.EXPIRED)

    def test_clock_that_was_set_back(self) -> None:
        """A confirmation in the future counts as one of now."""
        self.assertTrue(self.gate(age=-1000.0).fresh)
        self.assertFalse(may_serve(attrs.evolve(HONORING, get_ttl=60), cache_control(b"no-cache"), AT, AT - 5).fresh)


class LifetimeTests(SynchronousTestCase):
    """How long an answer is trusted."""

    def lifetime(self, headers: Headers, settings: Settings = HONORING) -> float:
        return freshness_lifetime(settings, headers, AT, head=False, unconfirmed=False)

    def test_ttl_by_origin(self) -> None:
        """get_ttl, head_ttl and put_ttl; HEAD comes first."""
        for head, unconfirmed, seconds in ((False, False, 60), (True, False, 30), (False, True, 10), (True, True, 30)):
            found = freshness_lifetime(DEFAULTS, BARE, AT, head=head, unconfirmed=unconfirmed)
            self.assertEqual(found, seconds, (head, unconfirmed))

    def test_own_directives_count_only_where_they_are_honoured(self) -> None:
        """By default the object's directives change nothing."""
        headers = cache_control(b"max-age=5", expires=b"0")
        self.assertEqual(self.lifetime(headers, DEFAULTS), 60)
        self.assertEqual(self.lifetime(headers), 5)

    def test_directives(self) -> None:
        """Directives shorten the lifetime and never extend it; what makes no sense is ignored."""
        for headers, seconds in (
            (BARE, 60),
            (cache_control(b"max-age=5"), 5),
            (cache_control(b"Max-Age = 5"), 5),
            (cache_control(b'max-age="5"'), 5),
            (cache_control(b"max-age=3600"), 60),
            (cache_control(b"max-age=9, s-maxage=4"), 4),
            (cache_control(b"s-maxage=20, max-age=4"), 20),
            (cache_control(b"max-age=9", b"max-age=1"), 9),
            (cache_control(b"public", b"max-age=7"), 7),
            (cache_control(b"max-age=x"), 60),
            (cache_control(b"max-age="), 60),
            (cache_control(b"max-age=99999999999999999999"), 60),
            (cache_control(b"no-store"), 0),
            (cache_control(b"No-Cache"), 0),
            (cache_control(b"private, max-age=50"), 0),
            (cache_control(b"immutable"), 60),
        ):
            self.assertEqual(self.lifetime(headers), seconds, headers)

    def test_expires(self) -> None:
        """Expires counts from the confirmation, behind max-age; an invalid one means expired."""
        for headers, seconds in (
            (cache_control(expires=b"Mon, 12 Jan 1970 13:46:45 GMT"), 5),
            (cache_control(expires=b"Mon, 12 Jan 1970 13:46:35 GMT"), 0),
            (cache_control(expires=b"0"), 0),
            (cache_control(b"max-age=7", expires=b"0"), 7),
        ):
            self.assertEqual(self.lifetime(headers), seconds, headers)


class StaleTests(SynchronousTestCase):
    """stale_if_error."""

    def stale(self, age: float, headers: Headers = BARE, then: float = AT, **changes: float) -> bool:
        settings = attrs.evolve(HONORING, **{"stale_if_error": 100.0, **changes})  # type: ignore[arg-type]
        return may_serve_stale(settings, headers, then, then + age)

    def test_up_to_the_end(self) -> None:
        """Allowed for the time given, counted from the end of freshness."""
        self.assertTrue(self.stale(61.0))
        self.assertTrue(self.stale(160.0))
        self.assertFalse(self.stale(160.5))

    def test_off(self) -> None:
        """Never by default, never where S3 is always asked, never what was invalidated."""
        self.assertFalse(self.stale(61.0, stale_if_error=0.0))
        self.assertFalse(self.stale(0.0, get_ttl=0.0))
        self.assertFalse(self.stale(0.0, cache_control(b"no-cache")))
        self.assertFalse(self.stale(10.0, then=0.0))

    def test_head(self) -> None:
        """HEAD has a freshness of its own."""
        settings = attrs.evolve(DEFAULTS, stale_if_error=100.0)
        self.assertTrue(may_serve_stale(settings, BARE, AT, AT + 130, head=True))
        self.assertFalse(may_serve_stale(settings, BARE, AT, AT + 131, head=True))
        self.assertTrue(may_serve_stale(settings, BARE, AT, AT + 131))


class RulesTests(SynchronousTestCase):
    """From the configuration to what holds for an object."""

    def test_defaults(self) -> None:
        """Every setting is that of the same name."""
        config = Config()
        address = locate(parse_target(b"/k", Headers([(b"Host", b"b.s3.amazonaws.com")])), ())
        assert address is not None
        settings = Rules(config).resolve(address)
        for name in ("get_ttl", "head_ttl", "put_ttl", "read_cache_enabled", "write_cache_enabled", "stale_if_error"):
            self.assertEqual(getattr(settings, name), getattr(config.cache, name), name)
        self.assertEqual(settings.honor_cache_control, config.cache.honor_cache_control)
        self.assertEqual(settings.evaluate_conditions, config.cache.evaluate_conditions_from_cache)
