"""Objects in the cache, and their removal."""

from test.dashboard.stocked import Stocked, an_id
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.cache.entry import ObjectId
from s3proxy.dashboard import browse
from s3proxy.dashboard.browse import Pages, id_of, reference
from s3proxy.dashboard.catalog import Search

RULES = b"""{"rules": [
    {"pattern": "b/never/**", "read_cache_enabled": false}, {"pattern": "b/short/**", "get_ttl": "5s"}
]}"""


class ReferenceTests(SynchronousTestCase):
    @given(st.binary(min_size=1), st.binary(min_size=1), st.sampled_from(["aws", "aws-cn", "localhost:8333"]))
    def test_there_and_back(self, bucket: bytes, key: bytes, store: str) -> None:
        """Whatever bytes a key has, its reference leads back to it."""
        self.assertEqual(id_of(reference(ObjectId(store, bucket, key))), ObjectId(store, bucket, key))

    def test_what_names_nothing(self) -> None:
        """Without a bucket or a key there is no object; the store may be left out."""
        for query in ("", "bucket=b", "key=k", "bucket=&key=k"):
            self.assertIsNone(id_of(query))
        self.assertEqual(id_of("bucket=b&key=a%2Fk"), an_id(b"b/a/k"))


class BrowserCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.stocked = Stocked(RULES)
        self.addCleanup(self.stocked.close)

    def await_(self, coroutine: Any) -> Any:
        """What it comes to; time passes meanwhile."""
        done = Deferred.fromCoroutine(coroutine)
        for _ in range(10_000):
            if done.called:
                break
            self.stocked.clock.advance(0.02)
        return self.successResultOf(done)

    def objects(self, **wanted: Any) -> list[dict[str, Any]]:
        self.await_(self.stocked.browser.objects(Search()))
        self.stocked.walk()
        found: list[dict[str, Any]] = self.await_(self.stocked.browser.objects(Search(**wanted)))["objects"]
        return found

    def object(self, name: bytes) -> Any:
        return self.await_(self.stocked.browser.object(an_id(name)))


class ListTests(BrowserCase):
    def test_rows(self) -> None:
        """Size, what of it is held, when it was confirmed, and when S3 is asked again."""
        self.stocked.read(b"b/whole", b"x" * 10)
        self.stocked.read(b"b/part", b"x" * 4, total=100)
        part, whole = self.objects()
        self.assertEqual((whole["size"], whole["held"], part["size"], part["held"]), (10, 10, 100, 4))
        now = self.stocked.harness.now()
        self.assertAlmostEqual(whole["expires"] - whole["validated"], 60.0)
        self.assertLessEqual(whole["validated"], now)
        self.assertEqual(id_of(whole["ref"]), an_id(b"b/whole"))

    def test_gone_meanwhile(self) -> None:
        """What was removed since the catalog saw it is left out."""
        self.stocked.read(b"b/k")
        self.objects()
        self.stocked.harness.cache.drop(an_id(b"b/k"))
        found = self.await_(self.stocked.browser.objects(Search()))
        self.assertEqual((found["objects"], found["gone"], found["total"]), ([], 1, 1))


class ObjectTests(BrowserCase):
    def test_what_the_next_read_is(self) -> None:
        """A fresh whole object is a hit; else the reason is that of the miss to come."""
        self.stocked.read(b"b/k", b"x" * 10)
        self.stocked.read(b"b/part", b"x" * 4, total=100)
        self.stocked.read(b"b/short/k")
        self.assertEqual(self.object(b"b/k")["next_read"], "a hit")
        self.assertIn("incomplete", self.object(b"b/part")["next_read"])
        self.stocked.clock.advance(6)
        self.assertIn("expired", self.object(b"b/short/k")["next_read"])
        self.assertEqual(self.object(b"b/short/k")["rule"], "b/short/**")
        self.assertEqual(self.object(b"b/k")["rule"], "")

    def test_a_rule_against_caching(self) -> None:
        """An entry that a newer rule keeps out is told to be passed by."""
        self.stocked.read(b"b/never/k")
        self.assertIn("read-cache-off", self.object(b"b/never/k")["next_read"])

    def test_extents_and_headers(self) -> None:
        """Where the stored bytes are, and how S3 described the object; never its bytes."""
        self.stocked.read(b"b/part", b"secret-content", total=100)
        found = self.object(b"b/part")
        self.assertEqual([(each["start"], each["stop"]) for each in found["extents"]], [(0, 14)])
        self.assertIn("Last-Modified", [name for name, _ in found["headers"]])
        self.assertNotIn("secret-content", str(found))

    def test_nothing(self) -> None:
        """None of what is not cached."""
        self.assertIsNone(self.object(b"b/none"))


