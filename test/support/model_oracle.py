"""What a client may be answered, judged by the dictionary of versions.

An answer is judged when its head is there, at every byte of its body, and at its end. Nothing here knows how the
proxy works, only what it promises: which versions may be seen, that head and bytes are of one version, that S3's
refusals count, and that an answer which looks complete is.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from test.support.model import EXTRAS, Content, Version, shape_of
from test.support.model_s3 import Exchange, ModelS3

__all__ = ["Oracle", "Reader"]

ATTEMPTS = 3
"""How often the rest of a body has to be asked for at least before an answer is given up."""
ADDED = frozenset({b"range", b"if-match", b"if-none-match", b"referer"})
"""What the proxy may add to a client's request or change in it, where the signature leaves it."""
_PRECONDITIONS = frozenset({b"if-match", b"if-unmodified-since"})
_NOT_MODIFIED = frozenset({b"if-none-match", b"if-modified-since"})


@attrs.define(eq=False, kw_only=True)
class Reader:
    """One GET or HEAD, and what it may see.

    :ivar fields: lower-case header fields
    :ivar started: the moment, and the unix seconds
    :ivar floor: the index of the version that was written through the proxy last, and acknowledged
    :ivar lifetime: seconds for which this request may be answered without asking S3; 0: S3 must be asked
    :ivar stale: seconds for which it may be answered beyond that when S3 fails
    :ivar exchanges: its own requests at S3
    :ivar version: whose answer it gets, once that is known
    :ivar expected: the body it must get, if that is known
    """

    client: Any
    key: bytes
    part: int | None
    fields: dict[bytes, bytes]
    started: tuple[int, float]
    floor: int
    lifetime: float
    stale: float
    exchanges: list[Exchange] = attrs.field(factory=list)
    version: Version | None = None
    expected: bytes | None = None

    @property
    def is_head(self) -> bool:
        """Whether no body may come."""
        return bool(self.client.method == b"HEAD")

    def __repr__(self) -> str:
        target = self.client.target.decode()
        return f"<{self.client.method.decode()} {target} {self.fields} floor={self.floor} started={self.started}>"


