"""What a fake S3 holds: buckets, versions of objects, multipart uploads. No large body is kept in memory."""

import base64
import binascii
import hashlib
import itertools
import tempfile
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import attrs

from test.support.content import CHECKSUM_ALGORITHMS, Checksum, content, new_checksum

__all__ = [
    "Body",
    "BodyWriter",
    "Bucket",
    "BytesBody",
    "ConcatenatedBody",
    "FakeStore",
    "GeneratedBody",
    "ObjectVersion",
    "Part",
    "Upload",
    "pieces_of",
]

Pair = tuple[bytes, bytes]

IN_MEMORY = 4 << 20


class Body(Protocol):
    """The bytes of one object version."""

    size: int

    def read(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop)."""


class BytesBody:
    """A body in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def read(self, start: int, stop: int) -> bytes:
        return self._data[start:stop]


class GeneratedBody:
    """The first ``size`` bytes of ``content(seed)``; costs no memory."""

    def __init__(self, seed: int, size: int) -> None:
        self._seed = seed
        self.size = size

    def read(self, start: int, stop: int) -> bytes:
        return content(self._seed, start, min(stop, self.size))


class FileBody:
    """A large upload, in a temporary file without a name; the file is closed with the last user of this object.

    Versions may share a body and readers may outlive a version, so nobody else can say when that is.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()
        weakref.finalize(self, self._file.close)
        self.size = 0

    def append(self, data: bytes) -> None:
        """Add bytes at the end, while it is being uploaded."""
        self._file.write(data)
        self.size += len(data)

    def read(self, start: int, stop: int) -> bytes:
        self._file.seek(start)
        return self._file.read(stop - start)


class ConcatenatedBody:
    """The bodies of the parts, one after the other."""

    def __init__(self, bodies: Sequence[Body]) -> None:
        self._bodies = bodies
        self.size = sum(body.size for body in bodies)

    def read(self, start: int, stop: int) -> bytes:
        found = []
        begin = 0
        for body in self._bodies:
            end = begin + body.size
            if begin < stop and start < end:
                found.append(body.read(max(start, begin) - begin, min(stop, end) - begin))
            begin = end
        return b"".join(found)


def pieces_of(body: Body) -> Iterator[bytes]:
    """The whole body, 1 MiB at a time."""
    for start in range(0, body.size, 1 << 20):
        yield body.read(start, min(start + (1 << 20), body.size))


class BodyWriter:
    """Takes an upload as it comes: digests it, and keeps it in memory or, when large, in a temporary file."""

    def __init__(self, checksums: Sequence[str] = (), sha256: bool = False) -> None:
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._sha256 = hashlib.sha256() if sha256 else None
        self._checksums: dict[str, Checksum] = {name: new_checksum(name) for name in checksums}
        self._pieces: list[bytes] = []
        self._file: FileBody | None = None
        self.size = 0

    def write(self, data: bytes) -> None:
        """Take the next bytes."""
        self.size += len(data)
        self._md5.update(data)
        if self._sha256 is not None:
            self._sha256.update(data)
        for computation in self._checksums.values():
            computation.update(data)
        if self._file is not None:
            self._file.append(data)
            return
        self._pieces.append(data)
        if self.size > IN_MEMORY:
            self._file = FileBody()
            for piece in self._pieces:
                self._file.append(piece)
            self._pieces = []

    def body(self) -> Body:
        """What was written."""
        return BytesBody(b"".join(self._pieces)) if self._file is None else self._file

    def md5(self) -> bytes:
        """The MD5 digest."""
        return self._md5.digest()

    def sha256(self) -> bytes:
        """The SHA-256 digest in hex; only if asked for at construction."""
        return self._sha256.hexdigest().encode() if self._sha256 is not None else b""

    def checksums(self) -> dict[str, bytes]:
        """Base64 values by algorithm."""
        return {name: base64.b64encode(made.digest()) for name, made in self._checksums.items()}


@attrs.frozen(kw_only=True)
class ObjectVersion:
    """One version of one object, or a delete marker."""

    version_id: bytes
    etag: bytes
    """With its quotes."""
    last_modified: int
    """Seconds since 1970."""
    body: Body = attrs.field(repr=False)
    headers: tuple[Pair, ...] = ()
    """Content-*, Cache-Control, Expires, x-amz-meta-*, storage class and redirect as given at upload."""
    checksums: dict[str, bytes] = attrs.field(factory=dict)
    checksum_type: bytes = b"FULL_OBJECT"
    parts: tuple[int, ...] = ()
    """Sizes of the parts of a multipart upload."""
    part_checksums: tuple[dict[str, bytes], ...] = ()
    """By part, if they were uploaded with checksums."""
    delete_marker: bool = False


@attrs.frozen(kw_only=True)
class Part:
    """One uploaded part."""

    etag: bytes
    body: Body = attrs.field(repr=False)
    last_modified: int
    md5: bytes
    checksums: dict[str, bytes]


@attrs.define(kw_only=True)
class Upload:
    """A multipart upload in progress."""

    upload_id: bytes
    key: bytes
    initiated: int
    headers: tuple[Pair, ...]
    algorithm: str | None
    checksum_type: bytes
    parts: dict[int, Part] = attrs.field(factory=dict)


@attrs.define
class Bucket:
    """The versions of each key, newest last."""

    name: bytes
    versioned: bool = False
    cors: bool = False
    public: bool = False
    objects: dict[bytes, list[ObjectVersion]] = attrs.field(factory=dict)
    uploads: dict[bytes, Upload] = attrs.field(factory=dict)
    subresources: dict[tuple[bytes, bytes], bytes] = attrs.field(factory=dict)
    """XML documents by key (empty for the bucket itself) and sub-resource."""

    def current(self, key: bytes) -> ObjectVersion | None:
        """The newest version, a delete marker included."""
        versions = self.objects.get(key)
        return versions[-1] if versions else None

    def add(self, key: bytes, version: ObjectVersion) -> None:
        """Make this the newest version; without versioning it replaces all others."""
        if not self.versioned:
            self.objects[key] = [version]
        else:
            self.objects.setdefault(key, []).append(version)
        self.subresources.pop((key, b"tagging"), None)

    def listing(self) -> Iterator[tuple[bytes, ObjectVersion]]:
        """Keys in byte order with their newest versions, without deleted ones."""
        for key in sorted(self.objects):
            version = self.objects[key][-1]
            if not version.delete_marker:
                yield key, version


class FakeStore:
    """All buckets of one fake S3.

    :param now: the current time in seconds since 1970.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._numbers = itertools.count(1)
        self.buckets: dict[bytes, Bucket] = {}

    def create_bucket(
        self, name: bytes, *, versioned: bool = False, cors: bool = False, public: bool = False
    ) -> Bucket:
        """A new bucket, or the present one with these properties."""
        bucket = self.buckets.setdefault(name, Bucket(name))
        bucket.versioned, bucket.cors, bucket.public = versioned, cors, public
        return bucket

    def seconds(self) -> int:
        """The current time, as coarse as Last-Modified."""
        return int(self._now())

    def new_version_id(self, bucket: Bucket) -> bytes:
        """``null`` without versioning, else a new one."""
        return b"v%08d%b" % (next(self._numbers), uuid.uuid4().hex[:20].encode()) if bucket.versioned else b"null"

    def new_upload_id(self) -> bytes:
        """An id of the characters that S3 uses."""
        return base64.urlsafe_b64encode(uuid.uuid4().bytes + uuid.uuid4().bytes).rstrip(b"=").replace(b"-", b".")

    def put(
        self,
        bucket: Bucket,
        key: bytes,
        body: Body,
        *,
        etag: bytes | None = None,
        headers: Sequence[Pair] = (),
        checksums: dict[str, bytes] | None = None,
        checksum_type: bytes = b"FULL_OBJECT",
        parts: Sequence[int] = (),
        part_checksums: Sequence[dict[str, bytes]] = (),
        last_modified: int | None = None,
    ) -> ObjectVersion:
        """Store a new version; the ETag defaults to the MD5 digest."""
        if etag is None:
            digest = hashlib.md5(usedforsecurity=False)
            for piece in pieces_of(body):
                digest.update(piece)
            etag = b'"%b"' % digest.hexdigest().encode()
        version = ObjectVersion(
            version_id=self.new_version_id(bucket),
            etag=etag,
            last_modified=self.seconds() if last_modified is None else last_modified,
            body=body,
            headers=tuple(headers),
            checksums=checksums or {},
            checksum_type=checksum_type,
            parts=tuple(parts),
            part_checksums=tuple(part_checksums),
        )
        bucket.add(key, version)
        return version

    def put_generated(
        self, bucket: Bucket, key: bytes, seed: int, size: int, part_size: int = 8 << 20
    ) -> ObjectVersion:
        """Store ``content(seed, 0, size)`` as if uploaded in parts, without making it: its ETag is no MD5 digest."""
        sizes = [min(part_size, size - start) for start in range(0, size, part_size)] or [0]
        digest = hashlib.md5(b"%d %d" % (seed, size), usedforsecurity=False).hexdigest()
        etag = b'"%b-%d"' % (digest.encode(), len(sizes))
        return self.put(bucket, key, GeneratedBody(seed, size), etag=etag, parts=sizes)

    def delete(self, bucket: Bucket, key: bytes, version_id: bytes | None = None) -> ObjectVersion | None:
        """Remove one version, or the object; with versioning the latter adds and returns a delete marker."""
        versions = bucket.objects.get(key, [])
        if version_id is not None:
            gone = next((version for version in versions if version.version_id == version_id), None)
            if gone is not None:
                versions.remove(gone)
            if not versions:
                bucket.objects.pop(key, None)
            return gone
        if not bucket.versioned:
            bucket.objects.pop(key, None)
            return None
        marker = ObjectVersion(
            version_id=self.new_version_id(bucket),
            etag=b"",
            last_modified=self.seconds(),
            body=BytesBody(b""),
            delete_marker=True,
        )
        bucket.objects.setdefault(key, []).append(marker)
        return marker

    def complete(self, bucket: Bucket, upload: Upload, numbers: Sequence[int]) -> ObjectVersion:
        """Join the parts with these numbers into a new version."""
        parts = [upload.parts[number] for number in numbers]
        body = ConcatenatedBody([part.body for part in parts])
        digest = hashlib.md5(b"".join(part.md5 for part in parts), usedforsecurity=False).hexdigest()
        checksums = {}
        if upload.algorithm in CHECKSUM_ALGORITHMS and upload.algorithm is not None:
            computation = new_checksum(upload.algorithm)
            if upload.checksum_type == b"FULL_OBJECT":
                for piece in pieces_of(body):
                    computation.update(piece)
                checksums[upload.algorithm] = base64.b64encode(computation.digest())
            elif all(upload.algorithm in part.checksums for part in parts):
                for part in parts:
                    computation.update(binascii.a2b_base64(part.checksums[upload.algorithm]))
                checksums[upload.algorithm] = b"%b-%d" % (base64.b64encode(computation.digest()), len(parts))
        del bucket.uploads[upload.upload_id]
        return self.put(
            bucket,
            upload.key,
            body,
            etag=b'"%b-%d"' % (digest.encode(), len(parts)),
            headers=upload.headers,
            checksums=checksums,
            checksum_type=upload.checksum_type,
            parts=[part.body.size for part in parts],
            part_checksums=[part.checksums for part in parts],
        )
