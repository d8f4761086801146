"""The fast lane: hits that are answered at once, out of memory, with one write.

The lane takes only what it can answer completely: a GET or HEAD whose object has a fresh entry in memory, with its body
unless that is not asked for, or not wanted after all (304). Anything else goes the way of all requests
(:mod:`s3proxy.gateway.pipeline`). Both ways give the same answer, byte for byte but for the request id, and the same
line in the access log; gate, conditions, look-up, head and exit are those of the other way, too.

A body that is no longer in memory, but all of it in one file, takes its time: the lane makes the answer, and the
pipeline counts and watches over it while it is sent (:class:`~s3proxy.gateway.large.LargeHit`).

What of an answer does not change from one request to the next is made once and kept with the target it answers:
:class:`_Answer`. A hit then is three look-ups, two comparisons and two joins: 3 µs where composing took 11 µs.
"""

from collections.abc import Callable

import attrs

from s3proxy.cache.entry import ObjectId
from s3proxy.cache.index import Record
from s3proxy.cache.manager import CacheManager
from s3proxy.cache.spans import FileSpan
from s3proxy.gateway.answers import entry_headers, http_date, new_request_id
from s3proxy.gateway.demand import judge
from s3proxy.gateway.large import IDesk, LargeHit
from s3proxy.gateway.names import is_ordinary, read_name
from s3proxy.policy.freshness import may_serve
from s3proxy.policy.rules import Rules, Settings
from s3proxy.policy.verdicts import Outcome, Reason
from s3proxy.s3.errors import S3Error
from s3proxy.s3.headers import Headers
from s3proxy.s3.ranges import InvalidRange, MultiRange, parse_range, resolve
from s3proxy.s3.validators import Conditions, Verdict
from s3proxy.telemetry.accessline import CallerWords
from s3proxy.telemetry.exit import Exit, Kind
from s3proxy.telemetry.record import RequestRecord
from s3proxy.util.intervals import Interval

__all__ = ["Glance", "Lane"]

MOST_TARGETS = 10_000
"""Targets whose meaning is remembered."""
MOST_ANSWERS = 16
"""Answers that are kept for one target."""
MOST_CALLERS = 1000
"""Descriptions that clients give of themselves, and that are remembered."""
NOTE_INTERVAL = 1.0
"""Seconds after which the use of an entry is noted again."""

_NO_ID = "0" * 16
_PLAIN = ("", "")
_PHRASES = {200: b"OK", 206: b"Partial Content", 304: b"Not Modified"}


