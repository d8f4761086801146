"""One line of the access log: the 27 fields of S3's server access log, then twelve of ours.

Fields are separated by one space, absent ones are ``-``, and every byte that could end a field or a line is
percent-encoded, so that no client can write a line of its own:

====  =======================  =====================================================================
No.   Field                    Here
====  =======================  =====================================================================
1     bucket owner             ``-``
2     bucket                   of the request, whatever spelled it
3     time                     ``[31/Jan/2026:23:59:59 +0000]``, when the request arrived
4     remote IP                the client's
5     requester                masked access key id if wanted, else ``-``
6     request id               S3's when S3 answered, else the proxy's
7     operation                ``REST.GET.OBJECT`` and the like
8     key                      percent-encoded
9     "request-URI"            method, target without secrets, version
10    HTTP status
11    error code               S3's word, ``NoSuchKey``
12    bytes sent               body bytes really written; ``-`` for none
13    object size              of the whole object
14    total time               milliseconds to the last byte
15    turn-around time         milliseconds to the first byte
16    "referrer"               without secrets
17    "user agent"
18    version id
19    host id                  S3's when S3 answered, else the instance
20    signature version        SigV2, SigV4
21    cipher suite             between client and proxy
22    authentication type      AuthHeader, QueryString
23    host header
24    TLS version              between client and proxy
25    access point ARN         ``-``
26    ACL required             ``-``
27    source region            ``-``
28    outcome                  HIT, MISS, REVALIDATED, PARTIAL, COALESCED, BYPASS, STALE, ERROR
29    first byte               milliseconds with three decimals
30    range                    ``bytes=a-b`` that was served
31    cached bytes             the part of field 12 that S3 did not have to send
32    upstream address         ``IP:port``
33    upstream time            milliseconds to the head of S3's answer, three decimals
34    wait time                milliseconds spent waiting for another client's fetch
35    ending                   ok, client_abort, upstream_abort, shed, denied
36    instance
37    proxy request id
38    reason                   why S3 had to be asked, or why the answer was not kept; how a tunnel ended
39    bytes received           body bytes read from the client, or all bytes of the client's side of a tunnel
====  =======================  =====================================================================

Source of the first part: "Amazon S3 server access log format" in the S3 user guide. It tells readers to expect
further fields.
"""

import re
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import quote_from_bytes

from s3proxy.telemetry.operations import log_word
from s3proxy.telemetry.record import RequestRecord

__all__ = ["AnswerWords", "CallerWords", "LineFormatter", "MAX_TARGET", "MAX_TEXT"]

MAX_TARGET: Final = 8192
"""Bytes of a request target that are logged."""

MAX_TEXT: Final = 1024
"""Bytes of a user agent, a referrer or any other word that are logged."""

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_UNSAFE_WORD: Final = re.compile(rb"[^!#-\[\]-~]")  # blanks, controls, non-ASCII, the quote and the backslash
_UNSAFE_TEXT: Final = re.compile(rb"[^ !#-\[\]-~]")  # the same, but blanks may stay
_UNSAFE_KEY: Final = re.compile(rb"[^A-Za-z0-9/._~-]")
_PRESIGNED: Final = re.compile(rb"amz|signature|accesskey", re.IGNORECASE)
_ENCODED: Final = tuple(f"%{byte:02X}" for byte in range(256))


def _unique(value: bytes) -> str:
    """A field without quotes that is hardly ever the same twice."""
    if not value:
        return "-"
    value = value[:MAX_TEXT]
    return _percent_encode(value, _UNSAFE_WORD) if _UNSAFE_WORD.search(value) else value.decode("ascii")


_word = lru_cache(maxsize=1024)(_unique)
"""A field without quotes that many requests share."""


@lru_cache(maxsize=1024)
def _text(value: bytes) -> str:
    """A field within quotes, quotes included."""
    value = value[:MAX_TEXT]
    if _UNSAFE_TEXT.search(value):
        return f'"{_percent_encode(value, _UNSAFE_TEXT)}"'
    return f'"{value.decode("ascii") or "-"}"'


@lru_cache(maxsize=256)
def _name(value: str) -> str:
    """A field from a word of ours, which may repeat what a client or S3 said."""
    return _word(value.encode("utf-8", "backslashreplace"))


class CallerWords(NamedTuple):
    """The pieces of a line that tell who asked: the same for all requests of a client that describes itself alike."""

    requester: bytes  # fields 4 and 5
    agent: bytes  # 16 and 17
    connection: bytes  # 20 to 27


class AnswerWords(NamedTuple):
    """The pieces of a line that tell what was asked for and answered: the same whoever asks for it."""

    bucket: bytes  # fields 1 and 2
    request: bytes  # 7 to 15
    version: bytes  # 18 and 19
    outcome: bytes  # 28 to 36
    reason: bytes  # 38 and 39


@lru_cache(maxsize=1024)
def _connection(words: tuple[str, str, str, bytes, str]) -> bytes:
    """Fields 20 to 27, which the requests of one client have in common."""
    signature_version, cipher_suite, authentication_type, host, tls = words
    return _ascii(
        f" {signature_version or '-'} {cipher_suite or '-'} {authentication_type or '-'} {_word(host)} {tls or '-'} "
        "- - - "
    )


