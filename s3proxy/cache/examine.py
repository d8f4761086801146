"""Whether what is cached of an object is what S3 has: all stored bytes are read again.

===============  ============================================================================================
compared with    what that shows
===============  ============================================================================================
block checksums  the bytes are those that were written
S3's checksum    of the whole object, or of single parts: they are S3's (when S3 stated one that is known here)
the ETag         the same, where it is an MD5 of the body or of the MD5s of its parts; stores that are not
                 Amazon's may form it otherwise, so a difference is a doubt and no proof
===============  ============================================================================================

The last two need every byte of the object, or of the part.
"""

import enum
import hashlib
from collections.abc import Generator, Iterator

import attrs

from s3proxy.cache.entry import ObjectId, ObjectVersion, decode_version
from s3proxy.cache.verify import CHEAPEST_FIRST, Verifier, verifier_for
from s3proxy.s3.checksums import Checksum, decode_checksum, is_known, new_checksum
from s3proxy.s3.parts import PartMap
from s3proxy.storage.layout import entry_name
from s3proxy.storage.soundness import Stored, Unsound, open_stored
from s3proxy.storage.volume import Volume

__all__ = ["Examination", "Finding", "Verdict"]

STEP = 8 << 20
"""Bytes that are read in one step."""


class Verdict(str, enum.Enum):
    """What came of it."""

    SOUND = "sound"
    DOUBTFUL = "doubtful"
    CORRUPT = "corrupt"
    UNREADABLE = "unreadable"
    GONE = "gone"


@attrs.frozen(kw_only=True)
class Finding:
    """What is known of one object's bytes now.

    :ivar read: bytes that were read
    :ivar compared: with what they were compared, besides the blocks' checksums: ``crc64nvme``, ``md5``, ``parts`` …
    :ivar reason: why it is not sound
    """

    id: ObjectId
    verdict: Verdict
    read: int = 0
    compared: tuple[str, ...] = ()
    reason: str = ""


class _Doubt(Exception):
    """The bytes are not what the ETag says, if it says anything."""


class Examination:
    """Of one object. Every call blocks."""

    def __init__(self, volume: Volume, id: ObjectId) -> None:
        self._volume = volume
        self._id = id
        self._reading: Generator[int, None, None] | None = None
        self._read = 0
        self._compared: list[str] = []

    def step(self, limit: int = STEP) -> Finding | None:
        """Read on, about ``limit`` bytes; None: that was not all."""
        verdict, reason = Verdict.SOUND, ""
        try:
            if self._reading is None:
                self._reading = self._read_all()
            until = self._read + limit
            for count in self._reading:
                self._read += count
                if self._read >= until:
                    return None
        except FileNotFoundError:
            verdict = Verdict.GONE
        except Unsound as error:
            verdict, reason = Verdict.CORRUPT, str(error)
        except _Doubt as error:
            verdict, reason = Verdict.DOUBTFUL, str(error)
        except OSError as error:
            verdict, reason = Verdict.UNREADABLE, str(error.strerror or error)
        return Finding(
            id=self._id, verdict=verdict, read=self._read, compared=tuple(self._compared), reason=reason
        )  # fmt: skip

    def close(self) -> None:
        """End it early. Idempotent."""
        if self._reading is not None:
            self._reading.close()

    def _read_all(self) -> Generator[int, None, None]:
        stored = open_stored(self._volume, entry_name(self._id.parts))
        if stored is None:
            raise FileNotFoundError
        try:
            version = decode_version(stored.meta)
            if version is None or version.id != self._id or version.size != stored.object_size:
                raise Unsound("the description is that of another object, or of none")
            yield from self._compare(stored, version)
        finally:
            stored.close()

    def _compare(self, stored: Stored, version: ObjectVersion) -> Iterator[int]:
        whole = verifier_for(version.headers, version.etag) if _covers(stored, version.size) else None
        parts = _Parts(version)
        at = 0
        for span in stored.spans:
            place = span.start
            for data in stored.blocks(span):
                if place + len(data) > at:
                    new = data[max(0, at - place) :]
                    start = max(place, at)
                    if whole is not None:
                        whole.update(new)
                    parts.update(start, new)
                    at = start + len(new)
                place += len(data)
                yield len(data)
        self._judge(whole, parts)

    def _judge(self, whole: Verifier | None, parts: "_Parts") -> None:
        if parts.compared:
            self._compared.append("parts")
        if whole is not None:
            self._compared.append(whole.name)
            if not whole.holds():
                if whole.strict:
                    raise Unsound(f"S3's checksum ({whole.name}) of the object is another")
                raise _Doubt("the ETag is not the MD5 of the bytes")
        etag = parts.etag_holds()
        # How other stores form the ETag of an upload in parts is their own affair.
        if etag or etag is False and self._id.store.startswith("aws"):
            self._compared.append("md5 of parts")
            if not etag:
                raise _Doubt("the ETag is not that of these parts")


