"""Entity tags, HTTP dates and preconditions (RFC 9110 sections 5.6.7, 8.8.3 and 13).

One leniency is S3's: quotes around an entity tag are optional in If-Match and If-None-Match, because common clients
leave them out.
"""

import calendar
import enum
import re
from collections.abc import Iterator

import attrs

from s3proxy.s3.headers import CONDITIONAL_FIELDS, Headers

__all__ = [
    "Conditions",
    "Verdict",
    "evaluate",
    "if_range_matches",
    "parse_http_date",
    "read_conditions",
    "strong_match",
    "weak_match",
]

_MONTHS = {
    name: number
    for number, name in enumerate(
        (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"), start=1
    )
}
_TIME = rb"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_DATE_FORMS = (
    # Sun, 06 Nov 1994 08:49:37 GMT
    re.compile(rb"[A-Z][a-z]{2}, (?P<day>[0-9]{2}) (?P<month>[A-Z][a-z]{2}) (?P<year>[0-9]{4}) " + _TIME + rb" GMT"),
    # Sunday, 06-Nov-94 08:49:37 GMT
    re.compile(rb"[A-Z][a-z]{5,8}, (?P<day>[0-9]{2})-(?P<month>[A-Z][a-z]{2})-(?P<year>[0-9]{2}) " + _TIME + rb" GMT"),
    # Sun Nov  6 08:49:37 1994
    re.compile(rb"[A-Z][a-z]{2} (?P<month>[A-Z][a-z]{2}) (?P<day>[ 0-9][0-9]) " + _TIME + rb" (?P<year>[0-9]{4})"),
)
_COMMA_OR_QUOTE = re.compile(rb'[,"]')
_QUOTED = re.compile(rb'(W/)?"([^"]*)"')


def parse_http_date(value: bytes) -> int | None:
    """Seconds since the epoch of an HTTP date in any of its three forms; None when it is none of them.

    A two-digit year is one of 1970 to 2069. The day's name is not compared with the date.
    """
    value = value.strip()
    for form in _DATE_FORMS:
        match = form.fullmatch(value)
        if match is not None:
            break
    else:
        return None
    month = _MONTHS.get(match["month"])
    year, day = int(match["year"]), int(match["day"])
    if len(match["year"]) == 2:
        year += 1900 if year >= 70 else 2000
    hour, minute, second = int(match["hour"]), int(match["minute"]), int(match["second"])
    if month is None or year < 1 or not 1 <= day <= calendar.monthrange(year, month)[1]:
        return None
    if hour > 23 or minute > 59 or second > 60:
        return None
    return calendar.timegm((year, month, day, hour, minute, second))


def _members(value: bytes) -> Iterator[bytes]:
    """The members of a comma-separated list; a comma between quotes separates nothing."""
    start = position = 0
    in_quotes = False
    while (found := _COMMA_OR_QUOTE.search(value, position)) is not None:
        position = found.end()
        if found[0] == b'"':
            in_quotes = not in_quotes
        elif not in_quotes:
            yield value[start : found.start()].strip()
            start = position
    yield value[start:].strip()


def _tags(value: bytes) -> Iterator[tuple[bool, bytes]]:
    """The members of a list of entity tags as (weak, opaque). A member with an unclosed or misplaced quote is left
    out.
    """
    for member in _members(value):
        match = _QUOTED.fullmatch(member)
        if match is not None:
            yield match[1] is not None, match[2]
        elif member and b'"' not in member:
            yield False, member


def _opaque(etag: bytes) -> tuple[bool, bytes]:
    """A stored entity tag as (weak, opaque), with or without quotes."""
    weak = etag.startswith(b"W/")
    if weak:
        etag = etag[2:]
    if len(etag) >= 2 and etag.startswith(b'"') and etag.endswith(b'"'):
        etag = etag[1:-1]
    return weak, etag


def _has_star(value: bytes) -> bool:
    return value.strip() == b"*"


