"""Where in the cache a body goes: into the entry's own file, or into range files beside it."""

from collections.abc import Callable
from typing import Any

import attrs

from s3proxy.cache.background import write_small_range
from s3proxy.cache.bodyfiles import HeldRange, IWriter
from s3proxy.cache.guard import DiskGuard
from s3proxy.storage.claims import Claim
from s3proxy.storage.disk import DiskStore
from s3proxy.storage.entry import StoredEntry
from s3proxy.util.intervals import Interval

__all__ = ["Place", "into_entry", "into_ranges"]


def _nothing() -> None:
    return None


@attrs.frozen(kw_only=True)
class Place:
    """:ivar writers: gives the writer for the bytes from an offset on; None: the body is small
    :ivar commit_small: writes and publishes the whole of a small body; promptly, or not at all (NotNow), when its
        second argument says so
    :ivar entry: the body goes into range files of this entry; None: into the entry's own
    :ivar small_ranges: which of them ``commit_small`` has published
    :ivar claim: shows other processes that these bytes are on their way
    :ivar give_up: to be called when neither was used. Idempotent; may raise OSError
    """

    writers: Callable[[int], IWriter] | None = None
    commit_small: Callable[[list[bytes], bool], Any] | None = None
    give_up: Callable[[], None] = _nothing
    entry: StoredEntry | None = None
    small_ranges: list[Interval] = attrs.field(factory=list)
    claim: Claim | None = None


def into_entry(store: DiskStore, guard: DiskGuard, lease: Any, facts: dict[str, Any], small: bool) -> Place | None:
    """A whole body into the entry's own file. None: the lease is gone, or the disk refuses."""
    if lease is None:
        return None
    if small:
        return Place(
            commit_small=lambda body, promptly: store.publish_inline(lease, body=body, promptly=promptly, **facts),
            give_up=lease.release,
        )
    writer = guard.attempt(store.start_inline, lease, **facts)
    return None if writer is None else Place(writers=lambda position: writer, give_up=writer.close)


def into_ranges(
    store: DiskStore,
    entry: StoredEntry,
    interval: Interval,
    small: bool,
    held: tuple[Interval, ...],
    claim: Claim | None = None,
) -> Place:
    """A body, or a part of one, into range files of an entry.

    :param held: the ranges that the entry has
    :param claim: to these bytes
    """
    start, stop = interval

    def open_writer(position: int) -> Any:
        limit = min(stop, position + store.cut - position % store.cut)
        for held_start, held_stop in held:
            if held_start <= position < held_stop:
                handle = store.open_range(entry, held_start, held_stop)
                # What can't be sent as it is is written once more, and dropped when it turns out to be there.
                if handle is not None and handle.seal is not None and not handle.seal.sound:
                    handle.close()
                elif handle is not None:
                    return HeldRange(handle, position, min(held_stop, stop) - position)
            elif position < held_start < limit:
                limit = held_start
        writer = store.start_range(entry, position, limit - position)
        if claim is not None:
            claim.writing(writer)
        return writer

    if small:
        found: list[Interval] = []

        def commit_small(body: list[bytes], promptly: bool) -> Any:
            return write_small_range(open_writer, start, body, promptly, found)

        return Place(commit_small=commit_small, entry=entry, small_ranges=found)
    return Place(writers=open_writer, entry=entry, claim=claim)