def _covers(stored: Stored, size: int) -> bool:
    at = 0
    for span in stored.spans:
        if span.start > at:
            return False
        at = max(at, span.stop)
    return at >= size


class _Parts:
    """Compares the parts of an object that was uploaded in parts, as its bytes come in order.

    :ivar compared: how many were
    """

    def __init__(self, version: ObjectVersion) -> None:
        self._map = _map_of(version)
        self._numbers = iter([number for run in self._map.runs for number in range(run.number, run.end)])
        self._etag = _multipart_etag(version)
        self._digests: list[bytes] = []
        self._part: tuple[int, int, int] | None = None
        self._checksum: tuple[Checksum, bytes, str] | None = None
        self._md5: Checksum | None = None
        self._at = 0
        self.compared = 0
        self._next()

    def _next(self) -> None:
        """Wait for the beginning of the next part whose bytes are known."""
        number = next(self._numbers, None)
        interval = None if number is None else self._map.interval(number)
        self._part = None if number is None or interval is None else (number, *interval)
        self._checksum = self._md5 = None

    def update(self, start: int, data: bytes) -> None:
        """More bytes, those at ``start``: behind those before, perhaps not immediately.

        :raises Unsound: a part is complete and not what S3 has
        """
        if start != self._at:
            self._checksum = self._md5 = None
        end = self._at = start + len(data)
        while self._part is not None and start < end:
            number, first, stop = self._part
            if stop <= start:
                self._next()
                continue
            if end <= first:
                return
            if start <= first:
                self._begin(number)
                data, start = data[first - start :], first
            piece = data[: stop - start]
            if self._checksum is not None:
                self._checksum[0].update(piece)
            if self._md5 is not None:
                self._md5.update(piece)
            data, start = data[len(piece) :], start + len(piece)
            if start == stop:
                self._end(number)
                self._next()

    def _begin(self, number: int) -> None:
        for name, value in self._map.checksums_of(number) or ():
            algorithm = name.lower().removeprefix(b"x-amz-checksum-")
            expected = decode_checksum(algorithm, value) if algorithm in CHEAPEST_FIRST else None
            if expected is not None and is_known(algorithm):
                self._checksum = (new_checksum(algorithm), expected, algorithm.decode("ascii"))
                break
        if self._etag is not None:
            self._md5 = new_checksum(b"md5")

    def _end(self, number: int) -> None:
        if self._checksum is not None:
            state, expected, name = self._checksum
            self.compared += 1
            if state.digest() != expected:
                raise Unsound(f"S3's checksum ({name}) of part {number} is another")
        if self._md5 is not None:
            self._digests.append(self._md5.digest())

    def etag_holds(self) -> bool | None:
        """Whether the ETag is what S3 makes of these parts; None: not all of them were there."""
        if self._etag is None:
            return None
        digest, count = self._etag
        if len(self._digests) != count or self._map.count not in (None, count):
            return None
        return hashlib.md5(b"".join(self._digests), usedforsecurity=False).hexdigest().encode("ascii") == digest


def _map_of(version: ObjectVersion) -> PartMap:
    """The parts as far as they are known; a single one is the whole."""
    if version.parts is not None and version.parts.runs:
        return version.parts
    etag = _multipart_etag(version)
    only = PartMap.of_upload([(1, version.size)]) if etag is not None and etag[1] == 1 else None
    return only or PartMap(count=None)


def _multipart_etag(version: ObjectVersion) -> tuple[bytes, int] | None:
    """Digest and number of parts of an ETag such as ``"9b2c…-3"``, where it can be computed from the bytes."""
    if version.headers.get(b"x-amz-server-side-encryption") not in (None, b"AES256"):
        return None
    digest, dash, count = version.etag.strip(b'"').partition(b"-")
    if len(digest) != 32 or not dash or not count.isdigit() or len(count) > 5:
        return None
    return digest, int(count)
