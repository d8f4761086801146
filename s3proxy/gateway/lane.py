"""The fast lane: hits that are answered at once, out of memory, with one write.

The lane takes only what it can answer completely: a GET or HEAD whose object has a fresh entry in memory, with its body
unless that is not asked for. Anything else goes the way of all requests (:mod:`s3proxy.gateway.pipeline`). Both ways
give the same answer, byte for byte but for the request id, and the same line in the access log; gate, look-up, head and
exit are those of the other way, too.

What of an answer does not change from one request to the next is made once and kept with the target it answers:
:class:`_Answer`. A hit then is three look-ups, two comparisons and two joins: 3 µs where composing took 11 µs.
"""

from collections.abc import Callable
from email.utils import formatdate

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
from s3proxy.telemetry.accessline import CallerWords
from s3proxy.telemetry.exit import Exit, Kind
from s3proxy.telemetry.record import RequestRecord
from s3proxy.util.intervals import Interval

__all__ = ["Glance", "Lane"]

MOST_TARGETS = 10_000
"""Targets whose meaning is remembered."""
MOST_ANSWERS = 8
"""Answers that are kept for one target."""
MOST_CALLERS = 1000
"""Descriptions that clients give of themselves, and that are remembered."""
NOTE_INTERVAL = 1.0
"""Seconds after which the use of an entry is noted again."""

_NO_ID = "0" * 16


@attrs.define
class Glance:
    """An ordinary read request: no body, no condition, no field that is not here or without consequence.

    :ivar access_key: of a signature in the header; None without one
    :ivar caller: what the access log says of the client, once that is known; the next request on the connection has it
        from here, as long as the client describes itself in the same way
    :ivar lines: of the request, and
    :ivar kinds: what they are, both for a comparison with the next request
    """

    method: bytes
    target: bytes
    host: bytes
    wanted: bytes | None
    checksums: bool
    access_key: bytes | None
    user_agent: bytes
    referer: bytes
    caller: CallerWords | None = attrs.field(default=None, eq=False)
    lines: list[bytes] = attrs.field(factory=list, eq=False, repr=False)
    kinds: tuple[int, ...] = attrs.field(default=(), eq=False, repr=False)


@attrs.define
class _Answer:
    """All of an answer but its body, and what the exit wants to know of it.

    The head is in four pieces, between which belong the request id, the date and the age; ``tail`` is all that follows
    the request id, as it is to be sent from ``since`` until ``until``.

    :ivar fresh_until: the last moment at which the gate lets it through
    """

    before_id: bytes
    before_date: bytes
    before_age: bytes
    rest: bytes
    interval: Interval
    validated_at: float
    fresh_until: float
    kind: Kind
    tail: bytes = b""
    since: float = 0.0
    until: float = 0.0


@attrs.define
class _Meaning:
    """What a Host and a target mean, and the answers that were made for the record that was found last.

    :ivar serial: tells that record from others without keeping it, and its body, in memory
    :ivar answers: by method, Range and whether checksums are wanted; None: the lane can't answer that
    """

    id: ObjectId
    settings: Settings
    serial: int = 0
    answers: "dict[tuple[bytes, bytes | None, bool], _Answer | None]" = attrs.field(factory=dict)
    noted_at: float = 0.0


