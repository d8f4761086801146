"""A piece of a file for transports that can't have the kernel send it: TLS."""

import errno
import os
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from s3proxy.wire.pages import PageCache
from s3proxy.wire.transport import FileTruncated

__all__ = ["BLOCK", "send_span"]

BLOCK = 256 * 1024
"""Bytes read at a time. Two blocks at most are in memory: one being sent, one read ahead."""


def send_span(
    write: "Callable[[bytes], Deferred[None] | None]", fd: int, offset: int, count: int, pages: PageCache | None
) -> "Deferred[None]":
    """Write ``count`` bytes of a file from ``offset``, block by block, at the pace of the receiver.

    The descriptor must stay open until the Deferred fires.

    :param write: takes bytes; returns a Deferred that fires when there is room for more, or None if there is at once
    :param pages: reads what is not in memory in a thread; None: everything is read here and now
    :return: fails with what ``write`` fails with, :class:`FileTruncated`, or another OSError
    """
    return Deferred.fromCoroutine(_send(write, fd, offset, offset + count, pages))


async def _send(
    write: "Callable[[bytes], Deferred[None] | None]", fd: int, position: int, stop: int, pages: PageCache | None
) -> None:
    upcoming: Any = _read(pages, fd, position, stop)
    try:
        while position < stop:
            reading, upcoming = upcoming, None
            data = await reading if isinstance(reading, Deferred) else reading
            if not data:
                raise FileTruncated(errno.EIO, f"the file ends {stop - position} bytes too early")
            position += len(data)
            upcoming = _read(pages, fd, position, stop)
            room = write(data)
            if room is not None:
                await room
    finally:
        if isinstance(upcoming, Deferred):
            # The descriptor is in use until the thread has come back.
            await upcoming.addErrback(lambda _: None)


def _read(pages: PageCache | None, fd: int, position: int, stop: int) -> "bytes | Deferred[bytes]":
    count = min(BLOCK, stop - position)
    if count == 0:
        return b""
    return os.pread(fd, count, position) if pages is None else pages.read(fd, position, count)