def _ascii(text: str) -> bytes:
    return text.encode("ascii", "backslashreplace")


def _percent_encode(value: bytes, unsafe: "re.Pattern[bytes]") -> str:
    return unsafe.sub(lambda match: _ENCODED[match.group()[0]].encode("ascii"), value).decode("ascii")


def _encode_key(value: bytes) -> str:
    if not value:
        return "-"
    return quote_from_bytes(value, safe="/") if _UNSAFE_KEY.search(value) else value.decode("ascii")


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value * 1000:.3f}"


class LineFormatter:
    """Makes lines out of records.

    :param redact: removes signatures, credentials and tokens from a request target
    :param log_requester: show the first and last four characters of the access key id in field 5
    """

    def __init__(self, redact: Callable[[bytes], bytes], log_requester: bool = False) -> None:
        self._redact = redact
        self._log_requester = log_requester
        self._second = -1
        self._time = b""
        self._referer = lru_cache(maxsize=256)(self._format_referer)

    def __call__(self, record: RequestRecord) -> bytes:
        """The line, with its line feed."""
        own = _ascii(record.request_id or "-")
        served = _ascii(_unique(record.upstream_request_id)) if record.upstream_request_id else own
        return self.line(self.caller(record), self.answer(record), record.started_at, served, own)

    def line(
        self, caller: CallerWords, answer: AnswerWords, started_at: float, served_id: bytes, own_id: bytes
    ) -> bytes:
        """The line of a request by this caller that got this answer.

        :param served_id: field 6
        :param own_id: field 37
        """
        second = int(started_at)
        if second != self._second:
            self._time = _ascii(_log_time(second))
            self._second = second
        bucket, request, version, outcome, reason = answer
        requester, agent, connection = caller
        return b"".join(
            (
                bucket, self._time, requester, served_id, request, agent, version, connection, outcome, own_id, reason,
            )
        )  # fmt: skip

    def caller(self, record: RequestRecord) -> CallerWords:
        """Who sent this request, and others that may follow."""
        # Cut before they are remembered.
        host, agent = record.host[:MAX_TEXT], record.user_agent[:MAX_TEXT]
        words = (record.signature_version, record.cipher_suite, record.authentication_type, host, record.tls)
        return CallerWords(
            _ascii(f" {record.client_address or '-'} {self._requester(record.access_key)} "),
            _ascii(f"{self._referer(record.referer[:MAX_TARGET])} {_text(agent)} "),
            _connection(words),
        )

    def answer(self, record: RequestRecord) -> AnswerWords:
        """What this request asked for and got, and others like it may ask for and get."""
        target = record.target
        if b"=" in target or b"%" in target or b"@" in target:
            target = self._safe_target(target)
        if len(target) > MAX_TARGET:
            target = target[:MAX_TARGET]
        if _UNSAFE_WORD.search(target):
            uri = _percent_encode(target, _UNSAFE_WORD)
        else:
            uri = target.decode("ascii")
        first = record.first_byte_seconds
        method = record.method
        instance = _name(record.instance)
        size = record.object_size
        return AnswerWords(
            _ascii(f"- {_word(record.bucket[:MAX_TEXT])} "),
            _ascii(
                f" {log_word(record.operation, method)} {self._key(record.key)} "
                f'"{_word(method)} {uri or "-"} {_word(record.http_version)}" {record.status or "-"} '
                f"{_name(record.error_code)} {record.bytes_sent or '-'} {'-' if size is None else size} "
                f"{int(record.total_seconds * 1000)} {'-' if first is None else int(first * 1000)} "
            ),
            _ascii(f"{_unique(record.version_id)} {_unique(record.host_id) if record.host_id else instance}"),
            _ascii(
                f"{record.outcome or '-'} {_milliseconds(first)} {record.served_range or '-'} "
                f"{record.bytes_from_cache or '-'} {record.upstream_address or '-'} "
                f"{_milliseconds(record.upstream_seconds)} {_milliseconds(record.wait_seconds)} {record.ending} "
                f"{instance} "
            ),
            _ascii(f" {record.reason or '-'} {record.body_bytes_received or '-'}\n"),
        )

    def _safe_target(self, target: bytes) -> bytes:
        """The target without secrets; if that can't be told, without all that might hold some."""
        try:
            return self._redact(target)
        except Exception:
            return target.partition(b"?")[0] if target.startswith(b"/") else b"-"

    def _key(self, key: bytes) -> str:
        """A key is what a presigned URL becomes whose question mark was encoded: look for secrets here, too."""
        return _encode_key(self._safe_target(key) if b"=" in key and _PRESIGNED.search(key) else key)

    def _format_referer(self, referer: bytes) -> str:
        return f'"{_word(self._safe_target(referer))}"'

    def _requester(self, access_key: str) -> str:
        if not self._log_requester or len(access_key) < 12:
            return "-"
        return _name(f"{access_key[:4]}...{access_key[-4:]}")


def _log_time(second: int) -> str:
    at = time.gmtime(second)
    return (
        f"[{at.tm_mday:02d}/{_MONTHS[at.tm_mon - 1]}/{at.tm_year:04d}:"
        f"{at.tm_hour:02d}:{at.tm_min:02d}:{at.tm_sec:02d} +0000]"
    )
