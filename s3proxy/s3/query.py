"""Percent-encoding and query strings, on bytes, the way S3 reads them.

Nothing here changes what is sent upstream: the raw request target goes there. These functions only say what it means.
"""

import re
from binascii import unhexlify

__all__ = ["percent_decode", "percent_decode_strictly", "query_params"]

_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def percent_decode(data: bytes) -> bytes:
    """The data with every ``%XX`` replaced by its byte, once; a ``%`` that starts no escape stays. ``+`` stays a
    plus.
    """
    if b"%" not in data:
        return data
    return _ESCAPE.sub(lambda match: unhexlify(match[1]), data)


def percent_decode_strictly(data: bytes) -> bytes | None:
    """Like :func:`percent_decode`, but None when a ``%`` starts no escape, so that no two meanings share one result."""
    if b"%" not in data:
        return data
    if _BAD_ESCAPE.search(data) is not None:
        return None
    return _ESCAPE.sub(lambda match: unhexlify(match[1]), data)


def query_params(query: bytes | None) -> tuple[tuple[bytes, bytes | None], ...]:
    """The parameters of a raw query string, in order, repeated ones included.

    Only ``&`` separates. Names and values are percent-decoded once, so that ``%70artNumber`` can't hide an operation; a
    plus stays a plus. A parameter without ``=`` has the value None; empty pieces (``a&&b``) are no parameters.
    """
    if not query:
        return ()
    params: list[tuple[bytes, bytes | None]] = []
    for piece in query.split(b"&"):
        if piece:
            name, equals, value = piece.partition(b"=")
            params.append((percent_decode(name), percent_decode(value) if equals else None))
    return tuple(params)
