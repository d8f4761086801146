"""Tests of s3proxy.upstream.http1."""

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.s3.headers import Headers
from s3proxy.upstream.http1 import (
    END,
    LAST_CHUNK,
    MAX_FIELDS,
    MAX_HEAD,
    End,
    Event,
    Informational,
    ParseError,
    ResponseHead,
    ResponseParser,
    chunk,
    request_head,
)


def outcome(pieces: Sequence[bytes], method: bytes = b"GET", ended: bool = False) -> tuple[list[object], bool]:
    """The events of an answer in these pieces, body bytes joined, "error" where parsing failed; was there surplus."""
    parser = ResponseParser(method)
    events: list[Event] = []
    result: list[object] = []
    try:
        for piece in pieces:
            for event in parser.receive(piece):
                events.append(event)
        if ended:
            events.extend(parser.receive_end())
    except ParseError:
        events.append(b"")
    for event in events:
        if event == b"":
            result.append("error")
        elif isinstance(event, bytes) and result and isinstance(result[-1], bytes):
            result[-1] += event
        else:
            result.append(event)
    return result, parser.surplus


def parse(data: bytes, method: bytes = b"GET", ended: bool = False) -> list[object]:
    """The events of an answer that comes in one piece."""
    return outcome([data], method, ended)[0]


def head(data: bytes, method: bytes = b"GET") -> ResponseHead:
    """The final head in *data*."""
    found = [event for event in parse(data, method) if isinstance(event, ResponseHead)]
    assert len(found) == 1, parse(data, method)
    return found[0]