class PurgeTests(BrowserCase):
    def test_one(self) -> None:
        """The next read of a removed object goes to S3, that of another does not."""
        self.stocked.read(b"b/one")
        self.stocked.read(b"b/two")
        before = self.stocked.asked()
        self.assertEqual(self.await_(self.stocked.browser.purge([an_id(b"b/one")], "192.0.2.1")), 1)
        self.assertEqual(self.stocked.read(b"b/two").header(b"x-cache"), b"HIT")
        self.assertEqual(self.stocked.asked(), before)
        self.assertEqual(self.stocked.read(b"b/one").header(b"x-cache"), b"MISS")
        self.assertEqual(self.stocked.asked(), before + 1)
        self.assertEqual(self.stocked.purged, [1])

    def test_many(self) -> None:
        """All that fit, on however many pages, and others get their turn."""
        self.patch(browse, "_PAGE", 7)
        for number in range(50):
            self.stocked.read(b"b/dir/%d" % number)
        self.stocked.read(b"b/else")
        ids = self.await_(self.stocked.browser.matching(Search(prefix="b/dir/")))
        self.assertEqual(len(set(ids)), 50)
        done = Deferred.fromCoroutine(self.stocked.browser.purge(ids, "192.0.2.1", "b/dir/"))
        self.assertNoResult(done)
        for _ in range(10):
            self.stocked.clock.advance(0)
        self.assertEqual(self.successResultOf(done), 50)
        self.assertEqual([row["key"] for row in self.objects()], ["else"])

    def test_what_came_since_the_last_look(self) -> None:
        """An order is about what is cached now, not about what the catalog has seen."""
        self.stocked.read(b"b/dir/1")
        self.objects()
        self.stocked.read(b"b/dir/2")
        ids = self.await_(self.stocked.browser.matching(Search(prefix="b/dir/")))
        self.assertEqual({id.key for id in ids}, {b"dir/1", b"dir/2"})

    def test_too_many(self) -> None:
        """An order that would take for ever is refused."""
        self.patch(browse, "MOST_PURGED", 1)
        for number in range(2):
            self.stocked.read(b"b/%d" % number)
        done = Deferred.fromCoroutine(self.stocked.browser.matching(Search(prefix="b/")))
        self.stocked.walk()
        self.assertIn("2 objects fit", str(self.failureResultOf(done, ValueError).value))


class PagesTests(BrowserCase):
    def test_all_of_them(self) -> None:
        """Whatever the size of a page, each object that fits comes once, although others go away meanwhile."""
        names = [b"b/%d" % number for number in range(7)]
        for name in (*names, b"c/x"):
            self.stocked.read(name)
        for size in (1, 2, 3, 7, 8):
            pages = Pages(self.stocked.catalog, Search(prefix="b/"), size)
            found: list[ObjectId] = []
            while ids := self.await_(pages.next()):
                self.assertLessEqual(len(ids), size)
                found += ids
            self.assertEqual((found, pages.total), ([an_id(name) for name in names], 7))
        pages = Pages(self.stocked.catalog, Search(prefix="b/"), 3)
        first = self.await_(pages.next())
        self.await_(self.stocked.browser.purge(first, "somebody"))
        self.assertEqual(self.await_(pages.next()), tuple(an_id(name) for name in names[3:6]))

    def test_names(self) -> None:
        """An object is found by its very name."""
        self.stocked.read(b"b/1")
        self.stocked.read(b"b/12")
        self.assertEqual(self.await_(self.stocked.browser.named("b/1")), [an_id(b"b/1")])
        self.assertEqual(self.await_(self.stocked.browser.named("b/")), [])
