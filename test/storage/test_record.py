"""Headers, footers and stamps."""

import zlib
from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.storage import record
from s3proxy.storage.errors import RecordError
from s3proxy.storage.record import BLOCK, Footer, Header

U64 = st.integers(0, (1 << 64) - 1)
U32 = st.integers(0, (1 << 32) - 1)


@st.composite
def headers(draw: st.DrawFn) -> Header:
    kind = draw(st.sampled_from([record.INLINE, record.RANGES, record.HEAD]))
    body = draw(st.integers(0, 8 << 20)) if kind == record.INLINE else 0
    return Header(
        kind=kind,
        complete=draw(st.booleans()),
        unconfirmed=draw(st.booleans()),
        validated_at=draw(U64),
        meta_length=draw(st.integers(0, record.META_MAX)),
        body_length=body,
        object_size=draw(U64),
        generation=draw(U64),
        observed_at=draw(U64),
        meta_crc=draw(U32),
        footer_length=record.footer_size(body) if kind == record.INLINE else 0,
        nonce=draw(U64),
        instance=draw(U64),
    )


HEADER = Header(
    kind=record.INLINE,
    complete=True,
    unconfirmed=False,
    validated_at=17,
    meta_length=3,
    body_length=5,
    object_size=5,
    generation=0,
    observed_at=18,
    meta_crc=1,
    footer_length=record.footer_size(5),
    nonce=9,
    instance=8,
)


class HeaderTests(SynchronousTestCase):
    """The first 128 bytes of an entry file."""

    @given(headers())
    def test_round_trip(self, header: Header) -> None:
        """What is encoded is decoded again, whatever follows it."""
        data = record.encode_header(header)
        self.assertEqual(len(data), record.HEADER_SIZE)
        self.assertEqual(record.decode_header(data + b"more"), header)

    @given(st.binary(max_size=300))
    def test_any_bytes(self, data: bytes) -> None:
        """Bytes that are no header raise RecordError and nothing else."""
        self.assertRaises(RecordError, record.decode_header, data)

    @given(headers(), st.integers(0, 127), st.integers(1, 255))
    def test_damage(self, header: Header, position: int, change: int) -> None:
        """A changed byte is noticed: as an error, or in the stamp as "never validated"; state and flags may change."""
        data = bytearray(record.encode_header(header))
        data[position] ^= change
        if position < 6 or position >= 20:
            self.assertRaises(RecordError, record.decode_header, bytes(data))
        elif position >= 8:
            self.assertEqual(record.decode_header(bytes(data)), attrs.evolve(header, validated_at=0))

    @given(headers(), st.booleans(), st.booleans(), U64)
    def test_stamp(self, header: Header, complete: bool, unconfirmed: bool, validated_at: int) -> None:
        """A stamp changes exactly state, flag and time."""
        data = bytearray(record.encode_header(header))
        stamp = record.encode_stamp(complete=complete, unconfirmed=unconfirmed, validated_at=validated_at)
        self.assertEqual(len(stamp), 14)
        data[record.STAMP_OFFSET : record.STAMP_OFFSET + len(stamp)] = stamp
        wanted = attrs.evolve(header, complete=complete, unconfirmed=unconfirmed, validated_at=validated_at)
        self.assertEqual(record.decode_header(bytes(data)), wanted)

    def test_impossible(self) -> None:
        """A header that is sound but says what can't be is refused."""
        changes: tuple[dict[str, Any], ...] = (
            {"kind": 4},
            {"kind": 0},
            {"kind": record.RANGES},
            {"footer_length": 1},
            {"meta_length": record.META_MAX + 1},
        )
        for change in changes:
            data = record.encode_header(attrs.evolve(HEADER, **change))
            self.assertRaises(RecordError, record.decode_header, data)

    def test_file_size(self) -> None:
        """The header tells how long the file is."""
        self.assertEqual(HEADER.file_size, 128 + 3 + 5 + 44)

    @given(st.floats(0, 4e9))
    def test_times(self, moment: float) -> None:
        """Times survive to the microsecond."""
        self.assertLess(abs(record.seconds(record.nanoseconds(moment)) - moment), 2e-6)

    def test_impossible_times(self) -> None:
        """A time that can't be stored counts as never."""
        self.assertEqual(record.nanoseconds(-1.0), 0)
        self.assertEqual(record.nanoseconds(1e12), 0)


class FooterTests(SynchronousTestCase):
    """What stands behind stored bytes."""

    @given(st.lists(U32, max_size=9), U64)
    def test_round_trip(self, checksums: list[int], start: int) -> None:
        """What is encoded is decoded again."""
        footer = Footer(checksums=tuple(checksums), length=len(checksums) * BLOCK, start=start)
        data = record.encode_footer(footer)
        self.assertEqual(len(data), record.footer_size(footer.length))
        self.assertEqual(record.decode_footer(data), footer)
        self.assertEqual(record.decode_trailer(data[-40:]), (footer.length, start))

    @given(st.binary(max_size=120))
    def test_any_bytes(self, data: bytes) -> None:
        """Bytes that are no footer raise RecordError and nothing else."""
        self.assertRaises(RecordError, record.decode_footer, data)
        self.assertRaises(RecordError, record.decode_trailer, data[-40:])

    @given(st.integers(0, 47), st.integers(1, 255))
    def test_damage(self, position: int, change: int) -> None:
        """A changed byte is noticed."""
        data = bytearray(record.encode_footer(Footer(checksums=(1, 2), length=BLOCK + 1, start=0)))
        data[position] ^= change
        self.assertRaises(RecordError, record.decode_footer, bytes(data))

    @given(st.lists(st.binary(max_size=70_000), max_size=6), st.integers(0, 40))
    def test_checksums(self, chunks: list[bytes], padding: int) -> None:
        """Checksums are those of blocks of 1 MiB, however the bytes arrived."""
        chunks = [*chunks, bytes(padding * 60_000)]
        checksums = record.BlockChecksums()
        for chunk in chunks:
            checksums.update(chunk)
        data = b"".join(chunks)
        wanted = tuple(zlib.crc32(data[start : start + BLOCK]) for start in range(0, len(data), BLOCK))
        self.assertEqual(checksums.result(), wanted)
        footer = Footer(checksums=wanted, length=len(data), start=0)
        for index in range(len(wanted)):
            self.assertTrue(footer.block_is_sound(index, data[index * BLOCK : (index + 1) * BLOCK]))
        self.assertFalse(footer.block_is_sound(len(wanted), b""))
