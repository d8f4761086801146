"""The parts of a multipart upload, kept until it is completed, by any number of processes and in any order.

A part is one file or several, and a record that names them. The record gets its name last and replaces an older one in
the same step, so that a part is there completely or not at all, and always has the ETag that belongs to its bytes.
When the upload is completed, the files become ranges of the entry by renaming: nothing is copied. Ranges that come from
parts are at most ``cut`` bytes long like all others, but begin and end where the parts do.
"""

import os
from collections.abc import Sequence

import attrs

from s3proxy.storage.draft import Draft, directory_charges
from s3proxy.storage.entry import EntryFacts, StoredEntry
from s3proxy.storage.errors import RecordError
from s3proxy.storage.invalidation import Arm
from s3proxy.storage.layout import DIRECTORY_FOOTPRINT, EntryName, footprint, new_generation
from s3proxy.storage.part_record import StagedPart, bare_etag, decode_description, encode_description
from s3proxy.storage.part_writer import PartWriter, read_file, read_part, write_record
from s3proxy.storage.pieces import piece_charges
from s3proxy.storage.record import footer_size
from s3proxy.storage.share import Allowance, WriteShare
from s3proxy.storage.upload_names import DESCRIPTION, POISONED, draft_name, parse_record, staging_name
from s3proxy.storage.volume import Volume

__all__ = ["PartWriter", "PlacedPart", "Plan", "StagedPart", "Staging"]

MOST_PARTS = 10_000
_RECORD_CHARGE = footprint(4096)


@attrs.frozen
class PlacedPart:
    """A staged part, and the offset of its first byte in the object."""

    part: StagedPart
    start: int

    @property
    def stop(self) -> int:
        """The offset behind its last byte."""
        return self.start + self.part.size


@attrs.frozen
class Plan:
    """How an object is put together: its parts by number, each behind the one before it."""

    parts: tuple[PlacedPart, ...]

    @property
    def size(self) -> int:
        """Of the object, in bytes."""
        return self.parts[-1].stop if self.parts else 0