def strong_match(field_value: bytes, etag: bytes) -> bool:
    """Whether If-Match's value names the stored entity tag: ``*``, or a list member, neither of them weak."""
    if _has_star(field_value):
        return True
    weak, opaque = _opaque(etag)
    return not weak and any(not is_weak and member == opaque for is_weak, member in _tags(field_value))


def weak_match(field_value: bytes, etag: bytes) -> bool:
    """Whether If-None-Match's value names the stored entity tag: ``*``, or a list member, weak or not."""
    if _has_star(field_value):
        return True
    _, opaque = _opaque(etag)
    return any(member == opaque for _, member in _tags(field_value))


def if_range_matches(value: bytes, etag: bytes, last_modified: bytes | None) -> bool:
    """Whether the Range field beside this If-Range may be honoured (RFC 9110 section 13.1.5).

    Only one quoted, strong tag that equals the stored one, or a date that is exactly the stored Last-Modified.
    """
    value = value.strip()
    match = _QUOTED.fullmatch(value)
    if match is not None:
        weak, opaque = _opaque(etag)
        return match[1] is None and not weak and match[2] == opaque
    date = parse_http_date(value)
    return date is not None and last_modified is not None and date == parse_http_date(last_modified)


@attrs.frozen(kw_only=True)
class Conditions:
    """The preconditions of one request except If-Range. Fields that came several times are joined as a list."""

    if_match: bytes | None = None
    if_none_match: bytes | None = None
    if_modified_since: bytes | None = None
    if_unmodified_since: bytes | None = None

    def judgeable(self, last_modified: bytes | None) -> bool:
        """Whether :func:`evaluate` gives what S3 would: no date is malformed, and Last-Modified is known if one
        counts.
        """
        for date, overruled_by in (
            (self.if_unmodified_since, self.if_match),
            (self.if_modified_since, self.if_none_match),
        ):
            if date is None:
                continue
            if parse_http_date(date) is None:
                return False
            if overruled_by is None and (last_modified is None or parse_http_date(last_modified) is None):
                return False
        return True


class Verdict(enum.Enum):
    """What a request's preconditions say about its answer."""

    PROCEED = "proceed"
    NOT_MODIFIED = "not-modified"
    PRECONDITION_FAILED = "precondition-failed"


def read_conditions(headers: Headers) -> Conditions | None:
    """The request's preconditions except If-Range; None when it has none."""
    if not headers.has_any(CONDITIONAL_FIELDS):
        return None

    def joined(name: bytes) -> bytes | None:
        return b", ".join(headers.get_all(name)) if name in headers else None

    conditions = Conditions(
        if_match=joined(b"if-match"),
        if_none_match=joined(b"if-none-match"),
        if_modified_since=joined(b"if-modified-since"),
        if_unmodified_since=joined(b"if-unmodified-since"),
    )
    return None if conditions == Conditions() else conditions


def evaluate(conditions: Conditions, etag: bytes, last_modified: bytes | None, method: bytes) -> Verdict:
    """Judge preconditions in the order of RFC 9110 section 13.2.2.

    A date that is malformed, or that meets an unknown Last-Modified, is ignored; see :meth:`Conditions.judgeable`.

    :param etag: the stored entity tag
    :param last_modified: the stored Last-Modified field, or None
    :param method: for other methods than GET and HEAD a matching If-None-Match fails instead
    """
    is_read = method in (b"GET", b"HEAD")
    modified = None if last_modified is None else parse_http_date(last_modified)
    if conditions.if_match is not None:
        if not strong_match(conditions.if_match, etag):
            return Verdict.PRECONDITION_FAILED
    elif conditions.if_unmodified_since is not None and modified is not None:
        date = parse_http_date(conditions.if_unmodified_since)
        if date is not None and modified > date:
            return Verdict.PRECONDITION_FAILED
    if conditions.if_none_match is not None:
        if weak_match(conditions.if_none_match, etag):
            return Verdict.NOT_MODIFIED if is_read else Verdict.PRECONDITION_FAILED
    elif conditions.if_modified_since is not None and modified is not None and is_read:
        date = parse_http_date(conditions.if_modified_since)
        if date is not None and modified <= date:
            return Verdict.NOT_MODIFIED
    return Verdict.PROCEED
