"""Answers that the listener gives without asking anybody: to what is not a request, and to clients that take too long."""

import secrets
from email.utils import formatdate
from xml.sax.saxutils import escape

import attrs

__all__ = ["Rejected", "rejection"]

_REASONS = {400: b"Bad Request", 414: b"URI Too Long", 501: b"Not Implemented", 505: b"HTTP Version Not Supported"}


@attrs.frozen
class Rejected(Exception):
    """What came is no request that can be passed on. The connection is of no further use.

    :ivar code: the error code as S3 spells such codes
    """

    status: int
    code: str
    message: str


def rejection(why: Rejected, now: float) -> bytes:
    """A whole HTTP answer with an S3 error document.

    :param now: seconds since the epoch, for the Date field
    """
    request_id = secrets.token_hex(8).upper()
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{escape(why.code)}</Code><Message>{escape(why.message)}</Message>"
        f"<RequestId>{request_id}</RequestId></Error>"
    ).encode()
    return b"".join(
        (
            b"HTTP/1.1 %d %s\r\n" % (why.status, _REASONS[why.status]),
            b"x-amz-request-id: %s\r\n" % request_id.encode(),
            b"Content-Type: application/xml\r\n",
            b"Date: %s\r\n" % formatdate(now, usegmt=True).encode(),
            b"Content-Length: %d\r\n" % len(body),
            b"Connection: close\r\n\r\n",
            body,
        )
    )
