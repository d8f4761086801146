"""Answers that the listener gives without asking anybody: to what is not a request, and to clients that take too
long.
"""

import secrets
from email.utils import formatdate

from s3proxy.s3.errors import CONTENT_TYPE, S3Error, render

__all__ = ["not_implemented", "rejection", "version_not_supported"]

_REASONS = {
    400: b"Bad Request",
    414: b"URI Too Long",
    431: b"Request Header Fields Too Large",
    501: b"Not Implemented",
    505: b"HTTP Version Not Supported",
}


def not_implemented() -> S3Error:
    """501: a transfer coding other than chunked, in S3's words."""
    return S3Error(501, "NotImplemented", "A header you provided implies functionality that is not implemented.")


def version_not_supported() -> S3Error:
    """505: neither HTTP/1.1 nor HTTP/1.0."""
    return S3Error(505, "HTTPVersionNotSupported", "Only HTTP/1.1 and HTTP/1.0 are supported.")


def rejection(error: S3Error, target: bytes, now: float) -> bytes:
    """A whole HTTP answer with an S3 error document, and the last one on its connection.

    :param target: the request target, as far as it is known
    :param now: seconds since the epoch, for the Date field
    """
    request_id = secrets.token_hex(8).upper()
    body = render(error, request_id, target)
    return b"".join(
        (
            b"HTTP/1.1 %d %s\r\n" % (error.status, _REASONS[error.status]),
            b"x-amz-request-id: %s\r\n" % request_id.encode("ascii"),
            b"Content-Type: %s\r\n" % CONTENT_TYPE,
            b"Date: %s\r\n" % formatdate(now, usegmt=True).encode("ascii"),
            b"Content-Length: %d\r\n" % len(body),
            b"Connection: close\r\n\r\n",
            body,
        )
    )
