"""What one process can see of what another one is getting."""

import json
import os
from test.storage.support import ABOUT, MIB, files_below, finish_scan, make_store, name_of, put_ranges, recount
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.storage import claims
from s3proxy.storage.disk import DiskStore
from s3proxy.storage.layout import DIRECTORY_FOOTPRINT, parse_temp
from s3proxy.storage.lease import WHOLE


def die(store: DiskStore) -> None:
    """Let the others take the process of this store for one that was killed."""
    path = f"{store.root}/inst/{store.volume.instance.number:015x}.hb"
    with open(path) as file:
        record = json.load(file)
    with open(path, "w") as file:
        json.dump({**record, "start": "long ago"}, file)


def move_away(store: DiskStore) -> None:
    """Let this store take all others for processes of other hosts."""
    store.volume.instance._host = "another host"


class TwoStores(SynchronousTestCase):
    """Two processes with one directory."""

    def setUp(self) -> None:
        self.ours = make_store(self)
        self.theirs = make_store(self, root=self.ours.root)
        self.name = name_of("object")


class FlightTests(TwoStores):
    """Flight files."""

    def test_nothing(self) -> None:
        """There is none, or it is one's own."""
        self.assertIsNone(self.ours.flight(self.name))
        self.ours.lease(self.name, asks=WHOLE)
        self.assertIsNone(self.ours.flight(self.name))

    def test_asks(self) -> None:
        """It says whose it is, and for what S3 is asked; a HEAD's and a write's do not."""
        lease = self.theirs.lease(self.name, asks=(100, 200))
        found = self.ours.flight(self.name)
        assert found is not None and lease is not None
        self.assertEqual(
            (found.nonce, found.instance, found.here, found.asks, found.entry),
            (lease.nonce, self.theirs.volume.instance.number, True, (100, 200), None),
        )
        move_away(self.ours)
        self.ours.volume.instance._neighbours.clear()
        found = self.ours.flight(self.name)
        self.assertFalse(found is None or found.here)
        lease.release()
        self.theirs.lease(self.name)
        found = self.ours.flight(self.name)
        self.assertTrue(found is not None and found.asks is None)

    def test_more_is_asked_for(self) -> None:
        """Requests that share a lease show what they ask for together, as far as it is one range."""
        lease = self.theirs.lease(self.name)
        assert lease is not None
        for asks, shown in (
            ((100, 200), (100, 200)),
            ((200, 300), (100, 300)),
            ((50, 120), (50, 300)),
            ((400, 500), (50, 300)),
            (WHOLE, WHOLE),
            ((1, 2), WHOLE),
        ):
            lease.announce(asks)
            found = self.ours.flight(self.name)
            assert found is not None
            self.assertEqual((found.nonce, found.asks), (lease.nonce, shown))
        entry = self.theirs.publish_head(lease, object_size=9, **ABOUT)
        lease.announce((5, 6))
        self.assertIsNotNone(entry)
        self.assertIsNotNone(self.ours.load(self.name))

    def test_growing(self) -> None:
        """Once there is a body, its description is there, too."""
        lease = self.theirs.lease(self.name, asks=(0, 10))
        assert lease is not None
        writer = self.theirs.start_inline(lease, object_size=100_000, **ABOUT)
        self.addCleanup(writer.close)
        found = self.ours.flight(self.name)
        assert found is not None and found.entry is not None
        self.assertEqual(found.asks, WHOLE)
        self.assertEqual(
            (found.entry.meta, found.entry.object_size, found.entry.body_len), (ABOUT["meta"], 100_000, 100_000)
        )
        self.assertEqual(found.entry.validated_at, ABOUT["validated_at"])
        sign = found.sign
        os.utime(self.ours.volume.flight_path(self.name), (5, 5))
        found = self.ours.flight(self.name)
        assert found is not None
        self.assertNotEqual(found.sign, sign)

    def test_long_description(self) -> None:
        """One that does not come with the first read; and one that is not all there yet is none."""
        lease = self.theirs.lease(self.name)
        assert lease is not None
        about = {**ABOUT, "meta": b"m" * 50_000}
        writer = self.theirs.start_inline(lease, object_size=100_000, **about)
        self.addCleanup(writer.close)
        found = self.ours.flight(self.name)
        assert found is not None and found.entry is not None
        self.assertEqual(found.entry.meta, about["meta"])
        os.truncate(self.ours.volume.flight_path(self.name), 40_000)
        found = self.ours.flight(self.name)
        self.assertTrue(found is not None and found.entry is None)

    def test_just_made(self) -> None:
        """Before its owner has said who he is, somebody is there all the same."""
        self.theirs.lease(self.name)
        os.truncate(self.ours.volume.flight_path(self.name), 0)
        found = self.ours.flight(self.name)
        assert found is not None
        self.assertEqual((found.nonce, found.asks, found.entry), (0, None, None))


