"""The head of a request, from bytes to values (RFC 9112). Nothing ambiguous gets through, for S3 might read it
differently.

Refused: lines that end in a bare LF, bare CR, blanks before the colon, folded lines, control bytes, more than one
Content-Length even if equal, Content-Length beside Transfer-Encoding, codings other than ``chunked``,
Transfer-Encoding in HTTP/1.0, more than one Host.
"""

import re

import attrs

from s3proxy.s3.errors import S3Error, header_too_large, invalid_request, invalid_uri, uri_too_long
from s3proxy.s3.headers import Headers
from s3proxy.wire.limits import WireLimits
from s3proxy.wire.reject import not_implemented, version_not_supported

__all__ = ["RequestHead", "check_partial_head", "parse_head"]

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(%s) ([\x21-\x7e]+) HTTP/(\d\.\d)\r\n" % _TOKEN)
_METHOD = re.compile(_TOKEN)
_FIELDS = re.compile(rb"(?:%s:[^\x00-\x08\x0a-\x1f\x7f]*\r\n)*" % _TOKEN)
_FIELD = re.compile(rb"(%s):([^\r]*)\r\n" % _TOKEN)
_DIGITS = re.compile(rb"[0-9]{1,19}")

_LONGEST_METHOD = 64


@attrs.frozen
class RequestHead:
    """A request line and its header fields.

    :ivar version: ``HTTP/1.1`` or ``HTTP/1.0``
    :ivar body_length: 0 without a body, None when it is chunked
    :ivar keep_alive: whether the client lets the connection be used again
    :ivar expects_continue: whether the client waits for ``100 Continue`` before it sends the body
    """

    method: bytes
    target: bytes
    version: bytes
    headers: Headers
    body_length: int | None
    keep_alive: bool
    expects_continue: bool


def check_partial_head(data: bytes | bytearray, limits: WireLimits) -> None:
    """Look at a head that is not complete yet.

    :raises S3Error: when no continuation can make it acceptable
    """
    first = _METHOD.match(data)
    method_end = first.end() if first else 0
    if method_end < len(data) and data[method_end] != 0x20 or method_end == 0 or method_end > _LONGEST_METHOD:
        raise invalid_request("What was received does not begin with an HTTP request line.")
    line_end = data.find(b"\r\n", 0, limits.target_bytes + 128)
    if line_end < 0 and len(data) > limits.target_bytes + 128:
        raise uri_too_long(limits.target_bytes)
    if data.count(b"\n") != data.count(b"\r\n"):
        raise invalid_request("A line of the request header section does not end in CRLF.")
    if len(data) > limits.head_bytes:
        raise header_too_large(limits.head_bytes)


def parse_head(data: bytes, limits: WireLimits) -> RequestHead:
    """Parse a whole head.

    :param data: everything from the request line up to the CRLF that ends the last field, without the empty line
    :raises S3Error: when it breaks the grammar, a limit, or a rule about framing
    """
    if len(data) > limits.head_bytes:
        raise header_too_large(limits.head_bytes)
    line = _REQUEST_LINE.match(data)
    if line is None:
        raise _explain_request_line(data)
    method, target, number = line.groups()
    if len(target) > limits.target_bytes:
        raise uri_too_long(limits.target_bytes)
    if len(method) > _LONGEST_METHOD:
        raise invalid_request("The request method is too long.")
    if number == b"1.1":
        version = b"HTTP/1.1"
    elif number == b"1.0":
        version = b"HTTP/1.0"
    else:
        raise version_not_supported()
    fields = data[line.end() :]
    if _FIELDS.fullmatch(fields) is None:
        raise invalid_request("A field of the request header section is malformed.")
    pairs = [(name, value.strip(b" \t")) for name, value in _FIELD.findall(fields)]
    if len(pairs) > limits.header_fields:
        raise invalid_request(f"The request has more than {limits.header_fields} header fields.")
    headers = Headers(pairs)
    if len(headers.get_all(b"host")) > 1:
        raise invalid_request("The request has more than one Host header.")
    expect = headers.get(b"expect")
    return RequestHead(
        method,
        target,
        version,
        headers,
        _body_length(headers, version),
        _keep_alive(headers, version),
        expect is not None and version == b"HTTP/1.1" and expect.lower() == b"100-continue",
    )


def _explain_request_line(data: bytes) -> S3Error:
    words = data.split(b"\r\n", 1)[0].split(b" ")
    if len(words) == 3 and _METHOD.fullmatch(words[0]) and words[2].startswith(b"HTTP/"):
        if words[1] and b"\n" not in words[1] and b"\r" not in words[1]:
            return invalid_uri()
    return invalid_request("The request line is malformed.")


def _body_length(headers: Headers, version: bytes) -> int | None:
    """Bytes of the body, None if it is chunked (RFC 9112 section 6)."""
    codings = headers.get_all(b"transfer-encoding")
    lengths = headers.get_all(b"content-length")
    if codings:
        if lengths:
            raise invalid_request("The request has both a Content-Length and a Transfer-Encoding header.")
        if version != b"HTTP/1.1":
            raise invalid_request("Transfer-Encoding is not part of HTTP/1.0.")
        if len(codings) > 1:
            raise invalid_request("The request has more than one Transfer-Encoding header.")
        if codings[0].lower() != b"chunked":
            raise not_implemented()
        return None
    if not lengths:
        return 0
    if len(lengths) > 1:
        raise invalid_request("The request has more than one Content-Length header.")
    if _DIGITS.fullmatch(lengths[0]) is None:
        raise invalid_request("The Content-Length header is not a number.")
    return int(lengths[0])


def _keep_alive(headers: Headers, version: bytes) -> bool:
    """Whether the connection outlives this exchange (RFC 9112 section 9.3)."""
    values = headers.get_all(b"connection")
    if not values:
        return version == b"HTTP/1.1"
    options = {option.strip() for option in b",".join(values).lower().split(b",")}
    if b"close" in options:
        return False
    return version == b"HTTP/1.1" or b"keep-alive" in options
