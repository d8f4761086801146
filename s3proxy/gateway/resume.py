"""In the middle of a body nobody has the next byte: a fetch broke off, or a range was evicted. The rest is asked for.

Everybody who reads the same body runs into the same gap. One of them asks S3, with its own request; the others wait for
that answer and read on from it.
"""

from s3proxy.cache.entry import ObjectId
from s3proxy.cache.view import BodyReader, Coverage
from s3proxy.gateway.deliver import BodyBroken
from s3proxy.gateway.fetch import Answer, Fetch, Kind
from s3proxy.gateway.transaction import Parts, Transaction, upstream_request
from s3proxy.s3.headers import CONDITIONAL_FIELDS
from s3proxy.s3.ranges import SingleRange, resolve
from s3proxy.upstream.interfaces import UpstreamError

__all__ = ["resume"]


async def resume(
    parts: Parts, transaction: Transaction, id: ObjectId, wanted: SingleRange | None, reader: BodyReader
) -> None:
    """See to it that the reader finds its next byte, of the version that it has begun with.

    :param wanted: the Range that the client asked for; None: the whole object
    :raises BodyBroken: S3 no longer has that version, or does not give it to this client
    :raises UpstreamError: S3 could not be asked
    """
    if await _look(parts, id, reader):
        return
    fetch = next((fetch for fetch in parts.cache.asked(id) if fetch.resumes(reader.version, reader.position)), None)
    if fetch is not None and await _wait_for(fetch, reader):
        return
    # What S3 said to the other client was meant for that one alone, but meanwhile the bytes may be here all the same.
    if fetch is not None and await _look(parts, id, reader):
        return
    answer = await _ask(parts, transaction, id, wanted, reader)
    if not _continues(answer, reader):
        if answer.fill is None:
            answer.response.abort()
        raise BodyBroken("the rest of the body is not to be had")
    if answer.fill is not None:
        reader.join(answer.fill, own=True)
        return
    assert answer.interval is not None
    fill = parts.cache.pass_through(answer.interval, answer.response)
    reader.join(fill, own=True)
    fill.begin()


async def _look(parts: Parts, id: ObjectId, reader: BodyReader) -> bool:
    """Whether the cache has the reader's next byte, or is getting it."""
    view = await parts.cache.view(id)
    if view is None or not view.version.same_bytes(reader.version) or reader.unreadable:
        return False
    reader.use(view)
    return view.coverage((reader.position, reader.position + 1)) is not Coverage.MISSING


async def _wait_for(fetch: Fetch, reader: BodyReader) -> bool:
    """Whether another client's request brought the reader's next byte."""
    try:
        answer = await fetch.answer()
    except UpstreamError:
        return False
    if answer.kind is not Kind.STORED or not _continues(answer, reader):
        return False
    assert answer.fill is not None
    reader.join(answer.fill)
    return True


def _continues(answer: Answer, reader: BodyReader) -> bool:
    """Whether the answer's body has the reader's next byte."""
    return (
        answer.version is not None
        and answer.interval is not None
        and answer.version.same_bytes(reader.version)
        and answer.interval[0] <= reader.position < answer.interval[1]
    )


async def _ask(
    parts: Parts, transaction: Transaction, id: ObjectId, wanted: SingleRange | None, reader: BodyReader
) -> Answer:
    """The client's request once more: for the rest alone and for this version only, as far as its signature lets us."""
    version = reader.version
    signature = transaction.signature
    adding: list[tuple[bytes, bytes]] = []
    if not signature.covers(b"range"):
        promised = (reader.position, reader.stop)
        adding.append((b"Range", b"bytes=%d-%d" % (reader.position, reader.stop - 1)))
    else:
        whole = (0, version.size)
        promised = whole if wanted is None else resolve(wanted, version.size) or whole
    if b"if-match" not in transaction.request.headers and not signature.covers(b"if-match"):
        adding.append((b"If-Match", version.etag))
    fetch = Fetch(
        parts,
        id,
        upstream_request(transaction, parts, adding=tuple(adding), without=CONDITIONAL_FIELDS - {b"if-match"}),
        wanted=wanted,
        known=version,
        confirming=False,
        conditional=True,
        store=True,
        checksums=False,
        promised=promised,
    )
    fetch.begin()
    try:
        return await fetch.answer()
    finally:
        fetch.owner_left()
