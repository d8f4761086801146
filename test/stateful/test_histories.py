"""Histories that were answered wrongly once, as short as they can be told."""

import shutil

from test.stateful.histories import KEY, HistoryCase
from test.support.model import Content
from test.support.model_s3 import Fault


class HistoryTests(HistoryCase):
    """Each begins with one object at S3."""

    def test_if_range_without_local_conditions(self) -> None:
        """Where S3 judges conditions, it judges If-Range, too."""
        world = self.begin(evaluate_conditions_from_cache=False)
        content = world.s3.histories[KEY].current.content
        assert content is not None
        self.get()
        reader = self.get(always_ask=True, Range=b"bytes=0-9", If_Range=content.etag)
        self.assertEqual(len(reader.exchanges), 1)

    def test_stale_only_for_those_who_take_it(self) -> None:
        """A client that wants S3 to be asked gets no older bytes because S3 failed."""
        world = self.begin(stale_if_error=100.0)
        self.get()
        world.harness.clock.advance(70)
        world.s3.plan(KEY, Fault("503"))
        self.assertEqual(self.get().client.header(b"x-cache"), b"STALE")
        world.s3.plan(KEY, Fault("503"))
        self.assertEqual(self.get(always_ask=True, Cache_Control=b"no-cache").client.status, 503)

    def test_new_metadata_in_an_answer_about_a_gap(self) -> None:
        """The same bytes were written again: S3's answer to the request for the missing ones tells, and the client gets
        what describes the object now.
        """
        world = self.begin(get_ttl=0.0)
        self.get(Range=b"bytes=0-4999")
        world.overwrite(KEY, Content(KEY, 1, 9000))
        reader = self.get()
        self.assertEqual(reader.client.header(b"x-amz-meta-version"), b"v2")

    def test_confirmation_that_took_long(self) -> None:
        """What S3 was asked longer ago than its answer is good for confirms nothing to those who came meanwhile."""
        world = self.begin()
        self.get()
        world.harness.clock.advance(61)
        self.get(settled=False)
        world.move(0)
        world.harness.clock.advance(61)
        world.overwrite(KEY, Content(KEY, 2, 9000))
        world.harness.clock.advance(61)
        self.get(settled=False)

    def test_written_and_never_described(self) -> None:
        """S3 fails before it has described what was written through the proxy: its head would not be complete."""
        world = self.begin(stale_if_error=100.0)
        world.write(KEY, Content(KEY, 2, 9000))
        world.settle()
        world.s3.plan(KEY, Fault("503"))
        self.assertEqual(self.get().client.status, 503)
        self.assertEqual(self.get().client.header(b"x-cache"), b"REVALIDATED")

    def test_upload_while_no_thread_has_time(self) -> None:
        """The copy of an upload is given up, and nothing is left of it."""
        for refusals in range(1, 5):
            for moves in range(12):
                world = self.begin(small_object_bytes=0)
                world.write(KEY, Content(KEY, 2, 20_000))
                for _ in range(moves):
                    world.move(0)
                world.threads.refusals = refusals
                self.check(world)

    def test_directory_lost_while_a_body_comes(self) -> None:
        """The cache can't be written to, and all bytes are here before S3 has ended the body: that end is waited for,
        although the last reader did not want all of them.
        """
        world = self.begin(20_000, small_object_bytes=1000)
        readers = [self.get(settled=False)]
        while not world.flowing:
            world.move(0)
        (response,) = world.flowing
        readers.append(self.get(settled=False, Range=b"bytes=0-1"))
        shutil.rmtree(world.harness.store.volume.objects)
        response.flow(1)
        response.flow(20_000)
        world.settle()
        self.assertEqual([reader.client.ended for reader in readers], ["finished", "finished"])