class Oracle:
    """Judges answers.

    :ivar problems: everything that must not have happened
    """

    def __init__(self, s3: ModelS3) -> None:
        self.problems: list[str] = []
        self._s3 = s3
        self._approvals: dict[bytes, list[tuple[bytes, float]]] = {}
        self._exchanges: dict[bytes, list[Exchange]] = {}

    def asked(self, exchange: Exchange) -> None:
        """The proxy sent a request: what the client signed is as it was, and what it did not send is not made up."""
        self._exchanges.setdefault(exchange.key, []).append(exchange)
        reader, client, request = exchange.owner, exchange.owner.client, exchange.asked.request
        if (request.method, request.target) != (client.method, client.target):
            self.problems.append(f"{request.method!r} {request.target!r} sent for {reader!r}")
        signed = _signed_names(client)
        for name in client.headers.names() | request.headers.names():
            before, after = client.headers.get_all(name), request.headers.get_all(name)
            if before == after:
                continue
            # Conditions that have held, and what concerned the cache, need not reach S3.
            may_go = not after and (name.startswith(b"if-") or name in (b"cache-control", b"pragma"))
            if name in signed or not (name in ADDED or may_go):
                self.problems.append(f"{name!r} was {before} and became {after}: {reader!r}")

    def approved(self, exchange: Exchange) -> None:
        """S3 gave somebody an answer that shows or confirms a version."""
        response = exchange.response
        if response is not None and response.status in (200, 206, 304) and response.version is not None:
            content = response.version.content
            if content is not None:
                self._approvals.setdefault(exchange.key, []).append((content.etag, exchange.sent[1]))

    # The head.

    def judge_head(self, reader: Reader) -> None:
        """The status line and the header fields are there."""
        leak = self._leak(reader)
        if leak is not None:
            self._complain(reader, leak)
            return
        own = None
        identities = reader.client.answer_headers.get_all(b"x-amz-request-id")
        if len(identities) != 1:
            self._complain(reader, f"request ids {identities}")
        elif identities[0].startswith(b"S3-"):
            number = int(identities[0][3:])
            own = next((exchange for exchange in reader.exchanges if exchange.number == number), None)
            if own is None:
                self._complain(reader, "S3's answer to somebody else")
                return
        complaint = self._as_it_should_be(reader, own)
        if complaint is not None and own is not None and own.response is not None and not own.response.truthful:
            complaint = self._as_it_came(reader, own)
        if complaint is not None:
            self._complain(reader, complaint)

    def _leak(self, reader: Reader) -> str | None:
        """A status that can only be the answer to what the proxy added."""
        status, names = reader.client.status, reader.fields.keys()
        if status == 412 and names.isdisjoint(_PRECONDITIONS):
            return "412 without a precondition"
        if status == 304 and names.isdisjoint(_NOT_MODIFIED):
            return "304 without a condition"
        if status in (206, 416) and b"range" not in names and reader.part is None:
            return f"{status} without a range"
        return None

    def _as_it_came(self, reader: Reader, own: Exchange) -> str | None:
        """S3 answered something wrong: it may be passed on as it is."""
        response = own.response
        assert response is not None
        if reader.client.status != response.status:
            return f"status {reader.client.status} where S3 said {response.status}"
        reader.version = response.version
        reader.expected = b"" if reader.is_head else response.sent
        return None

    def _as_it_should_be(self, reader: Reader, own: Exchange | None) -> str | None:
        """What is wrong with the head, given that S3 is right."""
        status = reader.client.status
        if status in (200, 206):
            return self._judge_success(reader, own)
        if own is not None and own.response is not None:
            reader.expected = own.response.sent
        if status == 304:
            reader.expected = b""
            return self._judge_not_modified(reader)
        if status in (404, 412):
            return self._judge_verdict(reader, own, status)
        if status == 416:
            return self._judge_unsatisfiable(reader)
        if status == 403 and own is not None and own.response is not None and own.response.status == 403:
            return None
        if status in (502, 504) and any(exchange.broken for exchange in reader.exchanges):
            return None
        return f"no reason for status {status}"

    def _judge_success(self, reader: Reader, own: Exchange | None) -> str | None:
        client = reader.client
        named = client.header(b"x-amz-meta-version")
        history = self._s3.histories[reader.key]
        tags = int(client.header(b"x-amz-tagging-count") or b"0")
        version = reader.version = history.labelled(named, tags)
        content = None if version is None else version.content
        if version is None or content is None:
            return f"version {named!r} with {tags} tags was never there"
        for name, value in version.fields:
            if client.answer_headers.get_all(name.lower()) != (value,):
                return f"{name.decode()} {client.answer_headers.get_all(name.lower())} is not {value.decode()}"
        if not self._may_see(reader, version):
            return f"version {version.index} is too old"
        shape = shape_of(version, reader.fields, reader.part)
        if client.status != shape.status:
            return f"status {client.status} instead of {shape.status}"
        start, stop = shape.span or (0, content.size)
        reader.expected = b"" if reader.is_head else content.body[start:stop]
        has_length = own is None or own.response is None or own.response.fault != "no-length"
        if client.length != stop - start and (client.length is not None or has_length):
            return f"Content-Length {client.length} instead of {stop - start}"
        content_range = None if shape.span is None else b"bytes %d-%d/%d" % (start, stop - 1, content.size)
        if client.header(b"content-range") != content_range:
            return f"Content-Range {client.header(b'content-range')} instead of {content_range!r}"
        return self._judge_extras(reader, content, shape.status) or self._unapproved(reader, content)

    def _judge_extras(self, reader: Reader, content: Content, status: int) -> str | None:
        """Fields that belong to some answers about a version only."""
        wanted = content.extras(status, reader.fields, reader.part)
        for name in EXTRAS:
            found = reader.client.answer_headers.get_all(name)
            if found != ((wanted[name],) if name in wanted else ()):
                return f"{name.decode()} {found} instead of {wanted.get(name)!r}"
        return None

    def _judge_not_modified(self, reader: Reader) -> str | None:
        headers = reader.client.answer_headers
        if reader.client.length not in (None, 0):
            return f"a 304 of {reader.client.length} bytes"
        for version in self._allowed(reader):
            if version.content is None or headers.get_all(b"etag") != (version.content.etag,):
                continue
            if headers.get_all(b"last-modified") != (dict(version.fields)[b"Last-Modified"],):
                continue
            if shape_of(version, reader.fields, reader.part).status == 304:
                reader.version = version
                if self._unapproved(reader, version.content) is None:
                    return None
        return "304 where no version allows it"

    def _judge_verdict(self, reader: Reader, own: Exchange | None, status: int) -> str | None:
        """A refusal that only S3 can give."""
        if own is None:
            return f"status {status} that S3 did not give"
        if any(shape_of(each, reader.fields, reader.part).status == status for each in self._asked(reader)):
            return None
        return f"status {status} where no version calls for it"

    def _judge_unsatisfiable(self, reader: Reader) -> str | None:
        total = reader.client.header(b"content-range")
        for version in self._allowed(reader):
            content = version.content
            if content is None or shape_of(version, reader.fields, reader.part).status != 416:
                continue
            if total in (None, b"bytes */%d" % content.size) and self._unapproved(reader, content) is None:
                return None
        return "416 where no version calls for it"

    # What may be seen.

    def _may_see(self, reader: Reader, version: Version) -> bool:
        """Whether the client may see this version. Of tags that were changed past the proxy nothing tells."""
        if version.index < reader.floor:
            return False
        return any((each.label, each.content) == (version.label, version.content) for each in self._allowed(reader))

    def _asked(self, reader: Reader) -> Iterator[Version]:
        """The versions that S3 may have had in mind since the request came."""
        history = self._s3.histories[reader.key]
        return history.during(reader.started[0], float("inf"), reader.floor)

    def _allowed(self, reader: Reader) -> Iterator[Version]:
        """The versions that the client may see."""
        history = self._s3.histories[reader.key]
        return history.during(reader.started[0], self._since(reader), reader.floor)

    def _since(self, reader: Reader) -> float:
        """How old in unix seconds what S3 said may be; infinity: S3 must have been asked for this reader."""
        if reader.lifetime <= 0:
            return float("inf")
        beyond = 0.0
        if reader.stale and reader.client.header(b"x-cache") == b"STALE" and any(map(_failed, reader.exchanges)):
            beyond = reader.stale
        return reader.started[1] - reader.lifetime - beyond

    def _unapproved(self, reader: Reader, content: Content) -> str | None:
        """What is wrong if S3 said to nobody, or not to this reader where it must, that these bytes may be had."""
        since = self._since(reader)
        for etag, sent in self._approvals.get(reader.key, ()):
            if etag == content.etag and sent >= since:
                return None
        for exchange in reader.exchanges:
            response = exchange.response
            if exchange.answered and response is not None and response.status in (200, 206, 304, 416):
                version = response.version
                if version is not None and version.content is not None and version.content.etag == content.etag:
                    return None
        return "S3 did not allow it"

    # The body and the end.

    def judge_bytes(self, reader: Reader, before: int, data: bytes) -> None:
        """More of the body has come, behind as many bytes as ``before`` says."""
        expected = reader.expected
        if expected is not None and expected[before : before + len(data)] != data:
            at = next((i for i, (a, b) in enumerate(zip(expected[before:], data)) if a != b), len(expected) - before)
            self._complain(reader, f"wrong byte at {before + at}: {data[at : at + 40]!r}")

    def judge_end(self, reader: Reader) -> None:
        """The answer is over, one way or the other."""
        client = reader.client
        if client.ended == "finished":
            if reader.expected is not None and client.answer != reader.expected and not reader.is_head:
                self._complain(reader, f"complete with {len(client.answer)} of {len(reader.expected)} bytes")
        elif client.ended == "aborted" and not self._reasons_to_cut(reader):
            self._complain(reader, f"cut at {len(client.answer)} without a reason")

    def _reasons_to_cut(self, reader: Reader) -> bool:
        """Whether S3 did not give the rest to this reader, or broke off again and again whoever asked."""
        broken = [each for each in self._exchanges.get(reader.key, ()) if each.broken and each.sent > reader.started]
        return len(broken) >= ATTEMPTS or any(
            _failed(exchange)
            or exchange.response is None
            or exchange.response.fault is not None
            or not exchange.response.truthful
            or exchange.response.status >= 400
            or not _same(exchange.response.version, reader.version)
            for exchange in reader.exchanges
        )

    def _complain(self, reader: Reader, text: str) -> None:
        client = reader.client
        cache = client.header(b"x-cache")
        self.problems.append(
            f"{text}: {reader!r} got {client.status}, X-Cache {cache!r}, version "
            f"{None if reader.version is None else reader.version.index}; at S3: {_told(reader.exchanges)}"
        )


def _failed(exchange: Exchange) -> bool:
    return exchange.broken or (exchange.response is not None and exchange.response.status >= 500)


def _same(one: Version | None, other: Version | None) -> bool:
    if one is None or other is None or one.content is None or other.content is None:
        return False
    return one.content.etag == other.content.etag


def _told(exchanges: Iterable[Exchange]) -> str:
    texts = []
    for exchange in exchanges:
        response = exchange.response
        what = "-" if response is None else f"{response.status} v{getattr(response.version, 'index', None)}"
        texts.append(f"#{exchange.number} {exchange.fields} {what} {getattr(response, 'fault', None)}")
    return "; ".join(texts) or "nothing"


def _signed_names(client: Any) -> frozenset[bytes]:
    """The lower-case names of the fields that the client's signature covers."""
    authorization = client.headers.get(b"authorization") or b""
    listed = authorization.partition(b"SignedHeaders=")[2].partition(b",")[0]
    if not listed:
        listed = client.target.partition(b"X-Amz-SignedHeaders=")[2].partition(b"&")[0].replace(b"%3B", b";")
    return frozenset(listed.split(b";")) if listed else frozenset()
