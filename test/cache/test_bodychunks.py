"""Pieces of a body in memory."""

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.cache.bodychunks import BodyChunks


class BodyChunksTests(SynchronousTestCase):
    """Three pieces, of which the first begins at offset 10."""

    def setUp(self) -> None:
        self.chunks = BodyChunks()
        for offset, data in ((10, b"abc"), (13, b"d"), (14, b"efgh")):
            self.chunks.append(offset, data)

    def read(self, position: int, stop: int) -> bytes | None:
        span = self.chunks.span(position, stop)
        return None if span is None else bytes(span.data)

    def test_spans(self) -> None:
        """A span is of one piece, and ends where it has to."""
        self.assertEqual([self.read(at, 17) for at in (10, 12, 13, 14, 16)], [b"abc", b"c", b"d", b"efg", b"g"])
        self.assertEqual([self.read(at, 99) for at in (9, 18)], [None, None])

    def test_what_was_read_goes(self) -> None:
        """A piece goes when every reader has all of it."""
        self.assertEqual([self.chunks.drop_read(slowest) for slowest in (10, 12, 14, 15)], [0, 0, 4, 0])
        self.assertEqual((self.chunks.first, self.chunks.all()), (14, [b"efgh"]))
        self.assertIsNone(self.read(13, 99))
        self.assertEqual(self.chunks.drop_read(18), 4)
        self.assertIsNone(self.chunks.first)

    def test_all_goes(self) -> None:
        """Or everything at once."""
        self.chunks.clear()
        self.assertEqual((self.chunks.first, self.chunks.all(), self.read(10, 99)), (None, [], None))
