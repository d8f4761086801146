"""Faults known from caches of this kind: bytes or headers of a version that is not current any more.

The ids are those of the table in doc/faults.md.
"""

from collections.abc import Callable
from test.gateway.model_case import CREDENTIAL, ModelTestCase, signed
from test.gateway.test_read import BODY, ReadTestCase, error, not_modified, ok
from test.support.gateway import FakeClient, FakeResponse
from typing import Any

import attrs

from s3proxy.config.model import Cache, Config
from s3proxy.policy.rules import Rules, Settings
from s3proxy.s3.address import ObjectAddress
from s3proxy.upstream.interfaces import UpstreamUnreachable

OLD = bytes(range(253)) * 800
NEW = OLD[::-1]
PRESIGNED = (
    b"/key?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=" + CREDENTIAL.replace(b"/", b"%2F") + b"&X-Amz-Date="
    b"20231114T221000Z&X-Amz-Expires=3600&X-Amz-SignedHeaders=host&X-Amz-Signature=" + b"0" * 64
)


class WriteTests(ModelTestCase):
    """Writes through the proxy."""

    def setUp(self) -> None:
        super().setUp()
        self.s3.put(b"key", OLD)

    def overwrite(self) -> None:
        """The client's PUT, and what it does to S3."""
        self.s3.put(b"key", NEW, b'"v2"')
        self.assertEqual(self.harness.send(b"PUT", b"/key").status, 200)

    def is_new(self) -> None:
        """Everything that is read is of the new version."""
        self.exactly(self.read_range(10, 50), NEW[10:50], 206, b'"v2"')
        self.exactly(self.harness.get(), NEW, etag=b'"v2"')
        self.assertEqual(self.harness.head().header(b"etag"), b'"v2"')

    def test_st01_read_that_outlives_a_write(self) -> None:
        """ST-01: a body that was under way when its object was written does not come back after the write, neither the
        object's nor a range's.
        """
        self.s3.holding = True
        whole, part = self.harness.get(), self.read_range(100_000, 150_000, cache_control=b"no-cache")
        self.s3.holding = False
        self.overwrite()
        self.s3.let_go(3)
        self.exactly(whole, OLD)
        self.exactly(part, OLD[100_000:150_000], 206)
        self.is_new()
        self.later()
        self.is_new()

    def test_st01_read_that_begins_before_the_answer(self) -> None:
        """ST-01: nor does one that S3 answered after the write had been sent and before it was acknowledged."""
        write = self.harness.s3, FakeClient(b"PUT", b"/key")
        self.harness.s3 = None
        self.harness.gateway.handle(write[1])
        asked = self.upstream.last
        client = self.harness.get(cache_control=b"no-cache")
        self.upstream.last.respond(self.s3(self.upstream.last.request))
        self.s3.put(b"key", NEW, b'"v2"')
        asked.respond(self.s3(asked.request))
        self.harness.s3 = self.s3
        self.exactly(client, OLD)
        self.is_new()

    def test_st04_every_kind_of_credentials(self) -> None:
        """ST-04: a DELETE makes the entry untrue, however it is signed."""
        ways: tuple[tuple[bytes, dict[bytes, bytes]], ...] = (
            (b"/key", {b"Authorization": signed()}),
            (b"/key", {b"Authorization": b"AWS AKIAEXAMPLE:c2ln"}),
            (PRESIGNED, {}),
            (b"/key", {}),
        )
        for target, headers in ways:
            self.s3.put(b"key", OLD)
            self.exactly(self.harness.get(), OLD)
            self.assertEqual(self.harness.send(b"DELETE", target, headers).status, 204)
            self.assertEqual(self.harness.get().status, 404)
            self.assertEqual(self.harness.head().status, 404)

    def test_st12_first_read_after_a_write(self) -> None:
        """ST-12: what was written is confirmed by S3 for who reads it first, with that caller's own credentials."""
        self.restart(get_ttl=0.0, head_ttl=0.0)
        self.overwrite()
        before = len(self.upstream.asked)
        client = self.harness.get(authorization=signed())
        self.exactly(client, NEW)
        self.assertEqual(self.upstream.asked[before].header(b"authorization"), signed())

    def test_st22_changed_description(self) -> None:
        """ST-22: what changes the description of an object is seen by the next HEAD, and by the next GET."""
        for number, target in enumerate((b"/key?tagging", b"/key?acl", b"/key?retention", b"/key?legal-hold"), 1):
            self.harness.get(), self.harness.head()
            count = b"%d" % number
            self.s3.put(b"key", OLD, headers=((b"x-amz-tagging-count", count),))
            self.harness.send(b"PUT", target)
            self.assertEqual(self.harness.head().header(b"x-amz-tagging-count"), count)
            client = self.harness.get()
            self.exactly(client, OLD)
            self.assertEqual(client.header(b"x-amz-tagging-count"), count)


