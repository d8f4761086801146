"""Receives request bodies as S3 does: decodes aws-chunked and checks every digest that the client gave."""

import base64
import binascii

import attrs

from test.support.aws_chunked import AwsChunkedReader
from test.support.content import CHECKSUM_ALGORITHMS
from test.support.fake_messages import S3Error, S3Request
from test.support.fake_store import Body, BodyWriter

__all__ = ["Received", "receive", "receive_document"]

_STREAMING = b"STREAMING-"
_PREFIX = b"x-amz-checksum-"
DOCUMENT_LIMIT = 8 << 20


@attrs.frozen(kw_only=True)
class Received:
    """A whole body whose digests were right."""

    body: Body = attrs.field(repr=False)
    md5: bytes
    checksums: dict[str, bytes]
    """Base64 values of the algorithms that the client used, or of CRC64NVME as S3 adds it by itself."""

    @property
    def etag(self) -> bytes:
        """The digest as an entity tag."""
        return b'"%b"' % binascii.hexlify(self.md5)


def _given_checksums(request: S3Request) -> dict[str, bytes]:
    given = {}
    for name, value in request.head.headers:
        algorithm = name.lower()[len(_PREFIX) :].decode("latin-1")
        if name.lower().startswith(_PREFIX) and algorithm not in ("algorithm", "mode", "type"):
            given[algorithm] = value
    return given


async def receive(request: S3Request, default_checksum: str | None = "crc64nvme") -> Received:
    """Read the whole body and check it.

    :raises S3Error: with S3's answer to a missing length or a digest that is wrong.
    :raises SignatureError: if the chunked encoding or a signature in it is wrong.
    """
    payload = request.verified.payload if request.verified is not None else b"UNSIGNED-PAYLOAD"
    streaming = payload.startswith(_STREAMING)
    declared = request.header(b"x-amz-decoded-content-length")
    if request.raw_body.chunked and declared is None:
        message = "A header you provided implies functionality that is not implemented"
        raise S3Error(501, "NotImplemented", message, [("Header", "Transfer-Encoding")])
    if request.raw_body.length == 0 and request.header(b"content-length") is None:
        raise S3Error(411, "MissingContentLength", "You must provide the Content-Length HTTP header.")
    given = _given_checksums(request)
    trailer = (request.header(b"x-amz-trailer") or b"").strip().lower()
    wanted = set(given)
    if trailer.startswith(_PREFIX):
        wanted.add(trailer[len(_PREFIX) :].decode("latin-1"))
    unknown = sorted(wanted - set(CHECKSUM_ALGORITHMS))
    if unknown:
        raise S3Error(400, "InvalidRequest", f"Checksum algorithm {unknown[0]} is not supported here")
    if not wanted and default_checksum in CHECKSUM_ALGORITHMS and default_checksum is not None:
        wanted.add(default_checksum)
    signed_hash = len(payload) == 64
    writer = BodyWriter(sorted(wanted), sha256=signed_hash)
    if streaming:
        signed = request.verified if b"HMAC" in payload else None
        reader = AwsChunkedReader(request.raw_body, signed, payload.endswith(b"-TRAILER"))
        while piece := await reader.read():
            writer.write(piece)
        if declared is None or not declared.isdigit() or int(declared) != reader.received:
            raise S3Error(400, "IncompleteBody", "The body is not as long as x-amz-decoded-content-length says")
        if trailer:
            if list(reader.trailers) != [trailer]:
                raise S3Error(400, "MalformedTrailerError", "The trailer is not the one that x-amz-trailer names")
            given[trailer[len(_PREFIX) :].decode("latin-1")] = reader.trailers[trailer]
    else:
        while piece := await request.raw_body.read():
            writer.write(piece)
    _check(request, writer, payload if signed_hash else None, given)
    return Received(body=writer.body(), md5=writer.md5(), checksums=writer.checksums())


def _check(request: S3Request, writer: BodyWriter, sha256: bytes | None, given: dict[str, bytes]) -> None:
    if sha256 is not None and writer.sha256() != sha256:
        message = "The provided 'x-amz-content-sha256' header does not match what was computed."
        raise S3Error(400, "XAmzContentSHA256Mismatch", message)
    content_md5 = request.header(b"content-md5")
    if content_md5 is not None:
        try:
            expected = base64.b64decode(content_md5, validate=True)
        except ValueError:
            expected = b""
        if len(expected) != 16:
            raise S3Error(400, "InvalidDigest", "The Content-MD5 you specified was invalid.")
        if expected != writer.md5():
            raise S3Error(400, "BadDigest", "The Content-MD5 you specified did not match what we received.")
    computed = writer.checksums()
    for algorithm, value in given.items():
        if computed[algorithm] != value:
            message = f"The {algorithm.upper()} you specified did not match the calculated checksum."
            raise S3Error(400, "BadDigest", message)


async def receive_document(request: S3Request) -> bytes:
    """Read a body that is an XML document, with the same checks.

    :raises S3Error: also if it is larger than a document may be.
    """
    received = await receive(request, default_checksum=None)
    if received.body.size > DOCUMENT_LIMIT:
        raise S3Error(400, "MaxMessageLengthExceeded", "Your request was too big.")
    return received.body.read(0, received.body.size)