class HeadTests(SynchronousTestCase):
    """Status lines and fields."""

    def test_fields_stay_as_sent(self) -> None:
        """Names, order, repetitions and inner blanks of the values are kept."""
        event = head(b"HTTP/1.1 200 OK\r\nx-AMZ-Id-2: a  b\r\nETag:\"e\"\r\nX-amz-id-2: \t c \t\r\nEmpty:\r\n\r\n")
        pairs = [(b"x-AMZ-Id-2", b"a  b"), (b"ETag", b'"e"'), (b"X-amz-id-2", b"c"), (b"Empty", b"")]
        self.assertEqual(event.headers.pairs, tuple(pairs))
        self.assertEqual((event.status, event.reason), (200, b"OK"))

    def test_reason_may_be_missing(self) -> None:
        """A status line may lack the phrase and even the blank before it."""
        self.assertEqual(head(b"HTTP/1.1 200 \r\n\r\n").reason, b"")
        self.assertEqual(head(b"HTTP/1.1 200\r\n\r\n").reason, b"")
        self.assertEqual(head(b"HTTP/1.1 404 Not  \xe9Found\r\n\r\n").reason, b"Not  \xe9Found")

    def test_folds(self) -> None:
        """Each fold becomes one blank, and a field of nothing but folds is empty."""
        event = head(b"HTTP/1.1 200 OK\r\nA: 1\r\n  2\r\n\t3  \r\nB:\r\n \r\nC: 4\r\n\r\n")
        self.assertEqual(event.headers.pairs, ((b"A", b"1 2 3"), (b"B", b""), (b"C", b"4")))

    def test_bare_line_feeds(self) -> None:
        """A head may use LF alone, and mix it with CRLF."""
        data = b"HTTP/1.1 200 OK\nContent-Length: 2\r\nA: b\n\nhi"
        self.assertEqual(parse(data)[1:], [b"hi", END])
        self.assertEqual(head(data).headers.get(b"a"), b"b")

    def test_blank_before_colon(self) -> None:
        """Blanks between name and colon are dropped (RFC 9112 5.1)."""
        self.assertEqual(head(b"HTTP/1.1 200 OK\r\nA \t: b\r\n\r\n").headers.pairs, ((b"A", b"b"),))

    def test_interim_answers(self) -> None:
        """1xx answers come as events of their own, before the final head."""
        events = parse(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 204 No\r\n\r\n")
        self.assertEqual(events[0], Informational(100, b"Continue", Headers()))
        self.assertEqual(events[1], Informational(103, b"Early", Headers([(b"Link", b"x")])))
        self.assertIsInstance(events[2], ResponseHead)
        self.assertIs(events[3], END)


class FramingTests(SynchronousTestCase):
    """Where a body ends."""

    def test_content_length(self) -> None:
        """The body is as long as Content-Length says, and what follows is surplus."""
        events, surplus = outcome([b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP"])
        self.assertEqual(events[1:], [b"hello", END])
        self.assertTrue(surplus)

    def test_empty_body(self) -> None:
        """An answer of no bytes ends with its head."""
        events, surplus = outcome([b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"])
        self.assertIs(events[-1], END)
        self.assertFalse(surplus)

    def test_equal_lengths(self) -> None:
        """Several equal Content-Length values are one."""
        self.assertEqual(head(b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\nContent-Length: 5\r\n\r\n").length, 5)

    def test_no_body_by_nature(self) -> None:
        """HEAD, 204 and 304 have no body, whatever they claim."""
        for method, status in ((b"HEAD", 200), (b"GET", 204), (b"GET", 304)):
            data = b"HTTP/1.1 %d X\r\nContent-Length: 7\r\n\r\n" % status
            event = head(data, method)
            self.assertEqual((event.length, event.claimed_length), (0, 7))
            self.assertIs(parse(data, method)[-1], END)
            self.assertTrue(event.keep_alive)
        self.assertIs(parse(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n", b"HEAD")[-1], END)

    def test_chunks(self) -> None:
        """Chunks may have extensions, leading zeros and upper-case sizes; trailers are read and set apart."""
        parser = ResponseParser(b"GET")
        start = b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n"
        data = start + b'005;a="b"\r\nhello\r\nA \r\n0123456789\r\n0\r\nT: x\r\n\r\n'
        events = list(parser.receive(data))
        self.assertEqual(b"".join(event for event in events if isinstance(event, bytes)), b"hello0123456789")
        self.assertIs(events[-1], END)
        self.assertEqual(parser.trailers.pairs, ((b"T", b"x"),))
        assert isinstance(events[0], ResponseHead)
        self.assertEqual((events[0].length, events[0].keep_alive), (None, True))

    def test_until_the_end(self) -> None:
        """Without any framing the body lasts until the connection ends, and the connection can't be kept."""
        events = parse(b"HTTP/1.1 200 OK\r\n\r\nhello", ended=True)
        self.assertEqual(events[1:], [b"hello", END])
        assert isinstance(events[0], ResponseHead)
        self.assertEqual((events[0].length, events[0].keep_alive), (None, False))

    def test_cut_short(self) -> None:
        """An end of the connection inside a head, a counted or a chunked body is an error."""
        for data in (
            b"",
            b"HTTP/1.1 200 OK\r\nA",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        ):
            self.assertEqual(parse(data, ended=True)[-1], "error", data)

    def test_keep_alive(self) -> None:
        """HTTP/1.1 keeps the connection unless told otherwise, HTTP/1.0 only when told so."""
        for version, field, expected in (
            (b"1.1", b"X: y", True),
            (b"1.1", b"Connection: foo, Close", False),
            (b"1.0", b"X: y", False),
            (b"1.0", b"Connection: Keep-Alive", True),
            (b"1.0", b"Connection: keep-alive, close", False),
        ):
            event = head(b"HTTP/%b 200 OK\r\nContent-Length: 0\r\n%b\r\n\r\n" % (version, field))
            self.assertIs(event.keep_alive, expected, (version, field))

    def test_body_is_not_copied(self) -> None:
        """A piece that is nothing but body is given on as the object that came."""
        parser = ResponseParser(b"GET")
        list(parser.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"))
        piece = b"12345"
        self.assertIs(next(parser.receive(piece)), piece)
        self.assertFalse(parser.take_body(piece), "the last bytes must be fed, or the end would go unnoticed")
        self.assertTrue(parser.take_body(b"1234"))
        self.assertEqual(list(parser.receive(b"5")), [b"5", END])
        self.assertTrue(parser.done)


class RefusalTests(SynchronousTestCase):
    """What is no answer; one test method per row of the table below."""


_OK = b"HTTP/1.1 200 OK\r\n"
_CHUNKED = _OK + b"Transfer-Encoding: chunked\r\n\r\n"
REFUSED = {
    "tls_alert": b"\x15\x03\x01\x00\x02\x02\x0a\r\n\r\n",
    "http2_preface": b"HTTP/2 200 OK\r\n\r\n",
    "no_status": b"HTTP/1.1 OK\r\n\r\n",
    "status_of_two_digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "leading_blank_line": b"\r\nHTTP/1.1 200 OK\r\n\r\n",
    "upgrade": b"HTTP/1.1 101 Switching\r\n\r\n",
    "fold_at_once": _OK + b" A: b\r\n\r\n",
    "field_without_colon": _OK + b"Broken\r\n\r\n",
    "field_without_name": _OK + b": b\r\n\r\n",
    "name_with_blank": _OK + b"A b: c\r\n\r\n",
    "nul_in_value": _OK + b"A: b\0c\r\n\r\n",
    "cr_in_value": _OK + b"A: b\rc\r\n\r\n",
    "lengths_differ": _OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
    "length_with_sign": _OK + b"Content-Length: +5\r\n\r\n",
    "length_empty": _OK + b"Content-Length:\r\n\r\n",
    "length_of_other_digits": _OK + "Content-Length: ٥\r\n\r\n".encode(),
    "length_too_large": _OK + b"Content-Length: 1234567890123456789\r\n\r\n",
    "length_and_coding": _OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    "coding_unknown": _OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    "coding_twice": _OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n",
    "too_many_fields": _OK + b"A: b\r\n" * (MAX_FIELDS + 1) + b"\r\n",
    "head_too_long": _OK + b"A: " + b"b" * MAX_HEAD,
    "head_too_long_but_complete": _OK + b"A: " + b"b" * MAX_HEAD + b"\r\n\r\n",
    "too_many_interim": b"HTTP/1.1 100 C\r\n\r\n" * 33,
    "chunk_size_missing": _CHUNKED + b"\r\n",
    "chunk_size_no_number": _CHUNKED + b"xyz\r\n",
    "chunk_size_with_prefix": _CHUNKED + b"0x5\r\nhello\r\n",
    "chunk_size_too_large": _CHUNKED + b"1" * 16 + b"\r\n",
    "chunk_line_with_lf": _CHUNKED + b"5\nhello\r\n",
    "chunk_line_too_long": _CHUNKED + b"5;" + b"a" * 5000,
    "chunk_too_long": _CHUNKED + b"5\r\nhello!\r\n",
    "chunk_end_with_lf": _CHUNKED + b"5\r\nhello\n",
    "trailer_broken": _CHUNKED + b"0\r\nBroken\r\n\r\n",
}


def _refusal(data: bytes):  # type: ignore[no-untyped-def]
    def test(self: RefusalTests) -> None:
        self.assertEqual(parse(data)[-1], "error")
        self.assertEqual(outcome([data[at:at + 1] for at in range(len(data))])[0], parse(data))

    return test


for _name, _data in REFUSED.items():
    setattr(RefusalTests, f"test_{_name}", _refusal(_data))


ANSWERS = [
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 12\r\nA: b\r\n c\r\n\r\nhello, world",
    b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n3;x=y\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nT: u\r\n\r\nmore",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
    b"HTTP/1.0 200\r\n\r\nuntil the end",
    b"HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n",
]

PARTS = [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 C\r\n\r\n", b"\r\n", b"\n", b"\r", b";", b" x", b"A: b\r\n", b"abc"]
PARTS += [b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"3\r\n", b"0\r\n"]


class SplitTests(SynchronousTestCase):
    """Properties over all inputs."""

    @given(st.sampled_from(ANSWERS), st.lists(st.integers(0, 200)))
    def test_pieces_do_not_matter(self, data: bytes, cuts: list[int]) -> None:
        """However an answer is cut into pieces, the events are the same."""
        edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
        pieces = [data[start:stop] for start, stop in zip(edges, edges[1:])]
        self.assertEqual(outcome(pieces, ended=True), outcome([data], ended=True))

    @settings(max_examples=300)
    @given(
        st.lists(st.one_of(st.sampled_from(PARTS), st.binary(max_size=6)), max_size=14),
        st.sampled_from([b"GET", b"HEAD"]),
    )
    def test_any_bytes(self, parts: list[bytes], method: bytes) -> None:
        """No input raises anything but ParseError, and single bytes give what the whole gives."""
        data = b"".join(parts)
        single = [data[at:at + 1] for at in range(len(data))]
        self.assertEqual(outcome(single, method), outcome([data], method))


class RequestHeadTests(SynchronousTestCase):
    """What is sent."""

    def test_bytes_as_given(self) -> None:
        """Target and fields go out in their order and spelling, empty values and repetitions included."""
        pairs = [(b"hOST", b"s3:80"), (b"X-a", b"1"), (b"Content-Length", b"0"), (b"x-A", b""), (b"X-b", b"a  b")]
        self.assertEqual(
            request_head(b"GET", b"//a/../%7e?x&y=", Headers(pairs)),
            b"GET //a/../%7e?x&y= HTTP/1.1\r\nhOST: s3:80\r\nX-a: 1\r\nContent-Length: 0\r\nx-A: \r\nX-b: a  b\r\n\r\n",
        )

    def test_nothing_can_be_smuggled(self) -> None:
        """Bytes that would end a line, the target or the method are refused."""
        for method, target, pair in (
            (b"G ET", b"/", (b"A", b"b")),
            (b"", b"/", (b"A", b"b")),
            (b"GET", b"/ HTTP/1.1", (b"A", b"b")),
            (b"GET", b"/\r\nA: b", (b"A", b"b")),
            (b"GET", b"", (b"A", b"b")),
            (b"GET", b"/", (b"A", b"b\r\nC: d")),
            (b"GET", b"/", (b"A", b"b\nC: d")),
            (b"GET", b"/", (b"A", b"b\r")),
            (b"GET", b"/", (b"A\r\nC", b"b")),
            (b"GET", b"/", (b"A", b"b\0")),
        ):
            self.assertRaises(ValueError, request_head, method, target, Headers([pair]))

    def test_chunks_are_what_the_parser_reads(self) -> None:
        """The chunks we write are chunks to the parser."""
        data = b"".join((*chunk(b"hello"), *chunk(b"x" * 300), LAST_CHUNK))
        events = parse(_CHUNKED + data)
        self.assertEqual(events[1:], [b"hello" + b"x" * 300, END])
        self.assertIsInstance(events[-1], End)