class Staging:
    """The parts of one upload that are on disk. Holds nothing itself: any number of these may be made and forgotten.

    Every call blocks and belongs in a thread; those of different parts don't wait for each other.
    """

    def __init__(self, volume: Volume, share: WriteShare, name: EntryName, upload_id: bytes, cut: int) -> None:
        self.name = name
        self.path = f"{volume.uploads}/{staging_name(name, upload_id)}"
        self._volume = volume
        self._share = share
        self._cut = cut

    # The object

    def describe(self, description: bytes) -> bool:
        """S3 has begun the upload: keep what its object will be described by, for whoever completes it. False: there is
        no room.

        :param description: up to 1 MiB, which :meth:`description` gives back
        :raises OSError: the disk failed, or the upload was discarded at the same moment
        """
        data = encode_description(description)
        allowance = Allowance.grant(self._share, DIRECTORY_FOOTPRINT + footprint(len(data)))
        if allowance is None:
            return False
        try:
            self._make(allowance)
            write_record(self._volume, self.path, DESCRIPTION, data)
        finally:
            allowance.close()
        return True

    def description(self) -> bytes | None:
        """What :meth:`describe` was told by whichever process; None when that is not there.

        :raises OSError: the disk failed
        """
        data = read_file(self._volume, f"{self.path}/{DESCRIPTION}")
        try:
            return None if data is None else decode_description(data)
        except RecordError:
            return None

    # Parts

    def start_part(self, number: int, size: int) -> "PartWriter | None":
        """Begin to keep a part. None: it can't fit, or the upload is poisoned: then it can't be assembled any more.

        :raises OSError: the disk failed
        """
        if not 1 <= number <= MOST_PARTS or size < 0:
            raise ValueError(f"part {number} of {size} bytes")
        volume = self._volume
        if self._is_poisoned(self.path):
            return None
        charge = DIRECTORY_FOOTPRINT + piece_charges(size, self._cut) + _RECORD_CHARGE
        allowance = Allowance.grant(self._share, charge)
        if allowance is None:
            return None
        try:
            self._make(allowance)
            return PartWriter(volume, self._share, allowance, self.name, self.path, number, size, self._cut)
        except BaseException:
            allowance.close()
            raise

    def parts(self) -> dict[int, StagedPart]:
        """Every part that is completely there, by number, in ascending order.

        :raises OSError: the disk failed
        """
        try:
            names = self._volume.calls.listdir(self.path)
        except FileNotFoundError:
            return {}
        numbers = sorted(number for text in names if (number := parse_record(text)) is not None)
        found = ((number, read_part(self._volume, self.path, number)) for number in numbers)
        return {number: part for number, part in found if part is not None}

    # The end of the upload

    def plan(self, listed: Sequence[tuple[int, bytes]]) -> Plan | None:
        """How the object of these parts is put together; changes nothing, and may be asked for while S3 still works on
        it.

        :param listed: number and ETag of each part, as the request to complete the upload lists them
        :return: None: not all of them are there with these ETags, one is listed twice, or the upload is poisoned
        :raises OSError: the disk failed
        """
        if not listed or len({number for number, _ in listed}) != len(listed) or self._is_poisoned(self.path):
            return None
        placed: list[PlacedPart] = []
        start = 0
        for number, etag in sorted(listed):
            part = read_part(self._volume, self.path, number)
            if part is None or part.etag != bare_etag(etag):
                return None
            placed.append(PlacedPart(part, start))
            start += part.size
        return Plan(tuple(placed))

    def assemble(self, arm: Arm, plan: Plan, facts: EntryFacts) -> StoredEntry | None:
        """S3 has put the object together: publish it, in one step, under the lease of ``arm``, which was taken before
        S3 was asked to. What was staged is gone afterwards, whatever comes of it.

        None: somebody else wrote, invalidated, assembled or aborted it meanwhile, a part was replaced after the plan
        was made, or there is no room; nothing is stored, and the arm has to be invalidated. An entry: the arm is over.
        The entry is one that nobody has read, whatever the facts say.

        :raises OSError: the disk failed; nothing is stored, and the arm has to be invalidated
        :raises ValueError: the facts tell another size than the plan
        """
        if facts.object_size != plan.size or arm.name != self.name:
            raise ValueError(f"{plan.size} bytes by the plan, {facts.object_size} by the facts")
        lease = arm.lease
        if lease is None or lease.revoked():
            self.discard()
            return None
        volume = self._volume
        allowance = Allowance.grant(self._share, directory_charges(plan.size))
        if allowance is None:
            self.discard()
            return None
        draft = Draft(volume, self._share, allowance, self.name, plan.size)
        entry, claimed = None, None
        try:
            claimed = self._claim()
            if claimed is not None and not self._is_poisoned(claimed):
                charge = self._move(claimed, draft, plan)
                if charge is not None:
                    entry = draft.publish(lease, attrs.evolve(facts, unread=True), charge)
        finally:
            draft.discard()
            if claimed is not None:
                volume.discard_directory(claimed, volume.uploads_shard)
            allowance.close()
        return entry

    def poison(self) -> None:
        """The upload can't be assembled any more: what is staged goes, and nothing is staged any more.

        :raises OSError: the disk failed
        """
        if self._is_poisoned(self.path):
            return
        volume, shard = self._volume, self._volume.uploads_shard
        self.discard()
        allowance = Allowance.grant(self._share, DIRECTORY_FOOTPRINT + footprint(0))
        if allowance is None:
            return
        try:
            self._make(allowance)
            with volume.ledger.changing(shard):
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
                volume.calls.close(volume.calls.open(f"{self.path}/{POISONED}", flags, 0o600))
                volume.ledger.add(shard, footprint(0))
        except (FileExistsError, FileNotFoundError):
            # Another process was quicker, or the upload has just ended.
            return
        finally:
            allowance.close()

    def discard(self) -> None:
        """The upload was aborted: all that is staged goes. Idempotent; takes some microseconds. What can't be removed
        goes when the upload expires.
        """
        self._volume.discard_directory(self.path, self._volume.uploads_shard)

    def _is_poisoned(self, path: str) -> bool:
        return self._volume.inode(f"{path}/{POISONED}") is not None

    def _make(self, allowance: Allowance) -> None:
        volume = self._volume
        with volume.ledger.changing(volume.uploads_shard):
            volume.make_directory(self.path, volume.uploads_shard)
        allowance.use(DIRECTORY_FOOTPRINT)

    def _claim(self) -> str | None:
        """Take the directory away from everybody else; None when there is none. Only one of several can succeed."""
        volume = self._volume
        text = draft_name(self.name, new_generation(volume.random), volume.instance.number)
        path = f"{volume.uploads}/{text}"
        with volume.ledger.changing(volume.uploads_shard):
            try:
                volume.calls.rename(self.path, path)
            except FileNotFoundError:
                return None
        return path

    def _move(self, claimed: str, draft: Draft, plan: Plan) -> int | None:
        """Put the files where they belong in the object; returns what they are charged with. None: not all are
        there.
        """
        volume = self._volume
        charge = 0
        with volume.ledger.changing(volume.uploads_shard):
            for placed in plan.parts:
                start = placed.start
                for file in placed.part.files:
                    path = f"{claimed}/{file.name}"
                    try:
                        status = volume.calls.stat(path)
                        size = file.length + footer_size(file.length)
                        if status.st_size != size or volume.is_doubtful(status.st_mtime):
                            return None
                        volume.calls.rename(path, draft.place(start, start + file.length))
                    except FileNotFoundError:
                        return None
                    charge += footprint(size)
                    start += file.length
        return charge
