"""The footer of encoded bytes: whatever is cut off or changed, it is never taken for another one."""

import zlib

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.storage.codec import compress, decompress
from s3proxy.storage.errors import RecordError
from s3proxy.storage.footer import (
    LZ4,
    UNPLACED,
    Footer,
    decode_footer,
    decode_trailer,
    encode_footer,
    footer_size,
    trailing_footer_size,
)

BLOCK = 12


@st.composite
def footers(draw: st.DrawFn) -> Footer:
    """Of a body in small encoded blocks."""
    length = draw(st.integers(min_value=0, max_value=5 << BLOCK))
    sizes = [min(1 << BLOCK, length - start) for start in range(0, length, 1 << BLOCK)]
    return Footer(
        checksums=tuple(draw(st.integers(min_value=0, max_value=(1 << 32) - 1)) for _ in sizes),
        length=length,
        start=draw(st.sampled_from((0, 12345, UNPLACED))),
        encoding=LZ4,
        block=BLOCK,
        stored=tuple(draw(st.integers(min_value=1, max_value=size)) for size in sizes),
    )


class FooterTests(SynchronousTestCase):
    """Encoding and decoding."""

    @given(footers())
    def test_round_trip(self, footer: Footer) -> None:
        """What was encoded is decoded."""
        data = encode_footer(footer)
        self.assertEqual(len(data), footer.size)
        self.assertEqual(footer.size, footer_size(footer.length, LZ4, BLOCK))
        self.assertEqual(decode_footer(data), footer)
        self.assertEqual(decode_trailer(data[-40:]), (footer.length, footer.start))
        self.assertEqual(trailing_footer_size(b"before" + data), len(data))

    @given(footers(), st.data())
    def test_any_flip(self, footer: Footer, data: st.DataObject) -> None:
        """A changed bit anywhere is noticed."""
        encoded = bytearray(encode_footer(footer))
        bit = data.draw(st.integers(min_value=0, max_value=8 * len(encoded) - 1))
        encoded[bit // 8] ^= 1 << bit % 8
        self.assertRaises(RecordError, decode_footer, bytes(encoded))

    @given(footers(), st.data())
    def test_any_cut(self, footer: Footer, data: st.DataObject) -> None:
        """So are bytes that are missing at either end."""
        encoded = encode_footer(footer)
        cut = data.draw(st.integers(min_value=1, max_value=len(encoded)))
        self.assertRaises(RecordError, decode_footer, encoded[cut:])
        self.assertRaises(RecordError, decode_footer, encoded[:-cut])

    @given(st.binary(max_size=200))
    def test_anything(self, data: bytes) -> None:
        """Other bytes are no footer."""
        self.assertRaises(RecordError, decode_footer, data)

    def test_impossible_lengths(self) -> None:
        """A block is neither empty nor longer than it was."""
        for stored in ((0,), (101,)):
            footer = Footer(checksums=(1,), length=100, start=0, encoding=LZ4, block=BLOCK, stored=stored)
            self.assertRaises(RecordError, decode_footer, encode_footer(footer))


class BlockTests(SynchronousTestCase):
    """One block."""

    @given(st.binary(min_size=1, max_size=3000))
    def test_round_trip(self, data: bytes) -> None:
        """What was compressed is decompressed."""
        self.assertEqual(decompress(compress(data), len(data)), data)

    @given(st.binary(max_size=300), st.integers(min_value=0, max_value=1000))
    def test_anything(self, data: bytes, size: int) -> None:
        """Other bytes decode to as many as were asked for, which the checksum tells from the right ones, or not at
        all.
        """
        try:
            self.assertEqual(len(decompress(data, size)), size)
        except RecordError:
            return

    def footer_of(self, *blocks: bytes, stored: tuple[int, ...]) -> Footer:
        return Footer(
            checksums=tuple(map(zlib.crc32, blocks)),
            length=sum(map(len, blocks)),
            start=0,
            encoding=LZ4,
            block=BLOCK,
            stored=stored,
        )

    def test_stored_as_it_is(self) -> None:
        """A block whose length in the file is its own is not decoded."""
        packed = compress(bytes(4096))
        footer = self.footer_of(bytes(4096), b"short", stored=(len(packed), 5))
        self.assertEqual(footer.block_of(0, packed), bytes(4096))
        self.assertEqual(footer.block_of(1, b"short"), b"short")
        self.assertRaises(RecordError, footer.block_of, 1, b"shorx")
        self.assertRaises(RecordError, footer.block_of, 0, packed[:-1] + b"\xff")

    def test_places(self) -> None:
        """Which block has which bytes."""
        footer = self.footer_of(bytes(4096), b"short", stored=(10, 5))
        self.assertEqual((footer.span(0), footer.span(1)), ((0, 4096), (4096, 4101)))
        self.assertEqual((footer.block_at(4095), footer.block_at(4096)), (0, 1))
        self.assertEqual(footer.stored_length, 15)