class BehindTests(ModelTestCase):
    """Writes that go past the proxy."""

    def setUp(self) -> None:
        super().setUp()
        self.s3.put(b"key", OLD)

    def test_st05_ranges_of_two_versions(self) -> None:
        """ST-05: one answer that shows another version takes every byte of the older one away, not only those that
        overlap.
        """
        ranges = ((0, 1000), (70_000, 80_000), (150_000, 160_000))
        for start, stop in ranges:
            self.exactly(self.read_range(start, stop), OLD[start:stop], 206)
        self.s3.put(b"key", NEW, b'"v2"')
        self.later()
        self.exactly(self.read_range(0, 10), NEW[:10], 206, b'"v2"')
        for start, stop in ranges:
            self.exactly(self.read_range(start, stop), NEW[start:stop], 206, b'"v2"')

    def test_st06_two_versions_of_one_second(self) -> None:
        """ST-06: versions of the same second and length are told apart: the entity tag is asked about."""
        self.exactly(self.harness.get(), OLD)
        self.s3.put(b"key", NEW, b'"v2"')
        self.later()
        self.exactly(self.harness.get(), NEW, etag=b'"v2"')
        self.assertEqual(self.s3.reads[-1].confirming, b'"v1"')

    def test_st07_head_shows_another_version(self) -> None:
        """ST-07: a HEAD that shows another tag or length makes the bytes untrue at once, although they were fresh."""
        self.restart(get_ttl=3600.0, head_ttl=0.0)
        self.s3.ignores = frozenset({b"if-none-match"})
        for body, etag in ((OLD, b'"v2"'), (NEW[:-1], b'"v2"'), (NEW, b'"v3"')):
            self.exactly(self.harness.get(cache_control=b"no-cache"), self.s3.objects[b"key"].body)
            self.s3.put(b"key", body, etag)
            self.assertEqual(self.harness.head().header(b"etag"), etag)
            self.exactly(self.read_range(0, 100), body[:100], 206, etag)
            self.exactly(self.harness.get(), body, etag=etag)

    def test_st17_deleted_and_made_again(self) -> None:
        """ST-17: an object that S3 does not have any more is gone here, and a new one of its name is seen."""
        self.exactly(self.harness.get(), OLD)
        self.later()
        gone = self.s3.objects.pop(b"key")
        self.assertEqual(self.harness.get().status, 404)
        self.s3.objects[b"key"] = attrs.evolve(gone, body=NEW, etag=b'"v2"')
        self.exactly(self.harness.get(), NEW, etag=b'"v2"')
        self.is_hit(self.harness.get())

    def test_st23_no_object_is_not_remembered(self) -> None:
        """ST-23: that there is no such object is not kept: it may be made any time, also behind the proxy."""
        for number in range(3):
            target = b"/new-%d" % number
            self.assertEqual(self.harness.get(target).status, 404)
            self.assertEqual(self.harness.head(target).status, 404)
            self.s3.put(target[1:], NEW)
            self.exactly(self.harness.get(target), NEW)

    def test_st27_found_out_on_the_way(self) -> None:
        """ST-27: the very request that finds a new version out gets it, whole or a range."""
        for read, wanted in ((self.harness.get, (0, len(OLD))), (lambda: self.read_range(5, 9), (5, 9))):
            self.s3.put(b"key", OLD)
            self.exactly(self.harness.get(cache_control=b"no-cache"), OLD)
            self.s3.put(b"key", NEW, b'"v2"')
            self.later()
            client: FakeClient = read()
            self.assertEqual((client.answer, client.header(b"etag")), (NEW[slice(*wanted)], b'"v2"'))

    def test_st32_version_that_passes_by(self) -> None:
        """ST-32: an answer that is not kept shows that what is kept is not current: it is not served any more."""
        ways = ({"cache_control": b"no-store"}, {"range": b"bytes=0-9,20-29"}, {"cache_control": b"no-cache"})
        for headers in ways:
            self.s3.put(b"key", OLD)
            self.exactly(self.harness.get(cache_control=b"no-cache"), OLD)
            self.exactly(self.harness.get(**headers), OLD)
            self.is_hit(self.harness.get())
            self.s3.put(b"key", NEW, b'"v2"')
            self.exactly(self.harness.get(**headers), NEW)
            self.exactly(self.harness.get(), NEW, etag=b'"v2"')


