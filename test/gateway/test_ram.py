"""Copies in memory behind the gateway: what is hot comes out of them, and only when it may."""

import os
from pathlib import Path
from test.cache.test_ram import descriptors
from test.gateway.test_read import BODY, SIGNED_RANGE, ReadTestCase, error, not_modified, ok, part
from test.support.gateway import FakeClient, FakeResponse, GatewayHarness
from test.support.streams import RecordingSink, run_at_once

from s3proxy.cache.entry import ObjectId
from s3proxy.cache.manager import CacheManager
from s3proxy.cache.ram import PIECE, RamTier
from s3proxy.cache.settings import CacheSettings
from s3proxy.gateway.pipeline import Accounts, Gateway
from s3proxy.gateway.transaction import Parts
from s3proxy.policy.rules import Rules
from s3proxy.storage.layout import entry_name, parse_range

MIB = 1 << 20
ID = ObjectId("aws", b"bucket", b"key")
BIG = os.urandom(MIB) * 3
OTHER = os.urandom(MIB) * 3


class RamHarness(GatewayHarness):
    """One whose file system makes copies worth while."""

    def open(self) -> None:
        super().open()
        settings = self.config.cache
        self.tier = RamTier(run_at_once, self.clock.seconds, total=64 * MIB, seed=1)
        self.cache = CacheManager(
            self.clock,
            self.store,
            self.store.volume.generations,
            run_at_once,
            CacheSettings(max_cache_size=1 << 30, small_object_bytes=settings.small_object_bytes),
            now=self.now,
            events=self.events,
            ram=self.tier,
        )
        self.gateway = Gateway(
            self.clock,
            Parts(clock=self.clock, cache=self.cache, upstream=self.upstream, now=self.now),
            Rules(self.config),
            Accounts(started=lambda: None, finished=self.records.append),
            max_requests=100,
            bypass_headers=True,
        )


