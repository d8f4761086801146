"""In the middle of a body nobody has the next byte: a fetch broke off, or a range was evicted. It is asked for.

Everybody who reads the same body runs into the same gap. One of them asks S3, with its own request; the others wait for
that answer and read on from it.
"""

from s3proxy.cache.entry import ObjectId, ObjectVersion
from s3proxy.cache.following import Found
from s3proxy.cache.view import BodyReader, Coverage
from s3proxy.gateway.deliver import BodyBroken
from s3proxy.gateway.elsewhere import sought
from s3proxy.gateway.fetch import Answer, Fetch, Kind
from s3proxy.gateway.gaps import continues, fetch_span, take_up
from s3proxy.gateway.transaction import Parts, Transaction, upstream_request
from s3proxy.policy.plan import missing_spans
from s3proxy.s3.headers import CONDITIONAL_FIELDS
from s3proxy.s3.parts import PartNumber, Wanted, resolve_wanted
from s3proxy.upstream.interfaces import UpstreamError
from s3proxy.util.intervals import Interval

__all__ = ["resume"]


async def resume(
    parts: Parts, transaction: Transaction, id: ObjectId, wanted: Wanted | None, reader: BodyReader
) -> None:
    """See to it that the reader finds its next byte, of the version that it has begun with.

    :param wanted: the Range that the client asked for; None: the whole object
    :raises BodyBroken: S3 no longer has that version, or does not give it to this client
    :raises UpstreamError: S3 could not be asked
    """
    missing = await _look(parts, transaction, id, reader)
    if missing is None:
        return
    if await parts.cache.seek(id, sought(None, missing)) in (Found.NEWS, Found.AWAITED):
        missing = await _look(parts, transaction, id, reader)
        if missing is None:
            return
    asked = parts.cache.flights.asked(id)
    fetch = next((fetch for fetch in asked if fetch.resumes(reader.version, reader.position)), None)
    if fetch is not None:
        if await _wait_for(fetch, reader):
            return
        if reader.expects:
            # It was a request of the same client's, and the reader has its body although the cache does not take it.
            return
        # What S3 said to the other client was meant for that one alone, but meanwhile the bytes may be here all the
        # same.
        missing = await _look(parts, transaction, id, reader)
        if missing is None:
            return
    answer = await _ask(parts, transaction, id, wanted, reader, missing)
    if not continues(answer, reader.version, reader.position):
        if answer.fill is None:
            answer.response.abort()
        raise BodyBroken("the rest of the body is not to be had")
    take_up(parts, answer, reader)


async def _look(parts: Parts, transaction: Transaction, id: ObjectId, reader: BodyReader) -> Interval | None:
    """The bytes to ask for, from the reader's next one on; None: the cache has that one, or is getting it."""
    rest = (reader.position, reader.stop)
    parts.cache.look_again(id)
    view = await parts.cache.view(id, as_it_is=True)
    if view is None or not view.version.same_bytes(reader.version) or reader.unreadable:
        return rest
    reader.use(view)
    if view.coverage((reader.position, reader.position + 1)) is not Coverage.MISSING:
        return None
    assert transaction.settings is not None
    return missing_spans(rest, view.available(rest), transaction.settings.range_merge_gap)[0]


async def _wait_for(fetch: Fetch, reader: BodyReader) -> bool:
    """Whether another client's request brought the reader's next byte."""
    try:
        answer = await fetch.answer()
    except UpstreamError:
        return False
    if answer.kind is not Kind.STORED or not continues(answer, reader.version, reader.position):
        return False
    assert answer.fill is not None
    reader.join(answer.fill)
    return True


async def _ask(
    parts: Parts, transaction: Transaction, id: ObjectId, wanted: Wanted | None, reader: BodyReader, missing: Interval
) -> Answer:
    """The client's request once more: for what is missing alone and for this version only, as far as its signature lets
    us.
    """
    signature = transaction.signature
    # S3 refuses a Range beside a part's number.
    if signature.covers(b"range") or isinstance(wanted, PartNumber):
        fetch = _fetch_all(parts, transaction, id, wanted, reader.version)
    else:
        fetch = fetch_span(parts, transaction, id, reader.version, missing)
    try:
        return await fetch.answer()
    finally:
        fetch.owner_left()


def _fetch_all(
    parts: Parts, transaction: Transaction, id: ObjectId, wanted: Wanted | None, version: ObjectVersion
) -> Fetch:
    """All that the client asked for: its signature allows no other Range."""
    whole = (0, version.size)
    adding: tuple[tuple[bytes, bytes], ...] = ()
    if b"if-match" not in transaction.request.headers and not transaction.signature.covers(b"if-match"):
        adding = ((b"If-Match", version.etag),)
    fetch = Fetch(
        parts,
        id,
        upstream_request(transaction, parts, adding=adding, without=CONDITIONAL_FIELDS - {b"if-match"}),
        wanted=wanted,
        known=version,
        confirming=False,
        conditional=True,
        store=True,
        checksums=False,
        promised=resolve_wanted(wanted, version.size, version.parts) or whole,
    )
    fetch.begin()
    return fetch