class LeaseOfTheDeadTests(TwoStores):
    """Who can't get the right to publish because another process has it."""

    def test_dead(self) -> None:
        """A process that has died does not hold it any longer."""
        self.theirs.lease(self.name, asks=WHOLE)
        self.assertIsNone(self.ours.lease(self.name))
        die(self.theirs)
        self.assertIsNotNone(self.ours.lease(self.name))
        self.assertEqual(self.ours.volume.counts.broken_leases, 1)

    def test_waited_for(self) -> None:
        """One that has been waited for in vain loses it, and can't publish; nobody else does."""
        slow = self.theirs.lease(self.name, asks=WHOLE)
        assert slow is not None
        self.assertIsNone(self.ours.lease(self.name, instead_of=slow.nonce + 1))
        self.assertIsNotNone(self.ours.lease(self.name, asks=(0, 5), instead_of=slow.nonce))
        self.assertIsNone(self.theirs.publish_inline(slow, object_size=1, body=[b"x"], **ABOUT))
        found = self.theirs.flight(self.name)
        self.assertTrue(found is not None and found.asks == (0, 5))

    def test_renewal(self) -> None:
        """The same for the right to confirm."""
        put_ranges(self.ours, self.name, MIB)
        slow = self.theirs.prepare_renewal(self.name, asks=(0, MIB))
        assert slow is not None
        found = self.ours.flight(self.name)
        assert found is not None
        self.assertEqual(found.asks, (0, MIB))
        self.assertIsNone(self.ours.prepare_renewal(self.name))
        self.assertIsNotNone(self.ours.prepare_renewal(self.name, instead_of=found.nonce))
        self.assertIsNone(slow.confirm(2000.0))


class ClaimTests(TwoStores):
    """Claims to ranges."""

    def setUp(self) -> None:
        super().setUp()
        self.entry = put_ranges(self.ours, self.name, 20 * MIB)

    def test_seen_by_others(self) -> None:
        """Others see a claim until it is released; its owner does not."""
        claim = self.theirs.claim(self.name, self.entry.generation, (0, 5 * MIB))
        assert claim is not None
        self.assertEqual(self.theirs.claims(self.entry), ())
        (found,) = self.ours.claims(self.entry)
        self.assertEqual(
            (found.start, found.stop, found.instance, found.here, found.alive),
            (0, 5 * MIB, self.theirs.volume.instance.number, True, True),
        )
        os.utime(f"{self.ours.volume.generation_path(self.name, self.entry.generation)}/{found.text}", (5, 5))
        self.theirs.pulse()
        self.assertGreater(self.ours.claims(self.entry)[0].sign, 6_000_000_000)
        claim.release()
        claim.release()
        self.assertEqual(self.ours.claims(self.entry), ())
        self.assertEqual(self.ours.ranges(self.entry), ())

    def test_no_entry(self) -> None:
        """There is nothing to claim."""
        self.ours.drop(self.name)
        self.assertIsNone(self.theirs.claim(self.name, self.entry.generation, (0, MIB)))
        self.assertEqual(self.ours.claims(self.entry), ())

    def test_before_the_entry(self) -> None:
        """A claim can be made before anybody can see the entry; if that comes to nothing, so does the claim."""
        name = name_of("new")
        lease = self.theirs.lease(name)
        assert lease is not None
        made: list[claims.Claim] = []

        def prepare(generation: int) -> None:
            self.assertIsNone(self.ours.load(name))
            claim = self.theirs.claim(name, generation, (0, 9 * MIB))
            assert claim is not None
            made.append(claim)

        self.theirs.publish_ranges(lease, object_size=9 * MIB, prepare=prepare, **ABOUT)
        entry = self.ours.load(name)
        assert entry is not None
        self.assertEqual([claim.stop for claim in self.ours.claims(entry)], [9 * MIB])
        lease = self.theirs.lease(name)
        assert lease is not None
        self.ours.drop(name)
        self.assertIsNone(self.theirs.publish_ranges(lease, object_size=9 * MIB, prepare=prepare, **ABOUT))
        for claim in made:
            claim.release()
        self.assertEqual([path for path in files_below(f"{self.ours.root}/o") if "f." in path], [])

    def test_accounts(self) -> None:
        """Claims count nothing, and a scan removes those of the dead only."""
        used = self.ours.usage()
        claim = self.theirs.claim(self.name, self.entry.generation, (0, MIB))
        recount(self.ours)
        self.assertEqual(self.ours.usage(), used)
        self.assertEqual(len(self.ours.claims(self.entry)), 1)
        die(self.theirs)
        finish_scan(self.ours)
        self.assertEqual(self.ours.claims(self.entry), ())
        assert claim is not None
        claim.release()
        self.assertGreater(used, DIRECTORY_FOOTPRINT)

    def test_eviction_leaves_it_alone(self) -> None:
        """An entry whose first range is on its way is not an empty one."""
        self.theirs.claim(self.name, self.entry.generation, (0, MIB))
        os.utime(self.ours.volume.generation_path(self.name, self.entry.generation), (5, 5))
        self.assertEqual(self.ours.evictor.sample(), [])

    def test_progress(self) -> None:
        """On a network file system a claim says what has reached the server, and nothing it can't vouch for."""
        with mock.patch.object(claims, "_networked", lambda root: True):
            claim = self.theirs.claim(self.name, self.entry.generation, (MIB, 5 * MIB))
        assert claim is not None
        (found,) = self.ours.claims(self.entry)
        path = f"{self.ours.volume.generation_path(self.name, self.entry.generation)}/{found.text}"
        claim.touch()
        self.assertEqual(os.path.getsize(path), 0)
        writer = self.theirs.start_range(self.entry, MIB, 4 * MIB)
        claim.writing(writer)
        writer.append([b"x" * 1000])
        claim.touch()
        with open(path, "rb") as file:
            data = file.read()
        self.assertEqual(claims.decode_progress(data), MIB + 1000)
        self.assertEqual(claims.decode_progress(data[:-1]), 0)
        self.assertEqual(claims.decode_progress(bytes([data[0] ^ 1]) + data[1:]), 0)
        writer.close()
        claim.touch()


