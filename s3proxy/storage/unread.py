"""What was written through and has not been read yet, and how it leaves that state.

Each file of such an entry, and of an upload that is not finished, has the
:data:`~s3proxy.storage.files.UNREAD_BIT` until the first read.
"""

import stat

from s3proxy.storage.files import UNREAD_BIT, is_unread
from s3proxy.storage.layout import EntryName, footprint, parse_range
from s3proxy.storage.record import RANGES
from s3proxy.storage.volume import Volume

__all__ = ["mark_read"]


def mark_read(volume: Volume, name: EntryName) -> bool:
    """Somebody has read the entry: it leaves the share of what was written. Whether it had been unread.

    :raises OSError: the disk failed
    """
    with volume.lock(name):
        path = volume.entry_path(name)
        found = volume.peek(path)
        if found is None or not found.unread or not found.counted:
            return False
        if found.header is not None and found.header.kind == RANGES:
            _mark_ranges(volume, volume.generation_path(name, found.header.generation), volume.shard_of(name))
        _mark_file(volume, path, volume.shard_of(name))
        volume.bump(name)
        return True


def _mark_ranges(volume: Volume, directory: str, shard: int) -> None:
    try:
        names = volume.calls.listdir(directory)
    except FileNotFoundError:
        return
    for text in names:
        if text.isalnum():
            _mark_ranges(volume, f"{directory}/{text}", shard)
        elif parse_range(text) is not None:
            _mark_file(volume, f"{directory}/{text}", shard)


def _mark_file(volume: Volume, path: str, shard: int) -> None:
    with volume.ledger.changing(shard):
        try:
            status = volume.calls.stat(path)
            if not is_unread(status):
                return
            # What it had besides: the mark that it is used.
            volume.calls.chmod(path, stat.S_IMODE(status.st_mode) & ~UNREAD_BIT)
        except FileNotFoundError:
            return
        volume.ledger.add(shard, 0, unread=-footprint(status.st_size))