@attrs.define
class Glance:
    """An ordinary read request: no body, no field that is not here or without consequence.

    :ivar wanted: its Range
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
    conditions: Conditions | None = None
    caller: CallerWords | None = attrs.field(default=None, eq=False)
    lines: list[bytes] = attrs.field(factory=list, eq=False, repr=False)
    kinds: tuple[int, ...] = attrs.field(default=(), eq=False, repr=False)


@attrs.define
class _Answer:
    """All of an answer but its body, and what the exit wants to know of it.

    The head is in four pieces, between which belong the request id, the date and the age; ``tail`` is all that follows
    the request id, as it is to be sent from ``since`` until ``until``.

    :ivar interval: of the object: what is sent, or what its head is about; None: nothing, for a 304
    :ivar bodiless: nothing follows the head
    :ivar fresh_until: the last moment at which the gate lets it through
    """

    status: int
    before_id: bytes
    before_date: bytes
    before_age: bytes
    rest: bytes
    interval: Interval | None
    bodiless: bool
    validated_at: float
    fresh_until: float
    kind: Kind
    served_range: str
    tail: bytes = b""
    since: float = 0.0
    until: float = 0.0


@attrs.define
class _Meaning:
    """What a Host and a target mean, and the answers that were made for the record that was found last.

    :ivar serial: tells that record from others without keeping it, and its body, in memory
    :ivar answers: by method, Range, whether checksums are wanted, and conditions; None: the lane can't answer that
    """

    id: ObjectId
    settings: Settings
    serial: int = 0
    answers: "dict[tuple[bytes, bytes | None, bool, Conditions | None], _Answer | None]" = attrs.field(factory=dict)
    noted_at: float = 0.0


class Lane:
    """Answers hits.

    :param now: unix seconds
    :param exit: where they are accounted
    :param desk: where those are that take their time; None: the lane has none
    :ivar answered: requests so far
    """

    def __init__(
        self,
        cache: CacheManager,
        rules: Rules,
        exit: Exit,
        *,
        now: Callable[[], float],
        desk: IDesk | None = None,
        instance: str = "",
        base_domains: tuple[str, ...] = (),
    ) -> None:
        self.answered = 0
        self._cache = cache
        self._rules = rules
        self._exit = exit
        self._now = now
        self._desk = desk
        self._instance = instance
        self._base_domains = base_domains
        self._meanings: dict[tuple[bytes, bytes], _Meaning | None] = {}
        self._callers: dict[tuple[str, bytes, bytes | None, bytes, bytes, tuple[str, str]], CallerWords] = {}
        self._second = 0
        self._date = b""

    def reconfigure(self, rules: Rules) -> None:
        """Serve under other settings from now on."""
        self._rules = rules
        self._meanings.clear()

    def answer(
        self,
        glance: Glance,
        client_address: str,
        listener: str,
        *,
        files: bool = False,
        tls: tuple[str, str] = _PLAIN,
    ) -> tuple[bytes, bytes] | LargeHit | None:
        """Head and body of the answer; None: the request must take the other way.

        :param files: whether the client's transport can send files
        :param tls: protocol version and cipher suite of its connection; empty ones without TLS
        """
        try:
            meaning = self._meanings[glance.host, glance.target]
        except KeyError:
            meaning = self._understand(glance.host, glance.target)
        if meaning is None:
            return None
        record = self._cache.hot(meaning.id)
        if record is None:
            return None
        now = self._now()
        if meaning.serial != record.serial:
            meaning.serial = record.serial
            meaning.answers.clear()
        try:
            answer = meaning.answers[glance.method, glance.wanted, glance.checksums, glance.conditions]
        except KeyError:
            answer = self._prepare(glance, meaning, record, now, client_address, listener)
        if answer is None or now > answer.fresh_until:
            return None
        body = b"" if answer.bodiless else record.stored.small_body
        if body is None and not files:
            return None
        if not answer.since <= now < answer.until:
            self._renew(answer, now)
            if body is not None:
                self._note(answer, meaning, record, now)
        if body is None:
            return self._large(answer, glance, meaning, record, now, client_address, listener)
        caller = glance.caller
        if caller is None:
            caller = glance.caller = self._caller(glance, client_address, listener, tls)
        request_id = new_request_id().encode("ascii")
        self.answered += 1
        self._exit.hit(answer.kind, caller, now, request_id)
        if glance.wanted is not None and body and answer.interval is not None:
            start, stop = answer.interval
            body = body[start:stop]
        return b"".join((answer.before_id, request_id, answer.tail)), body

    def _large(
        self,
        answer: _Answer,
        glance: Glance,
        meaning: _Meaning,
        record: Record,
        now: float,
        client_address: str,
        listener: str,
    ) -> LargeHit | None:
        """The answer out of a file; None: its bytes are elsewhere, or in several places, or there is no permit."""
        desk, interval, cache = self._desk, answer.interval, self._cache
        if desk is None or not desk.has_room or interval is None or interval[0] == interval[1]:
            return None
        in_memory = cache.ram is not None and meaning.settings.ram_cache_eligible
        if in_memory and cache.ram is not None and cache.ram.plain:
            return None
        view = cache.recorded(record)
        if not any(start <= interval[0] and interval[1] <= stop for start, stop in view.held()):
            return None
        span = view.reader(interval, ram=in_memory, prompt=True).next()
        if not isinstance(span, FileSpan):
            return None
        if span.count != interval[1] - interval[0]:
            span.release()
            return None
        cache.used(view, interval)
        cache.counts.looked("get", "hit")
        account = self._account(glance, meaning, record, answer.status, client_address, listener)
        account.started_at = now
        account.request_id = new_request_id()
        account.served_range = answer.served_range
        self.answered += 1
        head = b"".join((answer.before_id, account.request_id.encode("ascii"), answer.tail))
        return LargeHit(answer.status, head, account, desk, span)

    def _understand(self, host: bytes, target: bytes) -> _Meaning | None:
        """What the names mean; remembered, also when the lane has nothing to do with it."""
        if len(self._meanings) >= MOST_TARGETS:
            self._meanings.clear()
        meaning = None
        if is_ordinary(target):
            try:
                name = read_name(target, Headers(((b"Host", host),)), self._base_domains)
            except S3Error:
                name = None
            if name is not None and name.ordinary and name.address is not None:
                address = name.address
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
        wanted, checksums, conditions = glance.wanted, glance.checksums, glance.conditions
        answer = None
        spec = None if wanted is None else parse_range(wanted)
        if not isinstance(spec, (MultiRange, InvalidRange)):
            verdict: Verdict | None = Verdict.PROCEED
            if conditions is not None:
                verdict = judge(conditions, version, glance.method, meaning.settings)
            interval = (0, version.size) if spec is None else resolve(spec, version.size)
            if verdict is Verdict.NOT_MODIFIED:
                answer = self._compose(glance, meaning, record, gate.until, 304, None, client_address, listener)
            elif verdict is Verdict.PROCEED and interval is not None and (spec or not checksums or version.checksums):
                status = 200 if spec is None else 206
                answer = self._compose(glance, meaning, record, gate.until, status, interval, client_address, listener)
        if len(meaning.answers) >= MOST_ANSWERS:
            meaning.answers.clear()
        meaning.answers[glance.method, wanted, checksums, conditions] = answer
        return answer

    def _compose(
        self,
        glance: Glance,
        meaning: _Meaning,
        record: Record,
        fresh_until: float,
        status: int,
        interval: Interval | None,
        client_address: str,
        listener: str,
    ) -> _Answer:
        """The answer of this status, about these bytes of the object."""
        version, at = record.version, record.stored.validated_at
        partial = interval if status == 206 else None
        fields = entry_headers(
            version,
            request_id=_NO_ID,
            outcome=Outcome.HIT,
            reason=Reason.NONE,
            now=at,
            validated_at=at,
            partial=partial,
            with_checksums=glance.checksums,
        )
        length = 0 if interval is None else interval[1] - interval[0]
        lines = [b"HTTP/1.1 %d %s" % (status, _PHRASES[status]), *(b"%s: %s" % field for field in fields)]
        if status != 304:
            lines.append(b"Content-Length: %d" % length)
        before_id, after_id = b"\r\n".join([*lines, b"\r\n"]).split(_NO_ID.encode("ascii"), 1)
        before_date, after_date = after_id.split(http_date(int(at)), 1)
        before_age, rest = after_date.rsplit(b"\r\nAge: 0", 1)
        bodiless = glance.method == b"HEAD" or not length
        account = self._account(glance, meaning, record, status, client_address, listener)
        account.bytes_sent = account.bytes_from_cache = 0 if bodiless else length
        if partial is not None:
            account.served_range = f"bytes={partial[0]}-{partial[1] - 1}"
        return _Answer(
            status,
            before_id,
            before_date,
            before_age + b"\r\nAge: ",
            rest,
            interval,
            bodiless,
            at,
            fresh_until,
            self._exit.kind(account),
            account.served_range,
        )

    def _renew(self, answer: _Answer, now: float) -> None:
        """The date, or the age, is another one than when it was sent last: once or twice a second."""
        second = int(now)
        if second != self._second:
            self._second = second
            self._date = http_date(second)
            self._exit.second()
        age = max(0, int(now - answer.validated_at))
        answer.tail = b"".join((answer.before_date, self._date, answer.before_age, b"%d" % age, answer.rest))
        answer.since = now
        answer.until = min(second + 1.0, answer.validated_at + age + 1)

    def _note(self, answer: _Answer, meaning: _Meaning, record: Record, now: float) -> None:
        """The entry is in use; a 304 is no use of what it holds."""
        if answer.interval is not None and now - meaning.noted_at >= NOTE_INTERVAL:
            meaning.noted_at = now
            self._cache.used(self._cache.recorded(record), answer.interval)

    def _caller(self, glance: Glance, client_address: str, listener: str, tls: tuple[str, str]) -> CallerWords:
        known = client_address, glance.host, glance.access_key, glance.user_agent, glance.referer, tls
        caller = self._callers.get(known)
        if caller is None:
            if len(self._callers) >= MOST_CALLERS:
                self._callers.clear()
            record = self._record(glance, client_address, listener)
            record.tls, record.cipher_suite = tls
            caller = self._callers[known] = self._exit.caller(record)
        return caller

    def _account(
        self, glance: Glance, meaning: _Meaning, record: Record, status: int, client_address: str, listener: str
    ) -> RequestRecord:
        """The record of a hit, but for what was sent."""
        account = self._record(glance, client_address, listener)
        account.bucket, account.key = meaning.id.bucket, meaning.id.key
        account.rule = self._rules.number_of(meaning.settings)
        account.status = status
        account.object_size = record.version.size
        account.version_id = record.version.headers.get(b"x-amz-version-id") or b""
        return account

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