class RamTestCase(ReadTestCase):
    """A harness with a tier of copies."""

    def setUp(self) -> None:
        self.harness = RamHarness(**self.settings)  # type: ignore[arg-type]
        self.addCleanup(self.harness.close)
        self.upstream = self.harness.upstream
        self.tier = self.harness.tier
        self.addCleanup(self.tier.close)

    def files(self) -> list[Path]:
        """The files with bodies in the cache directory."""
        found = [Path(folder, name) for folder, _, names in os.walk(self.harness.root + "/o") for name in names]
        ranges = [path for path in found if parse_range(path.name) is not None]
        return ranges or found

    def spoil(self) -> None:
        """Overwrite the bodies on disk, in place, behind the cache's back."""
        for path in self.files():
            with path.open("r+b") as file:
                file.seek(64 << 10)
                file.write(b"\xee" * (path.stat().st_size - (128 << 10)))

    def heat(self, body: bytes = BIG) -> None:
        """Cache the object and have it copied: one miss, two reads of the disk."""
        self.cached(body)
        for _ in range(2):
            self.served(self.harness.get(), b"HIT", body)
        self.assertEqual(len(self.tier), -(-len(body) // PIECE))

    def part(self, client: FakeClient, start: int, stop: int, outcome: bytes, body: bytes = BIG) -> None:
        self.served(client, outcome, body[start:stop], 206)


class HotTests(RamTestCase):
    """What is used again and again."""

    def test_hot_object(self) -> None:
        """A hit comes out of memory, whatever happened to the file meanwhile."""
        self.heat()
        self.spoil()
        self.served(self.harness.get(), b"HIT", BIG)
        self.part(self.harness.get(range=b"bytes=1000000-1999999"), 1_000_000, 2_000_000, b"HIT")
        self.assertEqual(self.tier.hits, 2)
        self.asks_nobody()

    def asks_nobody(self) -> None:
        self.assertEqual(self.upstream.asked, [])

    def test_cold_object(self) -> None:
        """One that was read once does not: what this is compared with."""
        self.cached(BIG)
        self.served(self.harness.get(), b"HIT", BIG)
        self.spoil()
        self.assertNotEqual(self.harness.get().answer, BIG)

    def test_rg_25_large_ranges(self) -> None:
        """RG-25, RG-26: ranges of any size get into memory by themselves, and are found there under the same name."""
        for size in (70_000, 2 * MIB, PIECE, 9 * MIB):
            with self.subTest(size=size):
                start, stop, body = 1_000_000, 1_000_000 + size, os.urandom(MIB) * 12
                key = b"/key-%d" % size
                span = b"bytes=%d-%d" % (start, stop - 1)
                self.harness.get(key, range=span, authorization=SIGNED_RANGE)
                self.upstream.last.respond(part(start, stop, body))
                for _ in range(2):
                    self.part(self.harness.get(key, range=span, authorization=SIGNED_RANGE), start, stop, b"HIT", body)
                before = self.tier.hits, self.tier.misses
                client = self.harness.get(key, range=span, authorization=SIGNED_RANGE)
                self.part(client, start, stop, b"HIT", body)
                pieces = -(-stop // PIECE) - start // PIECE
                self.assertEqual((self.tier.hits, self.tier.misses), (before[0] + pieces, before[1]))

    def test_me_08_sixty_mebibytes(self) -> None:
        """ME-08: nothing is too large: a body of 60 MiB becomes a hit in memory."""
        body = os.urandom(MIB) * 60
        self.cached(body)
        for _ in range(2):
            self.served(self.harness.get(), b"HIT", body)
        misses = self.tier.misses
        self.served(self.harness.get(), b"HIT", body)
        self.assertEqual((self.tier.misses, self.tier.hits), (misses, 15))

    def test_ev_13_hot_in_memory_is_hot_on_disk(self) -> None:
        """EV-13: a hit out of memory counts as a use of what is on the disk."""
        self.heat()
        touched: list[int] = []
        self.patch(self.harness.store, "touched", lambda name, start: touched.append(start))
        self.served(self.harness.get(), b"HIT", BIG)
        self.assertEqual((self.tier.hits, touched), (1, [0]))

    def test_broken_disk(self) -> None:
        """Hits out of memory need no disk."""
        self.heat()

        def fail(*args: object, **options: object) -> None:
            raise OSError(5, "broken")

        self.patch(self.harness.store, "open_range", fail)
        self.patch(self.harness.store, "open_inline", fail)
        self.served(self.harness.get(), b"HIT", BIG)

    def test_client_that_is_slow_or_leaves(self) -> None:
        """Copies that are being sent stay until they are sent, or the client has gone; then nothing is held."""
        self.heat()
        opened = descriptors()
        slow, leaving = FakeClient(b"GET", b"/key"), FakeClient(b"GET", b"/key")
        for client in (slow, leaving):
            client.stalled = True
            self.harness.gateway.handle(client)
        self.harness.cache.drop(ID)
        self.assertEqual((len(self.tier), self.tier.bytes), (0, len(BIG)))
        leaving.leave()
        self.assertEqual(self.tier.bytes, len(BIG))
        slow.unstall()
        self.served(slow, b"HIT", BIG)
        self.assertEqual(self.tier.bytes, 0)
        self.assertEqual(descriptors(), opened - 1)


class TruthTests(RamTestCase):
    """What is in memory is served under the same conditions as what is on the disk."""

    def test_st_14_stale(self) -> None:
        """ST-14: when the time is over, S3 is asked about what is in memory, too, and it is served when S3 agrees."""
        self.heat()
        self.spoil()
        self.harness.clock.advance(61)
        client = self.harness.get()
        asked = self.asks(1)
        self.assertEqual(asked.header(b"if-none-match"), b'"v1"')
        self.assertEqual(client.answer, b"")
        asked.respond(not_modified())
        self.served(client, b"REVALIDATED", BIG)
        self.assertGreater(self.tier.hits, 0)

    def test_stale_and_refused(self) -> None:
        """A caller whom S3 refuses gets no byte of it."""
        self.heat()
        self.harness.clock.advance(61)
        client = self.harness.get()
        self.asks(1).respond(error(403, b"AccessDenied"))
        self.assertEqual(client.status, 403)
        self.assertNotIn(BIG[:100], client.answer)
        self.assertEqual(self.tier.hits, 0)

    def test_changed_behind_the_proxy(self) -> None:
        """Another version replaces it, in memory, too."""
        self.heat()
        self.harness.clock.advance(61)
        client = self.harness.get()
        self.asks(1).respond(ok(OTHER, etag=b'"v2"'))
        self.served(client, b"MISS", OTHER)
        for _ in range(3):
            self.served(self.harness.get(), b"HIT", OTHER)
        self.assertEqual((len(self.tier), self.tier.bytes), (1, len(OTHER)))

    def test_dc_30_overwritten(self) -> None:
        """DC-30: a write drops every copy of the object, before it is answered; nothing of the older version is found
        any more.
        """
        body = os.urandom(MIB) * 12
        spans = ((0, MIB), (5 * MIB, 6 * MIB), (9 * MIB, 12 * MIB))
        for start, stop in spans:
            for _ in range(3):
                client = self.harness.get(range=b"bytes=%d-%d" % (start, stop - 1), authorization=SIGNED_RANGE)
                if not client.ended:
                    self.upstream.last.respond(part(start, stop, body))
                self.assertEqual(client.answer, body[start:stop])
        self.assertEqual(len(self.tier), 3)
        writer = self.harness.send(b"PUT", b"/key", {}, b"x")
        source = self.upstream.last.request.body
        assert source is not None
        source.start(RecordingSink())
        writer.body.sink.data_received(b"x")
        writer.body.sink.stream_ended()
        self.assertEqual((writer.status, len(self.tier), self.tier.bytes), (None, 0, 0))
        self.upstream.last.respond(FakeResponse(200, {b"ETag": b'"new"'}))
        self.assertEqual(writer.status, 200)
        for start, stop in spans:
            count = len(self.upstream.asked)
            self.harness.get(range=b"bytes=%d-%d" % (start, stop - 1), authorization=SIGNED_RANGE)
            self.assertEqual(len(self.upstream.asked), count + 1)

    def test_evicted_from_the_disk(self) -> None:
        """Bytes of which the disk has no file any more are not served out of memory: they are asked for again."""
        self.heat()
        self.harness.store.drop(entry_name(ID.parts))
        self.harness.get()
        self.asks(1)
        self.assertEqual((len(self.tier), self.tier.hits), (0, 0))

    def test_closed(self) -> None:
        """At the end nothing is left in memory."""
        self.heat()
        self.harness.cache.end()
        self.assertEqual((len(self.tier), self.tier.bytes), (0, 0))


class AlwaysAskTests(RamTestCase):
    """TTL 0."""

    settings = {"get_ttl": 0.0}

    def test_not_in_memory(self) -> None:
        """What has to be asked for every time is not copied."""
        self.cached(BIG)
        for _ in range(4):
            client = self.harness.get()
            self.upstream.last.respond(not_modified())
            self.served(client, b"REVALIDATED", BIG)
        self.assertEqual((len(self.tier), self.tier.hits, self.tier.misses), (0, 0, 0))


class SwitchedOffTests(RamTestCase):
    """``ram_cache_enabled: false``, or a rule that says so."""

    settings = {"ram_cache_enabled": False}

    def test_not_in_memory(self) -> None:
        """Nothing is copied."""
        self.cached(BIG)
        for _ in range(4):
            self.served(self.harness.get(), b"HIT", BIG)
        self.assertEqual((len(self.tier), self.tier.hits, self.tier.misses), (0, 0, 0))


class SmallTests(RamTestCase):
    """Small objects."""

    def test_bodies_in_descriptions(self) -> None:
        """Their bodies are in memory with their descriptions: they need no copy."""
        self.cached(BODY)
        for _ in range(4):
            self.served(self.harness.get(), b"HIT", BODY)
        self.assertEqual((self.tier.misses, len(self.tier)), (0, 0))
        self.assertGreater(self.harness.cache.bytes_in_memory, len(BODY))

    def test_shared_room(self) -> None:
        """Descriptions and copies together never take more than there is."""
        self.tier.resize(4 * MIB)
        self.harness.cache.resize_memory(2 * MIB, 4 * MIB)
        self.heat()
        for number in range(60):
            self.harness.get(b"/small-%d" % number)
            self.upstream.last.respond(ok(os.urandom(60_000)))
            self.harness.get(b"/small-%d" % number)
            self.assertLessEqual(self.harness.cache.bytes_in_memory, 4 * MIB)
        self.assertEqual(len(self.tier), 0)
        self.assertGreater(self.harness.cache.bytes_in_memory, MIB)
        self.harness.cache.resize_memory(MIB, MIB)
        self.assertLessEqual(self.harness.cache.bytes_in_memory, MIB)
