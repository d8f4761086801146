"""Whom a process follows, and for how long it waits."""

from test.storage.support import MIB
from test.storage.test_claims import TwoStores, die, move_away
from test.support.streams import ManualThread

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from s3proxy.cache.entry import ObjectId, ObjectVersion, encode_version
from s3proxy.cache.followed import ELSEWHERE
from s3proxy.cache.following import COUNT_EVERY, FLEET_WAIT, REMEMBERED, UNCLEAR, Following, Found, Sought
from s3proxy.cache.index import Record
from s3proxy.s3.headers import Headers
from s3proxy.storage.entry import StoredEntry
from s3proxy.storage.generations import GenerationTable
from s3proxy.storage.layout import entry_name
from s3proxy.storage.lease import WHOLE

ID = ObjectId("aws", b"bucket", b"key")
SIZE = 20 * MIB
ANYTHING = Sought(interval=None, lacking=True, served_by=lambda asks: True)


class FollowingCase(TwoStores):
    """What the second store's process does, as the first one sees it."""

    host_only = False

    def setUp(self) -> None:
        super().setUp()
        self.name = entry_name(ID.parts)
        self.clock = Clock()
        self.thread = ManualThread()
        self.forgotten: list[ObjectId] = []
        self.following = Following(
            self.clock,
            self.ours,
            self.thread,
            GenerationTable(1),
            host_only=self.host_only,
            forget=self.forgotten.append,
        )
        self.version = ObjectVersion(
            id=ID, etag=b'"v"', last_modified=None, size=SIZE, headers=Headers([(b"ETag", b'"v"')])
        )

    def seek(self, record: Record | None = None, sought: Sought = ANYTHING) -> "Deferred[Found]":
        return Deferred.fromCoroutine(self.following.seek(ID, record, sought))

    def facts(self, size: int = SIZE) -> dict[str, object]:
        meta = encode_version(attrs.evolve(self.version, size=size))
        return {"meta": meta, "object_size": size, "validated_at": 7.0, "observed_at": 7.0}

    def entry(self) -> Record:
        """An entry without any range."""
        lease = self.ours.lease(self.name)
        assert lease is not None
        stored: StoredEntry | None = self.ours.publish_ranges(lease, **self.facts())  # type: ignore[arg-type]
        assert stored is not None
        return Record(self.name, stored.epoch, 0.0, stored, self.version)

    def go_elsewhere(self) -> None:
        """The other process is one of another host."""
        move_away(self.ours)
        self.ours.volume.instance._neighbours.clear()


class WaitingTests(FollowingCase):
    """For the first byte."""

    def test_nobody(self) -> None:
        """No other process gets the object."""
        self.assertIs(self.successResultOf(self.seek()), Found.NOTHING)
        self.theirs.lease(self.name)
        self.assertIs(self.successResultOf(self.seek()), Found.NOTHING, "it does not get it")
        self.assertFalse(self.following.stands_in_the_way(self.name))

    def test_alone(self) -> None:
        """Where no other process uses the directory, nothing is looked for; that is looked at every second."""
        self.theirs.lease(self.name, asks=WHOLE)
        heartbeat = f"{self.theirs.root}/inst/{self.theirs.volume.instance.number:015x}.hb"
        self.theirs.volume.instance.stop()
        self.patch(self.ours, "flight", lambda name: self.fail("looked"))
        self.assertIs(self.successResultOf(self.seek()), Found.NOTHING)
        with open(heartbeat, "w") as file:
            file.write("{}")
        self.assertIs(self.successResultOf(self.seek()), Found.NOTHING)
        self.patch(self.ours, "flight", lambda name: None)
        self.clock.advance(COUNT_EVERY)
        self.assertIs(self.successResultOf(self.seek()), Found.NOTHING)

    def test_of_another_host(self) -> None:
        """The directory is looked at in threads."""
        self.go_elsewhere()
        lease = self.theirs.lease(self.name, asks=WHOLE)
        assert lease is not None
        waiting = self.seek()
        self.clock.advance(ELSEWHERE[0])
        self.assertEqual(self.thread.waiting, 1)
        self.thread.finish()
        self.assertNoResult(waiting)
        lease.release()
        self.clock.advance(ELSEWHERE[1])
        self.thread.finish()
        self.assertIs(self.successResultOf(waiting), Found.AWAITED)
        self.assertEqual(self.forgotten, [ID])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_disk_fails_in_a_thread(self) -> None:
        """Nobody waits on."""
        self.go_elsewhere()
        self.theirs.lease(self.name, asks=WHOLE)
        waiting = self.seek()

        def broken(name: object) -> None:
            raise OSError(5, "broken")

        self.patch(self.ours, "flight", broken)
        self.clock.advance(ELSEWHERE[0])
        self.thread.finish()
        self.assertIs(self.successResultOf(waiting), Found.AWAITED)

    def test_in_vain(self) -> None:
        """After the time is up the other process is not waited for again, and its right may be taken away."""
        lease = self.theirs.lease(self.name, asks=WHOLE)
        assert lease is not None
        waiting = [self.seek() for _ in range(3)]
        self.assertTrue(self.following.stands_in_the_way(self.name))
        for _ in range(round(FLEET_WAIT / 0.01) + 10):
            self.clock.advance(0.01)
        for each in waiting:
            self.assertIs(self.successResultOf(each), Found.AWAITED)
        self.assertIs(self.successResultOf(self.seek()), Found.NOTHING)
        self.assertEqual(self.following.instead_of(self.name), lease.nonce)
        self.assertFalse(self.following.stands_in_the_way(self.name))

    def test_unclear(self) -> None:
        """A file that does not say what it is, is not waited for like others."""
        self.theirs.lease(self.name)
        open(self.theirs.volume.flight_path(self.name), "w").close()
        waiting = self.seek()
        self.assertNoResult(waiting)
        for _ in range(10):
            self.clock.advance(UNCLEAR / 5)
        self.assertIs(self.successResultOf(waiting), Found.AWAITED)

    def test_memory_is_bounded(self) -> None:
        """What is remembered of those that are not waited for any more does not grow without end."""
        for number in range(REMEMBERED + 10):
            self.following.no_longer_wait_for(entry_name((b"%d" % number,)), number)
        self.assertIsNone(self.following.instead_of(entry_name((b"0",))))
        self.assertEqual(self.following.instead_of(entry_name((b"50",))), 50)


