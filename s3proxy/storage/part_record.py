"""What is kept of a multipart upload and of each of its parts, and its encoding. Pure: bytes in, values out.

A record is ``S3PU`` or ``S3PP``, the CRC-32 of the rest as u32 little endian, and the rest: what the caller wants to
have back about the upload, or a JSON document about a part, whose strings are latin-1::

    {"number": 1, "size": 5242880, "etag": "…", "note": "…", "files": [["d.…", 5242880], …]}
"""

import json
import struct
import zlib

import attrs

from s3proxy.storage.errors import RecordError
from s3proxy.storage.upload_names import is_data

__all__ = [
    "NOTE_MAX",
    "RECORD_MAX",
    "PartFile",
    "StagedPart",
    "bare_etag",
    "decode_description",
    "decode_part",
    "encode_description",
    "encode_part",
]

NOTE_MAX = 1 << 16
DESCRIPTION_MAX = 1 << 20
RECORD_MAX = 1 << 21
"""No record is longer."""
_HEAD = struct.Struct("<4sI")
_PART, _DESCRIPTION = b"S3PP", b"S3PU"


@attrs.frozen
class PartFile:
    """One of the files that have the bytes of a part, and how many."""

    name: str
    length: int


@attrs.frozen(kw_only=True)
class StagedPart:
    """A part of a multipart upload that is completely on disk.

    :ivar etag: as S3 answered it, without quotes
    :ivar note: what the caller wants to have back, for instance the checksums that S3 answered
    """

    number: int
    size: int
    etag: bytes
    note: bytes
    files: tuple[PartFile, ...]


def bare_etag(etag: bytes) -> bytes:
    """An ETag without quotes and blanks around it."""
    return etag.strip(b' \t\r\n"')


def encode_part(part: StagedPart) -> bytes:
    """The bytes of a record."""
    document = {
        "number": part.number,
        "size": part.size,
        "etag": part.etag.decode("latin-1"),
        "note": part.note.decode("latin-1"),
        "files": [[file.name, file.length] for file in part.files],
    }
    return _sealed(_PART, json.dumps(document, separators=(",", ":")).encode("ascii"))


def decode_part(data: bytes) -> StagedPart:
    """Read a record.

    :raises RecordError: it is damaged, or not one
    """
    try:
        document = json.loads(_opened(_PART, data))
        part = StagedPart(
            number=int(document["number"]),
            size=int(document["size"]),
            etag=document["etag"].encode("latin-1"),
            note=document["note"].encode("latin-1"),
            files=tuple(PartFile(str(name), int(length)) for name, length in document["files"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise RecordError("not the record of a part") from problem
    fits = sum(file.length for file in part.files) == part.size and all(file.length > 0 for file in part.files)
    if part.number < 1 or not fits or not all(is_data(file.name) for file in part.files):
        raise RecordError("the record of a part contradicts itself")
    return part


def encode_description(description: bytes) -> bytes:
    """The bytes of a record of the upload.

    :raises ValueError: it is too long
    """
    if len(description) > DESCRIPTION_MAX:
        raise ValueError(f"a description of {len(description)} bytes")
    return _sealed(_DESCRIPTION, description)


def decode_description(data: bytes) -> bytes:
    """The inverse of :func:`encode_description`.

    :raises RecordError: it is damaged, or not one
    """
    return _opened(_DESCRIPTION, data)


def _sealed(magic: bytes, body: bytes) -> bytes:
    return _HEAD.pack(magic, zlib.crc32(body)) + body


def _opened(magic: bytes, data: bytes) -> bytes:
    found, crc = _HEAD.unpack_from(data) if len(data) >= _HEAD.size else (b"", 0)
    body = data[_HEAD.size :]
    if found != magic or crc != zlib.crc32(body):
        raise RecordError("the record is damaged")
    return body
