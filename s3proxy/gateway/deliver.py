"""Plays a body to the client, span by span, from wherever each span is."""

from collections.abc import Awaitable, Callable

from twisted.internet.defer import Deferred

from s3proxy.cache.spans import FileSpan, Span
from s3proxy.cache.view import BodyReader
from s3proxy.gateway.interfaces import IClientRequest

__all__ = ["BodyBroken", "Step", "deliver"]

Step = Span | Deferred[None]
"""What a reader gives: bytes, or something to wait for."""

MAX_REFETCHES = 3
"""How often in a row the rest of a body is asked for again before the answer is given up."""


class BodyBroken(Exception):
    """The rest of the body can't be had: the connection must be cut."""


async def deliver(
    request: IClientRequest,
    reader: BodyReader,
    refetch: Callable[[BodyReader], Awaitable[None]],
    first: Step | None = None,
) -> None:
    """Send every byte of the reader to the client.

    :param first: what the reader has given already
    :param refetch: asked when nobody has the next byte (evicted meanwhile, or a fetch failed): arranges that the
        reader finds it, or fails
    :raises BodyBroken: when the rest can't be had
    :raises ClientGone: when the client left
    """
    refetches = 0
    while reader.position < reader.stop:
        step = reader.next() if first is None else first
        first = None
        if step is None:
            if reader.condemned:
                raise BodyBroken("the body does not match S3's checksum")
            if refetches >= MAX_REFETCHES:
                raise BodyBroken(f"no byte at offset {reader.position} after {refetches} attempts")
            refetches += 1
            await refetch(reader)
        elif isinstance(step, Deferred):
            await step
        elif isinstance(step, FileSpan):
            try:
                await request.send_file(step.fd, step.offset, step.count, step.hot)
            except OSError as error:
                raise BodyBroken(f"a file of the cache can't be read: {error}") from error
            finally:
                step.release()
            reader.advance(step.count)
            refetches = 0
        else:
            room = request.write(bytes(step.data))
            reader.advance(step.count)
            refetches = 0
            if room is not None:
                await room