class ClockTests(ModelTestCase):
    """How long an entry is trusted."""

    settings = {"get_ttl": 60.0, "head_ttl": 60.0}

    def setUp(self) -> None:
        super().setUp()
        self.s3.put(b"key", OLD)

    def asks_for(self, read: Callable[[], FakeClient]) -> int:
        """How often S3 is asked for this."""
        before = len(self.upstream.asked)
        client = read()
        self.assertEqual(client.ended, "finished")
        return len(self.upstream.asked) - before

    def test_st10_every_way_in(self) -> None:
        """ST-10: whole, HEAD, range and part all look at the clock, once each time it has run out."""
        ways: tuple[Callable[[], FakeClient], ...] = (
            self.harness.get,
            self.harness.head,
            lambda: self.read_range(5, 10),
            lambda: self.harness.get(range=b"bytes=-7"),
            lambda: self.harness.get(if_match=b'"v1"'),
            lambda: self.harness.get(b"/key?partNumber=1"),
        )
        for read in ways:
            self.asks_for(self.harness.get), self.asks_for(read)
            self.later()
            self.assertEqual(self.asks_for(read), 1)

    def test_st11_shorter_time(self) -> None:
        """ST-11: how long an entry is trusted is decided when it is read, by the settings of that moment."""
        self.exactly(self.harness.get(), OLD)
        self.assertEqual(self.asks_for(self.harness.get), 0)
        self.configure(get_ttl=0.0)
        self.assertEqual(self.asks_for(self.harness.get), 1)
        self.assertEqual(self.s3.reads[-1].status, 304)
        self.configure(get_ttl=3600.0)
        self.later(600)
        self.assertEqual(self.asks_for(self.harness.get), 0)

    def configure(self, **cache: Any) -> None:
        """Reload the configuration with these settings of the cache."""
        rules = Rules(Config(cache=Cache(**cache)))
        self.harness.gateway.reconfigure(rules, max_requests=100, bypass_headers=True)

    def test_st13_settings_of_the_object(self) -> None:
        """ST-13: after a confirmation, too, an object's own TTL counts and no other."""
        ordinary = Rules(Config(cache=Cache(get_ttl=3600.0, head_ttl=3600.0)))

        class Special(Rules):
            def resolve(self, address: ObjectAddress) -> Settings:
                settings = ordinary.resolve(address)
                return attrs.evolve(settings, get_ttl=1.0) if address.key.startswith(b"quick/") else settings

        self.harness.gateway.reconfigure(Special(self.harness.config), max_requests=100, bypass_headers=True)
        for target, expected in ((b"/quick/key", 1), (b"/slow/key", 0)):
            self.s3.put(target[1:], OLD)
            self.harness.get(target)
            for _ in range(3):
                self.later(1.2)
                self.assertEqual(self.asks_for(lambda target=target: self.harness.get(target)), expected)

    def test_st14_memory_has_no_clock_of_its_own(self) -> None:
        """ST-14: what is hot in memory expires like all else."""
        self.s3.put(b"key", BODY)
        for _ in range(3):
            self.harness.get(), self.harness.get()
            self.is_hit(self.harness.get())
            self.later()
            self.assertEqual(self.asks_for(self.harness.get), 1)

    def test_st15_confirmed_head(self) -> None:
        """ST-15: the time of a HEAD counts from its last confirmation, not from its first answer."""
        self.assertEqual(self.asks_for(self.harness.head), 1)
        for _ in range(3):
            self.later()
            self.assertEqual(self.asks_for(self.harness.head), 1)
            self.assertEqual(self.asks_for(self.harness.head), 0)

    def test_st24_reading_switched_off(self) -> None:
        """ST-24, CN-13: where the cache is switched off nothing is served from it, on no way; it is emptied at the
        first touch.
        """
        self.exactly(self.harness.get(), OLD)
        self.configure(read_cache_enabled=False)
        ways: tuple[Callable[[], FakeClient], ...] = (
            lambda: self.harness.get(if_match=b'"v1"'),
            self.harness.get,
            self.harness.head,
            lambda: self.read_range(5, 10),
            lambda: self.harness.get(range=b"bytes=5-9", if_range=b'"v1"'),
        )
        for read in ways:
            self.assertEqual(self.asks_for(read), 1)
        self.configure()
        self.assertEqual(self.asks_for(self.harness.get), 1)
        self.assertIsNone(self.s3.reads[-1].confirming)

    def test_st31_directives_of_the_object(self) -> None:
        """ST-31: Cache-Control on an object is for others; it counts here only where the operator says so."""
        for directive in (b"private", b"no-store", b"max-age=1"):
            self.s3.put(b"key", OLD, headers=((b"Cache-Control", directive),))
            self.harness.get(cache_control=b"no-cache")
            self.later(30)
            client = self.harness.get()
            self.is_hit(client)
            self.assertEqual(client.header(b"cache-control"), directive)
            self.configure(honor_cache_control=True)
            self.assertEqual(self.asks_for(self.harness.get), 1)
            self.configure()


