"""The fast lane: hits that are answered at once, out of memory, with one write.

The lane takes only what it can answer completely: a GET or HEAD whose object has a fresh entry in memory, with its body
unless that is not asked for. Anything else goes the way of all requests (:mod:`s3proxy.gateway.pipeline`). Both ways
give the same answer, byte for byte but for the request id; gate, look-up, head and exit are those of the other way,
too.
"""

from collections.abc import Callable
from email.utils import formatdate
from typing import NamedTuple

import attrs

from s3proxy.cache.entry import ObjectId
from s3proxy.cache.index import Record
from s3proxy.cache.manager import CacheManager
from s3proxy.gateway.answers import entry_headers, new_request_id
from s3proxy.policy.freshness import may_serve
from s3proxy.policy.rules import Rules, Settings
from s3proxy.policy.verdicts import Outcome, Reason
from s3proxy.s3.address import locate
from s3proxy.s3.errors import S3Error
from s3proxy.s3.headers import Headers
from s3proxy.s3.operation import Operation, classify
from s3proxy.s3.ranges import InvalidRange, MultiRange, parse_range, resolve
from s3proxy.s3.target import parse_target
from s3proxy.telemetry.record import RequestRecord
from s3proxy.util.intervals import Interval

__all__ = ["Glance", "Lane"]

MOST_TARGETS = 10_000
"""Targets whose meaning is remembered."""
MOST_HEADS = 4
"""Heads of answers that are kept for one object."""
NOTE_INTERVAL = 1.0
"""Seconds after which the use of an entry is noted again."""

_NO_ID = "0" * 16


class Glance(NamedTuple):
    """An ordinary read request: no body, no condition, no field that is not here or without consequence.

    :ivar access_key: of a signature in the header; None without one
    """

    method: bytes
    target: bytes
    host: bytes
    wanted: bytes | None
    checksums: bool
    access_key: bytes | None
    user_agent: bytes
    referer: bytes


class _Head(NamedTuple):
    """An answer's head in four pieces: between them belong the request id, the date and the age."""

    status: int
    before_id: bytes
    before_date: bytes
    before_age: bytes
    rest: bytes
    interval: Interval
    served_range: str


@attrs.define
class _Meaning:
    """What a Host and a target mean, and the heads that were made for the record that was found last.

    :ivar mark: tells that record from others without keeping it, and its body, in memory
    """

    id: ObjectId
    settings: Settings
    mark: tuple[int, int] | None = None
    heads: "dict[tuple[bytes | None, bool], _Head | None]" = attrs.field(factory=dict)
    noted_at: float = 0.0


