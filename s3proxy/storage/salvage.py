"""What a process that died was getting for an entry: what it wrote is kept, and its claim goes."""

import os

from s3proxy.storage.claims import GONE, ClaimedRange
from s3proxy.storage.handles import OpenFile
from s3proxy.storage.layout import SEGMENT, TempName, parse_temp, temp_name
from s3proxy.storage.publish import Room
from s3proxy.storage.volume import Volume
from s3proxy.storage.writer import RangeWriter, next_serial

__all__ = ["salvage"]


def salvage(volume: Volume, room: Room, claim: ClaimedRange) -> int:
    """Publish what the owner of a claim, who is dead, has written of it; returns how many bytes. Blocks.

    Several processes may do this at once: a file is one's own as soon as it has one's own name.

    :raises OSError: the disk failed; a scan finds what is left
    """
    if volume.instance.is_alive(claim.instance):
        return 0
    kept = 0
    # The ranges of a large object are in one directory for each of its segments.
    starts = [claim.start, *range((claim.start // SEGMENT + 1) * SEGMENT, claim.stop, SEGMENT)]
    for directory in dict.fromkeys(volume.range_path(claim.entry, start) for start in starts):
        try:
            names = volume.calls.listdir(directory)
        except OSError as problem:
            if problem.errno in GONE:
                continue
            raise
        for text in names:
            temp = parse_temp(text)
            if temp is None or temp.claim or temp.instance != claim.instance:
                continue
            if claim.start <= temp.start and temp.stop <= claim.stop:
                kept += _adopt(volume, room, claim, f"{directory}/{text}", temp)
    volume.unlink(f"{volume.generation_path(claim.entry.name, claim.entry.generation)}/{claim.text}")
    return kept


def _adopt(volume: Volume, room: Room, claim: ClaimedRange, path: str, temp: TempName) -> int:
    own = f"{path.rpartition('/')[0]}/{temp_name(temp.start, temp.stop, volume.instance.number, next_serial())}"
    try:
        volume.calls.rename(path, own)
        if not claim.here:
            # Of what another host wrote last, some may have got lost in the middle.
            volume.unlink(own)
            return 0
        fd = volume.calls.open(own, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as problem:
        if problem.errno in GONE:
            return 0
        raise
    file = OpenFile(volume.calls, fd)
    writer = RangeWriter(volume, room, file, own, claim.entry, temp.start, temp.stop - temp.start)
    try:
        writer.take_over()
        return writer.commit_prefix(1) or 0
    finally:
        writer.close()