class SalvageTests(TwoStores):
    """What a dead process has written."""

    def setUp(self) -> None:
        super().setUp()
        self.entry = put_ranges(self.ours, self.name, 20 * MIB)
        self.body = os.urandom(3 * MIB)
        self.theirs.claim(self.name, self.entry.generation, (MIB, 8 * MIB))
        self.writer = self.theirs.start_range(self.entry, MIB, 7 * MIB)
        self.writer.append([self.body])
        (self.claim,) = self.ours.claims(self.entry)

    def test_kept(self) -> None:
        """What it has written for sure is a range from now on, sound and accounted for; nothing else is left."""
        self.assertEqual(self.ours.salvage(self.claim), 0, "it still lives")
        die(self.theirs)
        kept = self.ours.salvage(self.claim)
        self.assertTrue(len(self.body) - 1000 < kept < len(self.body), kept)
        self.assertEqual(self.ours.ranges(self.entry), ((MIB, MIB + kept),))
        fresh = make_store(self, root=self.ours.root)
        handle = fresh.open_range(self.entry, MIB, MIB + kept)
        assert handle is not None and handle.seal is not None
        handle.seal.check(handle.fd, 0, kept)
        self.assertEqual(os.pread(handle.fd, kept, 0), self.body[:kept])
        handle.close()
        names = [os.path.basename(path) for path in files_below(f"{self.ours.root}/o")]
        self.assertEqual([name for name in names if parse_temp(name) is not None], [])
        used = self.ours.usage()
        recount(self.ours)
        self.assertEqual(self.ours.usage(), used)
        self.assertEqual(self.ours.in_flight(), 0)
        self.assertEqual(self.ours.salvage(self.claim), 0)

    def test_died_in_a_footer(self) -> None:
        """Bytes of a footer are not taken for some of the body."""
        die(self.theirs)
        os.pwrite(self.writer.fd, b"footer" * 10, len(self.body))
        kept = self.ours.salvage(self.claim)
        self.assertLessEqual(kept, len(self.body))
        handle = self.ours.open_range(self.entry, MIB, MIB + kept)
        assert handle is not None
        self.assertEqual(os.pread(handle.fd, kept, 0), self.body[:kept])
        handle.close()

    def test_of_another_host(self) -> None:
        """Some of what another host wrote last may have got lost: it goes."""
        move_away(self.ours)
        self.ours.volume.instance._neighbours.clear()
        (claim,) = self.ours.claims(self.entry)
        self.theirs.volume.instance.stop()
        self.assertEqual(self.ours.salvage(claim), 0)
        self.assertEqual(self.ours.ranges(self.entry), ())
        self.assertEqual(
            [path for path in files_below(f"{self.ours.root}/o") if ".{:015x}.".format(claim.instance) in path], []
        )