class BodiesTests(FollowingCase):
    """What is found."""

    def test_whole(self) -> None:
        """A body that grows in a flight file is offered as long as that stands."""
        lease = self.theirs.lease(self.name, asks=WHOLE)
        assert lease is not None
        writer = self.theirs.start_inline(lease, **self.facts(MIB))  # type: ignore[arg-type]
        self.addCleanup(writer.close)
        self.assertIsNone(self.following.whole(ID))
        self.assertIs(self.successResultOf(self.seek()), Found.NEWS)
        body = self.following.whole(ID)
        assert body is not None
        self.assertEqual((body.version.etag, body.version.size, body.brought_at), (b'"v"', MIB, 7.0))
        self.assertIs(self.successResultOf(self.seek()), Found.NOTHING, "no news")
        self.ours.drop(self.name)
        self.assertIsNone(self.following.whole(ID))

    def test_other_object(self) -> None:
        """A description that is not one of this object is not believed."""
        self.version = attrs.evolve(self.version, id=ObjectId("aws", b"bucket", b"other"))
        lease = self.theirs.lease(self.name, asks=WHOLE)
        assert lease is not None
        self.addCleanup(self.theirs.start_inline(lease, **self.facts(MIB)).close)  # type: ignore[arg-type]
        self.assertIs(self.successResultOf(self.seek()), Found.NOTHING)

    def test_claims(self) -> None:
        """Claims to bytes that are wanted are news; each is followed once."""
        record = self.entry()
        claim = self.theirs.claim(self.name, record.stored.generation, (0, MIB))
        assert claim is not None
        wanted = Sought(interval=(5, 10), lacking=True, served_by=lambda asks: True)
        self.assertEqual(self.following.ranges(ID, record), ())
        self.assertIs(self.successResultOf(self.seek(record, wanted)), Found.NEWS)
        (body,) = self.following.ranges(ID, record)
        self.assertEqual((body.start, body.stop, body.brought_at), (0, MIB, None))
        self.clock.advance(1)
        self.assertIs(self.successResultOf(self.seek(record, wanted)), Found.NOTHING)
        other = self.entry()
        self.assertEqual(self.following.ranges(ID, other), (), "of another generation")
        self.clock.advance(100)
        self.assertEqual(self.following.ranges(ID, record), (), "nobody wanted it for long")

    def test_claim_of_the_dead(self) -> None:
        """What the dead have written is kept, in a thread, once."""
        record = self.entry()
        self.theirs.claim(self.name, record.stored.generation, (0, MIB))
        self.theirs.start_range(record.stored, 0, MIB).append([b"x" * 100_000])
        die(self.theirs)
        wanted = Sought(interval=(5, 10), lacking=True, served_by=lambda asks: True)
        for _ in range(2):
            self.assertIs(self.successResultOf(self.seek(record, wanted)), Found.NOTHING)
            self.clock.advance(1)
        self.assertEqual(self.thread.waiting, 1)
        self.thread.finish()
        ((start, stop),) = self.ours.ranges(record.stored)
        self.assertTrue(start == 0 and 99_000 < stop <= 100_000)
        self.assertEqual(self.forgotten, [ID])


class HostOnlyTests(FollowingCase):
    """Nobody of another host is followed."""

    host_only = True

    def test_flight(self) -> None:
        """Nor waited for."""
        self.theirs.lease(self.name, asks=WHOLE)
        self.assertTrue(self.following.stands_in_the_way(self.name))
        self.go_elsewhere()
        self.assertFalse(self.following.stands_in_the_way(self.name))
        self.assertIs(self.successResultOf(self.seek()), Found.NOTHING)

    def test_claim(self) -> None:
        """The same for ranges."""
        record = self.entry()
        self.theirs.claim(self.name, record.stored.generation, (0, MIB))
        self.go_elsewhere()
        wanted = Sought(interval=(5, 10), lacking=True, served_by=lambda asks: True)
        self.assertIs(self.successResultOf(self.seek(record, wanted)), Found.NOTHING)
        self.assertEqual(self.following.ranges(ID, record), ())