class VerdictTests(ReadTestCase):
    """What S3 says about an expired entry."""

    def setUp(self) -> None:
        super().setUp()
        self.cached()
        self.harness.clock.advance(61)

    def test_st09_unreadable_entry(self) -> None:
        """ST-09: an entry that can't be read is not taken for fresh: S3 is asked, with the caller's own credentials."""
        self.harness.get(authorization=signed())
        self.upstream.last.respond(not_modified())
        self.served(self.harness.get(), b"HIT")
        self.upstream.asked.clear()
        self.harness.clock.advance(10)
        self.patch(self.harness.store, "load", _unreadable)
        client = self.harness.get(authorization=signed())
        asked = self.asks(1)
        self.assertEqual((asked.header(b"authorization"), asked.header(b"if-none-match")), (signed(), None))
        asked.respond(error(403, b"AccessDenied"))
        self.assertEqual(client.status, 403)
        self.assertNotIn(BODY[:16], client.answer)

    def test_st16_confirmation_of_another_version(self) -> None:
        """ST-16: a 304 that names another version confirms nothing; the client gets the object that is current, and
        never a 304 that it did not ask for.
        """
        client = self.harness.get()
        self.asks(1).respond(not_modified(b'"v2"'))
        again = self.asks(2)
        self.assertIsNone(again.header(b"if-none-match"))
        again.respond(ok(b"new", b'"v2"'))
        self.served(client, b"MISS", b"new")
        self.served(self.harness.get(), b"HIT", b"new")

    def test_st18_refused_caller(self) -> None:
        """ST-18: a refusal concerns one caller; the entry stays, and costs the next one no byte of S3's."""
        for status in (401, 403):
            client = self.harness.get()
            self.upstream.last.respond(error(status, b"AccessDenied"))
            self.assertEqual(client.status, status)
        other = self.harness.get()
        self.asks(3).respond(not_modified())
        self.served(other, b"REVALIDATED")

    def test_st19_write_without_an_outcome(self) -> None:
        """ST-19: a write that nobody knows the outcome of may have happened."""
        self.harness.get()
        self.upstream.last.respond(not_modified())
        self.upstream.asked.clear()
        self.harness.send(b"DELETE", b"/key")
        self.asks(1).fail(UpstreamUnreachable("reset", sent=True))
        client = self.harness.get()
        self.assertIsNone(self.asks(2).header(b"if-none-match"))
        self.upstream.last.respond(ok(b"new", b'"v2"'))
        self.served(client, b"MISS", b"new")


def _unreadable(*args: object) -> None:
    raise OSError(5, "Input/output error")


class VisibleTests(ReadTestCase):
    """From when on a body that came is there for the next reader."""

    def test_st28_equal_ranges_at_once(self) -> None:
        """ST-28: ten readers of one range are one request; who waited looks again and finds it."""
        body = OLD[:150_000]
        clients = [self.harness.get(range=b"bytes=0-149999") for _ in range(10)]
        response = FakeResponse(
            206, {b"ETag": b'"v1"', b"Content-Range": b"bytes 0-149999/%d" % len(OLD)}, None, len(body)
        )
        self.asks(1).respond(response)
        response.sink.data_received(body[:50_000])
        response.sink.data_received(body[50_000:])
        response.sink.stream_ended()
        self.harness.clock.advance(0.1)
        for client in clients:
            self.assertEqual((client.status, client.ended), (206, "finished"))
            self.assertTrue(client.answer == body)
        self.asks(1)

    def test_st29_st30_close_follower(self) -> None:
        """ST-29, ST-30: who reads when the last byte has just been sent is served by that fetch or by the cache; S3 is
        asked once for each object, however many follow each other without a pause.
        """
        for number in range(50):
            target = b"/%d" % number
            body = OLD if number % 2 else BODY
            first = self.harness.get(target)
            response = self.asks(number + 1).respond(ok(None, length=len(body)))
            response.sink.data_received(body)
            early = self.harness.get(target)
            response.sink.stream_ended()
            late = self.harness.get(target)
            self.harness.clock.advance(0.1)
            for client in (first, early, late):
                self.assertEqual((client.answer == body, client.ended), (True, "finished"))
            self.asks(number + 1)
