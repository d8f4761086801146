"""How a client sends the bytes of an upload: framing, Amazon's chunks, checksums; and what S3 makes of it."""

import base64
import hashlib
import zlib

import attrs

from s3proxy.s3.checksums import new_checksum

__all__ = ["CODINGS", "FALSE_CODINGS", "Coded", "code"]

CODINGS = ("plain", "framed", "md5", "crc32", "sha256", "signed", "signed-trailer", "trailer", "two-encodings")
"""Every way that clients take. ``framed``: the length is not announced."""
FALSE_CODINGS = ("wrong-md5", "wrong-crc32", "wrong-trailer", "odd-trailer", "wrong-length", "broken")
"""Of these S3 refuses what contradicts itself; other stores take what they do not check. ``odd-trailer``: nothing had
announced it. ``broken``: the last chunk is missing.
"""
_UNCHECKED = frozenset({"wrong-md5", "wrong-crc32", "wrong-trailer", "odd-trailer"})
CHUNK = 4000
_SIGNATURE = b";chunk-signature=" + b"0123456789abcdef" * 4


@attrs.frozen
class Coded:
    """:ivar wire: the body as it is sent
    :ivar announced: whether the head says how long that is
    :ivar truthful: whether nothing in it contradicts anything else
    :ivar decodable: whether a store that checks nothing can make an object of it
    """

    headers: dict[bytes, bytes]
    wire: bytes
    announced: bool = True
    truthful: bool = True
    decodable: bool = True


def code(coding: str, body: bytes) -> Coded:
    """These bytes in one of the ``CODINGS`` or ``FALSE_CODINGS``."""
    truthful = coding not in FALSE_CODINGS
    if coding in ("signed", "signed-trailer", "trailer", "wrong-trailer", "odd-trailer", "wrong-length", "broken"):
        headers, wire = _chunked(coding, body)
    elif coding == "two-encodings":
        headers, wire = _chunked("signed", body)
        headers[b"Content-Encoding"] = b"aws-chunked"
    else:
        headers, wire = _checked(coding.removeprefix("wrong-"), body if truthful else body + b"?"), body
    announced = coding != "framed"
    if announced:
        headers[b"Content-Length"] = b"%d" % len(wire)
    else:
        headers[b"Transfer-Encoding"] = b"chunked"
    return Coded(headers, wire, announced, truthful, truthful or coding in _UNCHECKED)


def _checked(coding: str, body: bytes) -> dict[bytes, bytes]:
    if coding == "md5":
        return {b"Content-MD5": base64.b64encode(hashlib.md5(body).digest())}
    if coding == "crc32":
        return {b"x-amz-checksum-crc32": _crc32(body)}
    if coding == "sha256":
        return {b"x-amz-content-sha256": hashlib.sha256(body).hexdigest().encode("ascii")}
    return {b"x-amz-content-sha256": b"UNSIGNED-PAYLOAD"}


def _crc32(body: bytes) -> bytes:
    return base64.b64encode(zlib.crc32(body).to_bytes(4, "big"))


def _chunked(coding: str, body: bytes) -> tuple[dict[bytes, bytes], bytes]:
    signed = coding.startswith("signed")
    extension = _SIGNATURE if signed else b""
    chunks = [body[start : start + CHUNK] for start in range(0, len(body), CHUNK)]
    wire = b"".join(b"%x%s\r\n%s\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    if coding == "broken":
        wire = wire[:-3] if wire else b"0\r\n"
    else:
        wire += b"0%s\r\n" % extension
    headers = {b"x-amz-decoded-content-length": b"%d" % (len(body) + (coding == "wrong-length"))}
    kind = b"STREAMING-AWS4-HMAC-SHA256-PAYLOAD" if signed else b"STREAMING-UNSIGNED-PAYLOAD-TRAILER"
    if coding == "signed-trailer":
        checksum = new_checksum(b"sha256")
        checksum.update(body)
        wire += b"x-amz-checksum-sha256:%s\r\n" % base64.b64encode(checksum.digest())
        wire += b"x-amz-trailer-signature:" + b"f" * 64 + b"\r\n"
        headers[b"x-amz-trailer"] = b"x-amz-checksum-sha256"
        kind += b"-TRAILER"
    elif not signed:
        wire += b"x-amz-checksum-crc32:%s\r\n" % _crc32(body + (b"?" if coding.endswith("-trailer") else b""))
        if coding != "odd-trailer":
            headers[b"x-amz-trailer"] = b"x-amz-checksum-crc32"
    if coding != "broken":
        wire += b"\r\n"
    headers[b"x-amz-content-sha256"] = kind
    return headers, wire