class Lane:
    """Answers hits.

    :param now: unix seconds
    :param exit: where they are accounted
    :ivar answered: requests so far
    """

    def __init__(
        self,
        cache: CacheManager,
        rules: Rules,
        exit: Exit,
        *,
        now: Callable[[], float],
        instance: str = "",
        base_domains: tuple[str, ...] = (),
    ) -> None:
        self.answered = 0
        self._cache = cache
        self._rules = rules
        self._exit = exit
        self._now = now
        self._instance = instance
        self._base_domains = base_domains
        self._meanings: dict[tuple[bytes, bytes], _Meaning | None] = {}
        self._callers: dict[tuple[str, bytes, bytes | None, bytes, bytes], CallerWords] = {}
        self._second = 0
        self._date = b""

    def reconfigure(self, rules: Rules) -> None:
        """Serve under other settings from now on."""
        self._rules = rules
        self._meanings.clear()

    def answer(self, glance: Glance, client_address: str, listener: str) -> tuple[bytes, bytes] | None:
        """Head and body of the answer; None: the request must take the other way."""
        try:
            meaning = self._meanings[glance.host, glance.target]
        except KeyError:
            meaning = self._understand(glance.host, glance.target)
        if meaning is None:
            return None
        record = self._cache.hot(meaning.id)
        if record is None:
            return None
        body = b"" if glance.method == b"HEAD" else record.stored.small_body
        if body is None:
            return None
        now = self._now()
        if meaning.serial != record.serial:
            meaning.serial = record.serial
            meaning.answers.clear()
        try:
            answer = meaning.answers[glance.method, glance.wanted, glance.checksums]
        except KeyError:
            answer = self._prepare(glance, meaning, record, now, client_address, listener)
        if answer is None or now > answer.fresh_until:
            return None
        if not answer.since <= now < answer.until:
            self._renew(answer, meaning, record, now)
        caller = glance.caller
        if caller is None:
            caller = glance.caller = self._caller(glance, client_address, listener)
        request_id = new_request_id().encode("ascii")
        self.answered += 1
        self._exit.hit(answer.kind, caller, now, request_id)
        if glance.wanted is not None and body:
            start, stop = answer.interval
            body = body[start:stop]
        return b"".join((answer.before_id, request_id, answer.tail)), body

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

    def _prepare(
        self, glance: Glance, meaning: _Meaning, record: Record, now: float, client_address: str, listener: str
    ) -> _Answer | None:
        """The answer for this object, method and Range; None if the lane can't give one."""
        stored, version = record.stored, record.version
        head_only = glance.method == b"HEAD"
        gate = may_serve(
            meaning.settings, version.headers, stored.validated_at, now, head=head_only, unconfirmed=stored.unconfirmed
        )
        if not gate.fresh:
            return None
        wanted, checksums = glance.wanted, glance.checksums
        interval: Interval | None = (0, version.size)
        if wanted is not None:
            spec = parse_range(wanted)
            interval = None if isinstance(spec, (MultiRange, InvalidRange)) else resolve(spec, version.size)
        elif checksums and not version.checksums:
            interval = None
        if len(meaning.answers) >= MOST_ANSWERS:
            meaning.answers.clear()
        if interval is None:
            meaning.answers[glance.method, wanted, checksums] = None
            return None
        status, phrase = (200, b"OK") if wanted is None else (206, b"Partial Content")
        at = stored.validated_at
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
        lines = [b"HTTP/1.1 %d %s" % (status, phrase), *(b"%s: %s" % field for field in fields)]
        lines += [b"Content-Length: %d" % (interval[1] - interval[0]), b"\r\n"]
        before_id, after_id = b"\r\n".join(lines).split(_NO_ID.encode("ascii"), 1)
        before_date, after_date = after_id.split(formatdate(at, usegmt=True).encode("ascii"), 1)
        before_age, rest = after_date.rsplit(b"\r\nAge: 0", 1)
        account = self._record(glance, client_address, listener)
        account.bucket, account.key = meaning.id.bucket, meaning.id.key
        account.status = status
        account.object_size = version.size
        account.version_id = version.headers.get(b"x-amz-version-id") or b""
        account.bytes_sent = account.bytes_from_cache = 0 if head_only else interval[1] - interval[0]
        if wanted is not None:
            account.served_range = f"bytes={interval[0]}-{interval[1] - 1}"
        answer = _Answer(
            before_id, before_date, before_age + b"\r\nAge: ", rest, interval, at, gate.until, self._exit.kind(account)
        )
        meaning.answers[glance.method, wanted, checksums] = answer
        return answer

    def _renew(self, answer: _Answer, meaning: _Meaning, record: Record, now: float) -> None:
        """The date, or the age, is another one than when it was sent last: once or twice a second."""
        second = int(now)
        if second != self._second:
            self._second = second
            self._date = formatdate(now, usegmt=True).encode("ascii")
            self._exit.second()
        age = max(0, int(now - answer.validated_at))
        answer.tail = b"".join((answer.before_date, self._date, answer.before_age, b"%d" % age, answer.rest))
        answer.since = now
        answer.until = min(second + 1.0, answer.validated_at + age + 1)
        if now - meaning.noted_at >= NOTE_INTERVAL:
            meaning.noted_at = now
            self._cache.used_record(record, answer.interval)

    def _caller(self, glance: Glance, client_address: str, listener: str) -> CallerWords:
        known = client_address, glance.host, glance.access_key, glance.user_agent, glance.referer
        caller = self._callers.get(known)
        if caller is None:
            if len(self._callers) >= MOST_CALLERS:
                self._callers.clear()
            caller = self._callers[known] = self._exit.caller(self._record(glance, client_address, listener))
        return caller

    def _record(self, glance: Glance, client_address: str, listener: str) -> RequestRecord:
        """The record of a hit, as far as the request alone tells."""
        signed = glance.access_key is not None
        return RequestRecord(
            started_at=0.0,
            started_monotonic=0.0,
            client_address=client_address,
            listener=listener,
            method=glance.method,
            target=glance.target,
            host=glance.host,
            operation="HeadObject" if glance.method == b"HEAD" else "GetObject",
            first_byte_seconds=0.0,
            referer=glance.referer,
            user_agent=glance.user_agent,
            signature_version="SigV4" if signed else "",
            authentication_type="AuthHeader" if signed else "",
            access_key="" if glance.access_key is None else glance.access_key.decode("ascii"),
            outcome="HIT",
            instance=self._instance,
        )


def _is_plain(address: object, query: bytes | None, headers: Headers) -> bool:
    """Whether GET and HEAD of it are those of a whole, cacheable object."""
    return (
        classify(b"GET", address, query, headers) is Operation.GetObject  # type: ignore[arg-type]
        and classify(b"HEAD", address, query, headers) is Operation.HeadObject  # type: ignore[arg-type]
    )
