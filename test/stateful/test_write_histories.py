"""Histories of writes that the machines make seldom, or whose outcome they can't judge: what must still be kept."""

from test.stateful.histories import KEY, HistoryCase
from test.support.model import Content
from test.support.model_clients import Writer
from test.support.model_multipart import Abort, Complete, CopyPart, Create, PutPart, Upload
from test.support.model_orders import Delete, DeleteMany, Order, Put
from test.support.model_s3 import WriteFault


class WriteCase(HistoryCase):
    """Each begins with one object at S3."""

    def order(self, order: Order, fault: WriteFault | None = None) -> Writer:
        """A write, to its end."""
        if fault is not None:
            self.world.s3.plan_write(order.key, fault)
        writer = self.world.order(order)
        self.world.settle()
        return writer

    def put(self, fault: WriteFault | None = None) -> Writer:
        """Other bytes."""
        number = len(self.world.s3.histories[KEY].versions) + 1
        return self.order(Put(key=KEY, label=self.world.label(), bytes_of=Content(KEY, number, 9000)), fault)

    def source(self) -> bytes | None:
        """Where a read comes from."""
        return self.get().client.header(b"x-cache")

    def until_s3_acts(self, order: Order) -> Writer:
        """S3 has done it, and its answer is on its way."""
        writer = self.world.order(order)
        while not writer.versions:
            self.assertTrue(self.world.move_writes())
        return writer

    # Multipart uploads.

    def upload(self, *sizes: int) -> Upload:
        """One that has begun, with parts of these sizes."""
        id = b"upload-%d" % self.world.s3.serial()
        self.order(Create(key=KEY, label=self.world.label(), id=id))
        upload = self.world.s3.uploads[id]
        for number, size in enumerate(sizes, 1):
            self.put_part(upload, number, size)
        return upload

    def put_part(self, upload: Upload, number: int, size: int) -> None:
        """A part with bytes that were never there before."""
        content = Content(KEY, 100 + self.world.s3.serial(), size)
        self.order(PutPart(key=KEY, id=upload.id, number=number, bytes_of=content))

    def complete(self, upload: Upload, fault: WriteFault | None = None) -> Writer:
        """The end, with all parts that S3 has."""
        listed = upload.listed or tuple(sorted((number, part.etag) for number, part in upload.parts.items()))
        return self.order(Complete(key=KEY, id=upload.id, listed=listed), fault)

    def is_kept(self) -> None:
        """The object is in the cache: the first read confirms it, the second one is a hit."""
        self.assertEqual((self.source(), self.source()), (b"REVALIDATED", b"HIT"))


class UncertainTests(WriteCase):
    """S3 has acted, or has not, and does not say."""

    def test_error_after_it_was_written(self) -> None:
        """A 500, a lost connection and silence say nothing: S3 is asked, and the new object is got."""
        for kind in ("status", "lost", "silent"):
            self.begin()
            self.get()
            self.assertGreaterEqual(self.put(WriteFault(kind, acts="before", status=500)).client.status or 0, 500)
            self.assertEqual(self.source(), b"MISS")

    def test_refused(self) -> None:
        """What S3 refuses leaves what is in the cache: if S3 had all of it, that is confirmed once more."""
        for kind, source in (("early", b"HIT"), ("status", b"REVALIDATED")):
            for status in (307, 400, 403, 412):
                self.begin()
                self.get()
                self.assertEqual(self.put(WriteFault(kind, status=status)).client.status, status)
                self.assertEqual((self.source(), self.source()), (source, b"HIT"))

    def test_no_connection(self) -> None:
        """S3 has not got anything of it: what is in the cache is a hit as before."""
        self.begin()
        self.get()
        self.assertEqual(self.put(WriteFault("refused")).client.status, 502)
        self.assertEqual(self.source(), b"HIT")

    def test_done_a_moment_later(self) -> None:
        """S3 acts when the proxy has given up, and somebody has read the older object in between: it is not kept for
        long.
        """
        world = self.begin()
        self.put(WriteFault("lost", acts="after"))
        self.assertEqual(self.source(), b"MISS")
        world.uplink.act_late(0, True)
        world.harness.clock.advance(11)
        self.assertEqual(self.source(), b"MISS")

    def test_killed_before_the_answer(self) -> None:
        """S3 has acted, and the process that should have removed the older object from the cache is no more."""
        for removes in (False, True):
            world = self.begin()
            self.get()
            self.assertEqual(self.source(), b"HIT")
            put = Put(key=KEY, label=world.label(), bytes_of=Content(KEY, 2, 9000))
            self.until_s3_acts(Delete(key=KEY) if removes else put)
            world.restart(crash=True, scan=False)
            self.assertEqual(self.get().client.status, 404 if removes else 200)

    def test_gone_before_the_answer(self) -> None:
        """The client leaves when S3 has acted: nobody gets the older object."""
        world = self.begin()
        self.get()
        self.until_s3_acts(Put(key=KEY, label=world.label(), bytes_of=Content(KEY, 2, 9000))).client.leave()
        self.assertEqual(self.source(), b"MISS")

    def test_gone_while_keys_are_armed(self) -> None:
        """The client of a long list of keys leaves while a thread prepares the cache for what S3 will do: S3 does not
        get the list, and nothing is left of the preparation.
        """
        world = self.begin()
        self.get()
        writer = world.order(DeleteMany(key=KEY, all_keys=(KEY, b"b"), others=10))
        while not world.threads.waiting:
            self.assertTrue(world.move_writes())
        writer.client.leave()
        world.settle()
        self.assertEqual((self.source(), self.source()), (b"REVALIDATED", b"HIT"))

    def test_body_that_goes_on_behind_the_answer(self) -> None:
        """A success that comes amid the body is passed on; nothing is kept, and nothing is left over."""
        self.begin()
        self.assertEqual(self.put(WriteFault("early-200", place=300)).client.status, 200)
        self.assertEqual(self.source(), b"MISS")