class Lane:
    """Answers hits.

    :param seconds: the clock of the records' durations
    :param now: unix seconds
    :param started: called for every request that the lane answers
    :param finished: the exit: gets its closed record
    :ivar answered: requests so far
    """

    def __init__(
        self,
        cache: CacheManager,
        rules: Rules,
        *,
        seconds: Callable[[], float],
        now: Callable[[], float],
        started: Callable[[], None],
        finished: Callable[[RequestRecord], None],
        instance: str = "",
        base_domains: tuple[str, ...] = (),
    ) -> None:
        self.answered = 0
        self._cache = cache
        self._rules = rules
        self._seconds = seconds
        self._now = now
        self._started = started
        self._finished = finished
        self._instance = instance
        self._base_domains = base_domains
        self._meanings: dict[tuple[bytes, bytes], _Meaning | None] = {}
        self._second = 0
        self._date = b""

    def reconfigure(self, rules: Rules) -> None:
        """Serve under other settings from now on."""
        self._rules = rules
        self._meanings.clear()

    def answer(self, glance: Glance, client_address: str, listener: str) -> bytes | None:
        """The whole answer; None: the request must take the other way."""
        try:
            meaning = self._meanings[glance.host, glance.target]
        except KeyError:
            meaning = self._understand(glance.host, glance.target)
        if meaning is None:
            return None
        record = self._cache.hot(meaning.id)
        if record is None:
            return None
        stored = record.stored
        head_only = glance.method == b"HEAD"
        body = stored.small_body
        if body is None and not head_only:
            return None
        now = self._now()
        if not may_serve(
            meaning.settings,
            record.version.headers,
            stored.validated_at,
            now,
            head=head_only,
            unconfirmed=stored.unconfirmed,
        ).fresh:
            return None
        mark = (record.epoch, stored.nonce)
        if meaning.mark != mark:
            meaning.mark = mark
            meaning.heads.clear()
        try:
            head = meaning.heads[glance.wanted, glance.checksums]
        except KeyError:
            head = self._make_head(meaning, record, glance.wanted, glance.checksums)
        if head is None:
            return None
        if int(now) != self._second:
            self._second = int(now)
            self._date = formatdate(now, usegmt=True).encode("ascii")
        if now - meaning.noted_at >= NOTE_INTERVAL:
            meaning.noted_at = now
            self._cache.used_record(record, head.interval)
        request_id = new_request_id()
        pieces = [
            head.before_id,
            request_id.encode("ascii"),
            head.before_date,
            self._date,
            head.before_age,
            b"%d" % max(0, int(now - stored.validated_at)),
            head.rest,
        ]
        sent = 0
        if not head_only:
            start, stop = head.interval
            sent = stop - start
            assert body is not None
            pieces.append(body if sent == len(body) else body[start:stop])
        self._account(glance, meaning, record, head, request_id, now, sent, client_address, listener)
        return b"".join(pieces)

    def _understand(self, host: bytes, target: bytes) -> _Meaning | None:
        """What the names mean; remembered, also when the lane has nothing to do with it."""
        if len(self._meanings) >= MOST_TARGETS:
            self._meanings.clear()
        meaning = None
        if b"?" not in target or target.endswith((b"?x-id=GetObject", b"?x-id=HeadObject")):
            headers = Headers(((b"Host", host),))
            try:
                parsed = parse_target(target, headers)
                address = locate(parsed, self._base_domains)
            except S3Error:
                address = None
            if address is not None and address.key and _is_plain(address, parsed.query, headers):
                settings = self._rules.resolve(address)
                if settings.read_cache_enabled:
                    meaning = _Meaning(ObjectId(address.store, address.bucket, address.key), settings)
        self._meanings[host, target] = meaning
        return meaning

    def _make_head(self, meaning: _Meaning, record: Record, wanted: bytes | None, checksums: bool) -> _Head | None:
        """The head for this object and Range; None if the lane can't answer that."""
        version = record.version
        interval: Interval | None = (0, version.size)
        if wanted is not None:
            spec = parse_range(wanted)
            interval = None if isinstance(spec, (MultiRange, InvalidRange)) else resolve(spec, version.size)
        elif checksums and not version.checksums:
            interval = None
        if interval is None:
            return None
        at = record.stored.validated_at
        fields = entry_headers(
            version,
            request_id=_NO_ID,
            outcome=Outcome.HIT,
            reason=Reason.NONE,
            now=at,
            validated_at=at,
            partial=None if wanted is None else interval,
            with_checksums=checksums,
        )
        status, phrase = (200, b"OK") if wanted is None else (206, b"Partial Content")
        lines = [b"HTTP/1.1 %d %s" % (status, phrase), *(b"%s: %s" % field for field in fields)]
        lines += [b"Content-Length: %d" % (interval[1] - interval[0]), b"\r\n"]
        before_id, after_id = b"\r\n".join(lines).split(_NO_ID.encode("ascii"), 1)
        before_date, after_date = after_id.split(formatdate(at, usegmt=True).encode("ascii"), 1)
        before_age, rest = after_date.rsplit(b"\r\nAge: 0", 1)
        served = "" if wanted is None else f"bytes={interval[0]}-{interval[1] - 1}"
        head = _Head(status, before_id, before_date, before_age + b"\r\nAge: ", rest, interval, served)
        if len(meaning.heads) >= MOST_HEADS:
            meaning.heads.clear()
        meaning.heads[wanted, checksums] = head
        return head

    def _account(
        self,
        glance: Glance,
        meaning: _Meaning,
        record: Record,
        head: _Head,
        request_id: str,
        now: float,
        sent: int,
        client_address: str,
        listener: str,
    ) -> None:
        self.answered += 1
        self._started()
        seconds = self._seconds()
        signed = glance.access_key is not None
        account = RequestRecord(
            started_at=now,
            started_monotonic=seconds,
            client_address=client_address,
            listener=listener,
            method=glance.method,
            target=glance.target,
            host=glance.host,
            operation="HeadObject" if glance.method == b"HEAD" else "GetObject",
            bucket=meaning.id.bucket,
            key=meaning.id.key,
            status=head.status,
            bytes_sent=sent,
            object_size=record.version.size,
            first_byte_seconds=0.0,
            served_range=head.served_range,
            referer=glance.referer,
            user_agent=glance.user_agent,
            version_id=record.version.headers.get(b"x-amz-version-id") or b"",
            signature_version="SigV4" if signed else "",
            authentication_type="AuthHeader" if signed else "",
            access_key="" if glance.access_key is None else glance.access_key.decode("ascii"),
            request_id=request_id,
            outcome="HIT",
            bytes_from_cache=sent,
            instance=self._instance,
        )
        account.close(seconds)
        self._finished(account)


def _is_plain(address: object, query: bytes | None, headers: Headers) -> bool:
    """Whether GET and HEAD of it are those of a whole, cacheable object."""
    return (
        classify(b"GET", address, query, headers) is Operation.GetObject  # type: ignore[arg-type]
        and classify(b"HEAD", address, query, headers) is Operation.HeadObject  # type: ignore[arg-type]
    )
