"""Reading in whole pages: what S3 is asked for instead of a small range. Pure.

Page ``i`` of an object is ``[i * P, (i + 1) * P)``; the last one ends with the object. A client that reads here and
there in small pieces, as readers of columnar files do, finds what lies around its first piece in the cache. The price
is that a read of 4 KiB may fetch a page of 16 MiB, so only a rule switches it on.
"""

from enum import Enum

import attrs

from s3proxy.policy.rules import Settings
from s3proxy.s3.ranges import ContentRange, From, FromTo, SingleRange, Suffix, resolve
from s3proxy.util.intervals import Interval

__all__ = ["AsItIs", "Widened", "client_interval", "pages_of", "widen"]


class AsItIs(Enum):
    """Why a range is not widened.

    OFF: no rule asks for it. NOT_SMALL: it is not shorter than a page, or there is none. UNKNOWN: how long it is
    depends on the object's size, which is not known; or no byte of the object is in it. SIGNED: the signature covers
    the Range field, and there was no other reason.
    """

    OFF = "off"
    NOT_SMALL = "not-small"
    UNKNOWN = "unknown"
    SIGNED = "signed"


@attrs.frozen
class Widened:
    """What is read instead.

    :ivar ask: the range that S3 is asked for
    :ivar pages: those it consists of, in order; empty for a suffix of an object of unknown size, of which S3's answer
        tells where it lies
    """

    ask: FromTo | Suffix
    pages: tuple[Interval, ...] = ()


def pages_of(interval: Interval, page_size: int, size: int | None) -> tuple[Interval, ...]:
    """The pages that hold the bytes of a non-empty interval.

    :param size: of the object, to which the last page is cut; None: not known, and S3 will cut it
    """
    first, last = interval[0] // page_size, (interval[1] - 1) // page_size
    found = []
    for number in range(first, last + 1):
        start, stop = number * page_size, (number + 1) * page_size
        found.append((start, stop if size is None else min(stop, size)))
    return tuple(found)


def widen(settings: Settings, wanted: SingleRange | None, size: int | None, *, range_signed: bool) -> Widened | AsItIs:
    """What to read for the Range of a GET that names no part.

    :param size: of the current version, as far as it is known
    :param range_signed: whether the client's signature covers the Range field, which must reach S3 unchanged then
    """
    if not settings.page_widening:
        return AsItIs.OFF
    if wanted is None:
        return AsItIs.NOT_SMALL
    page_size = settings.page_size
    if size is not None:
        interval = resolve(wanted, size)
        if interval is None:
            return AsItIs.UNKNOWN
    elif isinstance(wanted, FromTo):
        interval = (wanted.first, wanted.last + 1)
    elif isinstance(wanted, From):
        return AsItIs.UNKNOWN
    else:
        interval = (0, wanted.length)
    if interval[1] - interval[0] >= page_size:
        return AsItIs.NOT_SMALL
    if range_signed:
        return AsItIs.SIGNED
    if size is None and isinstance(wanted, Suffix):
        return Widened(Suffix(page_size))
    pages = pages_of(interval, page_size, size)
    return Widened(FromTo(pages[0][0], pages[-1][1] - 1), pages)


def client_interval(wanted: SingleRange, answered: ContentRange) -> Interval | None:
    """The bytes of S3's answer to a widened range that the client asked for; None if they are not all in it.

    The client's own range decides, for the size that S3 says: its end may lie behind the object's.
    """
    if answered.size is not None:
        interval = resolve(wanted, answered.size)
    elif isinstance(wanted, FromTo):
        interval = (wanted.first, wanted.last + 1)
    else:
        interval = None
    if interval is None or interval[0] < answered.start or interval[1] > answered.stop:
        return None
    return interval
