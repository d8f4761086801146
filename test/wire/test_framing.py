"""Where bodies end."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.s3.errors import S3Error
from s3proxy.wire.framing import BodyDecoder, ChunkedDecoder, LengthDecoder, body_decoder


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [piece for piece in [*pieces, data] if piece]


def decode(decoder: BodyDecoder, pieces: list[bytes]) -> tuple[bytes, bytes]:
    """Body and rest."""
    body = b""
    rest = b""
    for piece in pieces:
        if decoder.finished:
            rest += piece
        else:
            body += decoder.feed(piece)
            rest += decoder.rest
    return body, rest


class LengthDecoderTests(SynchronousTestCase):
    """LengthDecoder"""

    def test_rest(self) -> None:
        """What is behind the body is kept apart."""
        decoder = LengthDecoder(5)
        self.assertEqual(decoder.feed(b"ab"), b"ab")
        self.assertEqual((decoder.finished, decoder.remaining()), (False, 3))
        self.assertEqual(decoder.feed(b"cdeGET"), b"cde")
        self.assertEqual((decoder.finished, decoder.rest, decoder.remaining()), (True, b"GET", 0))


class ChunkedDecoderTests(SynchronousTestCase):
    """ChunkedDecoder"""

    @settings(deadline=None, max_examples=100, derandomize=True)
    @given(
        st.lists(st.binary(min_size=1, max_size=40), max_size=6),
        st.lists(st.integers(1, 9), max_size=60),
        st.booleans(),
        st.booleans(),
    )
    def test_any_split(self, chunks: list[bytes], sizes: list[int], extended: bool, trailed: bool) -> None:
        """However a chunked body is cut, it gives the same bytes, and the same rest."""
        extension = b';name="v;\xe9"' if extended else b""
        wire = b"".join(b"%X%s\r\n%s\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
        wire += b"0\r\n" + (b"x-amz-trailer: a\r\nb:\r\n" if trailed else b"") + b"\r\n"
        decoder = body_decoder(None)
        self.assertEqual(decode(decoder, cut(wire + b"NEXT", sizes)), (b"".join(chunks), b"NEXT"))
        self.assertTrue(decoder.finished)

    @settings(deadline=None, max_examples=200, derandomize=True)
    @given(st.lists(st.binary(min_size=1, max_size=30), max_size=6))
    def test_garbage(self, pieces: list[bytes]) -> None:
        """Garbage gives bytes or an S3Error."""
        try:
            decode(ChunkedDecoder(), pieces)
        except S3Error as error:
            self.assertEqual(error.status, 400)

    def test_one_piece_per_segment(self) -> None:
        """The chunks of one segment come out as one piece."""
        self.assertEqual(ChunkedDecoder().feed(b"1\r\na\r\n2\r\nbc\r\n3\r\nde"), b"abcde")

    def test_huge_chunk(self) -> None:
        """The largest size that fits 16 digits is only counted, never reserved."""
        decoder = ChunkedDecoder()
        self.assertEqual(decoder.feed(b"ffffffffffffffff\r\nabc"), b"abc")
        self.assertFalse(decoder.finished)

    def test_empty_extension(self) -> None:
        """A size followed by blanks or an empty extension is a size (RFC 9112 section 7.1.1, RFC 9110 BWS)."""
        self.assertEqual(ChunkedDecoder().feed(b"3 ;\r\nabc"), b"abc")


BROKEN = [
    ("not_hex", b"xyz\r\n"),
    ("empty_size", b"\r\nabc"),
    ("negative", b"-1\r\n"),
    ("prefixed", b"0x3\r\nabc\r\n"),
    ("plus", b"+3\r\nabc\r\n"),
    ("underscore", b"1_0\r\nabc\r\n"),
    ("seventeen_digits", b"00000000000000003\r\nabc\r\n"),
    ("leading_blank", b" 3\r\nabc\r\n"),
    ("bare_lf", b"3\nabc\r\n0\r\n\r\n"),
    ("bare_cr", b"3\rabc\r\n0\r\n\r\n"),
    ("lf_in_extension", b"3;a\nb\r\nabc\r\n"),
    ("nul_in_extension", b"3;a\0\r\nabc\r\n"),
    ("longer_than_said", b"3\r\nabcd\r\n"),
    ("shorter_than_said", b"5\r\nabc\r\n0\r\n\r\n"),
    ("lf_after_chunk", b"3\r\nabc\n0\r\n\r\n"),
    ("long_extension", b"3;" + b"a" * 2000),
    ("trailer_no_colon", b"0\r\nabc\r\n\r\n"),
    ("trailer_folded", b"0\r\na: b\r\n c\r\n\r\n"),
    ("trailer_too_large", b"0\r\n" + b"a: " + b"b" * 20000),
    ("trailers_too_large", b"0\r\n" + b"a: bbbbbbbbbb\r\n" * 2000),
]


class BrokenChunksTests(SynchronousTestCase):
    """Broken framing is refused, in one piece and byte by byte."""


def _broken(wire: bytes) -> "object":
    def test(self: SynchronousTestCase) -> None:
        self.assertRaises(S3Error, decode, ChunkedDecoder(), [wire])
        self.assertRaises(S3Error, decode, ChunkedDecoder(), [wire[i : i + 1] for i in range(len(wire))])

    test.__doc__ = f"{wire[:30]!r} is refused."
    return test


for _name, _wire in BROKEN:
    setattr(BrokenChunksTests, f"test_{_name}", _broken(_wire))