class PartTests(WriteCase):
    """Multipart uploads."""

    def test_kept(self) -> None:
        """Parts of all sizes, also across a restart: the object is in the cache, and so is each of its parts."""
        for crash in (None, False, True):
            world = self.begin()
            upload = self.upload(9000, 12_000)
            if crash is not None:
                world.restart(crash, scan=True)
            self.put_part(upload, 3, 1000)
            self.put_part(upload, 1, 5000)
            self.complete(upload)
            self.is_kept()
            part = world.read(b"GET", KEY, {}, query=b"partNumber=2", part=2)
            world.settle()
            self.assertEqual((part.client.header(b"x-cache"), len(part.client.answer)), (b"HIT", 12_000))

    def test_error_in_a_200(self) -> None:
        """It changes nothing: what was there is there, and when the end is asked for once more, the parts are, too."""
        self.begin()
        self.get()
        upload = self.upload(9000, 1000)
        self.assertEqual(self.complete(upload, WriteFault("error-in-200")).client.status, 200)
        self.assertEqual((self.source(), self.source()), (b"REVALIDATED", b"HIT"))
        self.complete(upload)
        self.is_kept()

    def test_answer_that_was_lost(self) -> None:
        """S3 has put the object together, and says so only when it is asked once more: the object is kept then."""
        for kind in ("lost", "status", "cut"):
            self.begin()
            upload = self.upload(9000, 1000)
            self.complete(upload, WriteFault(kind, acts="before", place=200))
            self.complete(upload)
            self.is_kept()

    def test_completed_twice(self) -> None:
        """S3 says the same again: what is in the cache stays, and so does what was written in between."""
        self.begin()
        upload = self.upload(9000)
        self.complete(upload)
        self.is_kept()
        self.complete(upload)
        self.assertEqual((self.source(), self.source()), (b"REVALIDATED", b"HIT"))
        self.put()
        self.complete(upload)
        self.is_kept()

    def test_part_replaced_past_the_proxy(self) -> None:
        """S3 has other bytes than were seen here: the object is got from S3."""
        for plain in (True, False):
            world = self.begin()
            upload = self.upload(9000, 1000)
            upload.put(1, Content(KEY, 77, 9000).body, world.s3.serial(), plain)
            self.complete(upload)
            self.assertEqual(self.source(), b"MISS")

    def test_part_that_s3_has_already(self) -> None:
        """Its bytes were not seen here, although others of that number were."""
        self.begin()
        upload = self.upload(9000, 1000)
        self.order(CopyPart(key=KEY, id=upload.id, number=2, source=KEY, span=(0, 1000)))
        self.complete(upload)
        self.assertEqual(self.source(), b"MISS")

    def test_part_that_failed(self) -> None:
        """A part that S3 did not take is sent once more: the object is kept."""
        self.begin()
        upload = self.upload(9000)
        for kind in ("reset", "early", "stuck", "lost", "status"):
            self.world.s3.plan_write(KEY, WriteFault(kind, place=400))
            self.put_part(upload, 2, 12_000)
        self.put_part(upload, 2, 12_000)
        self.complete(upload)
        self.is_kept()

    def test_aborted(self) -> None:
        """Nothing is left of it."""
        world = self.begin()
        upload = self.upload(9000, 1000)
        self.assertTrue(world.harness.staged_parts(KEY, upload.id))
        self.order(Abort(key=KEY, id=upload.id))
        self.assertEqual(world.harness.staged_parts(KEY, upload.id), [])
