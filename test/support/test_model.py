"""The dictionary of versions: bytes that tell whose they are, times, and what S3 says."""

from twisted.trial.unittest import SynchronousTestCase

from test.support.model import CELL, Content, History, Shape, body_of, http_date, shape_of

FIRST = Content(b"k", 1, 100)
SECOND = Content(b"k", 2, 60, (25, 25, 10))


class BytesTests(SynchronousTestCase):
    """Contents."""

    def test_every_cell_tells_where_it_is(self) -> None:
        """No two cells of any contents or places are the same."""
        cells = set()
        for number in range(5):
            body = body_of(b"k", number, 200 * CELL)
            cells.update(body[start : start + CELL] for start in range(0, len(body), CELL))
        self.assertEqual(len(cells), 1000)

    def test_equal_bytes_have_equal_tags(self) -> None:
        """An ETag belongs to the content, not to the version."""
        self.assertEqual(FIRST.etag, Content(b"k", 1, 100).etag)
        self.assertEqual(len({Content(b"k", number, 100).etag for number in range(10)}), 10)
        self.assertTrue(SECOND.etag.endswith(b'-3"'))

    def test_parts(self) -> None:
        """Parts lie behind each other; what was uploaded at once is its own only part."""
        self.assertEqual([SECOND.part(number) for number in (1, 2, 3, 4)], [(0, 25), (25, 50), (50, 60), None])
        self.assertEqual([FIRST.part(number) for number in (1, 2)], [(0, 100), None])


class HistoryTests(SynchronousTestCase):
    """Which version was current when."""

    def setUp(self) -> None:
        self.history = History(b"k")
        self.history.write(FIRST, 10, 1000.0)
        self.history.write(SECOND, 20, 2000.0)
        self.history.write(None, 30, 3000.0)

    def during(self, since: int, seconds: float, floor: int = 0) -> list[int]:
        """The indices."""
        return [version.index for version in self.history.during(since, seconds, floor)]

    def test_moments(self) -> None:
        """What ended before the moment is not among them."""
        self.assertEqual(self.during(0, float("inf")), [0, 1, 2, 3])
        self.assertEqual(self.during(10, float("inf")), [1, 2, 3])
        self.assertEqual(self.during(29, float("inf")), [2, 3])
        self.assertEqual(self.during(99, float("inf")), [3])

    def test_seconds(self) -> None:
        """What ended at that second or later is."""
        self.assertEqual(self.during(99, 2000.5), [2, 3])
        self.assertEqual(self.during(99, 2000.0), [1, 2, 3])

    def test_floor(self) -> None:
        """Nothing that a write of one's own has replaced."""
        self.assertEqual(self.during(0, 0.0, 2), [2, 3])

    def test_modified(self) -> None:
        """Versions share a second only if their bytes differ from all others of that second."""
        history = History(b"k")
        first = history.write(FIRST, 1, 0.0)
        second = history.write(SECOND, 2, 0.0, same_second=True)
        self.assertEqual(first.modified, second.modified)
        self.assertGreater(history.write(FIRST, 3, 0.0, same_second=True).modified, second.modified)


class ShapeTests(SynchronousTestCase):
    """What S3 says."""

    def setUp(self) -> None:
        self.version = History(b"k").write(SECOND, 1, 0.0)
        self.date = self.version.modified

    def check(self, status: int, span: tuple[int, int] | None = None, **fields: bytes) -> None:
        """The answer to a request with these fields."""
        named = {name.replace("_", "-").encode(): value for name, value in fields.items()}
        self.assertEqual(shape_of(self.version, named), Shape(status, span))

    def test_ranges(self) -> None:
        """RFC 9110 14, as S3 does it."""
        self.check(200)
        self.check(206, (5, 10), range=b"bytes=5-9")
        self.check(206, (5, 60), range=b"bytes=5-")
        self.check(206, (5, 60), range=b"bytes=5-100")
        self.check(206, (50, 60), range=b"bytes=-10")
        self.check(206, (0, 60), range=b"bytes=-100")
        self.check(416, range=b"bytes=60-")
        self.check(200, range=b"bytes=9-5")
        self.check(200, range=b"bytes=0-0,5-9")

    def test_conditions(self) -> None:
        """RFC 9110 13.2.2."""
        etag, earlier, then = SECOND.etag, http_date(self.date - 1), http_date(self.date)
        self.check(200, if_match=etag)
        self.check(412, if_match=b'"other"')
        self.check(200, if_match=b'"other", ' + etag, if_unmodified_since=earlier)
        self.check(412, if_unmodified_since=earlier)
        self.check(200, if_unmodified_since=then)
        self.check(304, if_none_match=etag)
        self.check(304, if_none_match=b"*")
        self.check(200, if_none_match=b'"other"', if_modified_since=then)
        self.check(304, if_modified_since=then)
        self.check(200, if_modified_since=earlier)
        self.check(206, (0, 5), range=b"bytes=0-4", if_range=etag)
        self.check(206, (0, 5), range=b"bytes=0-4", if_range=then)
        self.check(200, range=b"bytes=0-4", if_range=b'"other"')
        self.check(200, range=b"bytes=0-4", if_range=earlier)

    def test_parts(self) -> None:
        """A part is a range whose place S3 knows."""
        self.assertEqual(shape_of(self.version, {}, 2), Shape(206, (25, 50)))
        self.assertEqual(shape_of(self.version, {}, 4), Shape(416))
        self.assertEqual(shape_of(History(b"k").write(Content(b"k", 3, 0), 1, 0.0), {}, 1), Shape(200))

    def test_deleted(self) -> None:
        """Nothing is there, whatever the conditions."""
        self.assertEqual(shape_of(History(b"k").current, {b"if-match": b"*"}), Shape(404))
