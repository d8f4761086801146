"""Tests for generated contents and checksums."""

import hashlib
from unittest import SkipTest

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from test.support.content import (
    BLOCK,
    CHECKSUM_ALGORITHMS,
    checksum_text,
    content,
    content_digest,
    content_pieces,
)

VALUES = {
    "crc32": b"y/Q5Jg==",
    "crc32c": b"4waSgw==",
    "crc64nvme": b"rosUhgp5mIg=",
    "sha1": b"98O8HYCOBHMq32eZZczDTKeuNEE=",
    "sha256": b"FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=",
}
"""Of the ASCII digits 1 to 9, the usual check string."""


class ContentTests(SynchronousTestCase):
    """Every byte of a content depends on seed and offset alone."""

    @given(st.integers(0, 3 * BLOCK), st.integers(0, 2 * BLOCK), st.integers(0, 2 * BLOCK))
    def test_slices_join(self, start: int, first: int, second: int) -> None:
        """Two neighbouring slices are one longer slice."""
        middle, stop = start + first, start + first + second
        self.assertEqual(content(1, start, middle) + content(1, middle, stop), content(1, start, stop))

    def test_lengths(self) -> None:
        """A slice is as long as asked, also across many blocks and far out."""
        far = 1 << 40
        self.assertEqual(len(content(1, far + 5, far + 5 + 3 * BLOCK)), 3 * BLOCK)
        self.assertEqual(content(1, 7, 7), b"")

    def test_displacement_shows(self) -> None:
        """Bytes from the wrong place, block or object are never the right ones."""
        right = content(1, 5 * BLOCK + 100, 5 * BLOCK + 200)
        for start in (5 * BLOCK + 99, 5 * BLOCK + 101, 4 * BLOCK + 100, 6 * BLOCK + 100, 100, 13 * BLOCK + 100):
            self.assertNotEqual(content(1, start, start + 100), right)
        self.assertNotEqual(content(2, 5 * BLOCK + 100, 5 * BLOCK + 200), right)

    def test_pieces_and_digest(self) -> None:
        """Pieces and digest are of the same bytes."""
        size = 2 * BLOCK + 17
        joined = b"".join(content_pieces(3, 0, size, 1000))
        self.assertEqual(joined, content(3, 0, size))
        self.assertEqual(content_digest(3, size), hashlib.sha256(joined).hexdigest())


class ChecksumTests(SynchronousTestCase):
    """Checksums have their published values, in one piece or in several."""


def _add_rows() -> None:
    for name, value in VALUES.items():

        def test(self: SynchronousTestCase, name: str = name, value: bytes = value) -> None:
            if name not in CHECKSUM_ALGORITHMS:
                raise SkipTest("awscrt is not installed")
            self.assertEqual(checksum_text(name, [b"123456789"]), value)
            self.assertEqual(checksum_text(name, [b"1234", b"", b"56789"]), value)

        setattr(ChecksumTests, f"test_{name}", test)


_add_rows()
