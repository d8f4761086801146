"""A look at bytes that may be one whole, ordinary read request: what the fast lane needs of it, or nothing.

This is no parser but a filter: what it lets through, the parser (:mod:`s3proxy.wire.head`) understands in the same way;
whatever is unusual in any respect it leaves alone.
"""

import re

import attrs

from s3proxy.gateway.lane import Glance
from s3proxy.s3.validators import Conditions

__all__ = ["Glancer"]

MOST_NAMES = 1000
"""Spellings of header names that are remembered."""
LONGEST_TARGET = 4096
LONGEST_HOST = 256
LONGEST_RANGE = 64
LONGEST_CONDITION = 128
"""Bytes. What is longer is no object's name, no ordinary range and no single ETag, and nobody should have to remember
it.
"""

LONGEST_KEPT = 4096
"""Bytes of a head whose lines are kept for a comparison with the next one's."""

_OTHER, _HARMLESS, _HOST, _RANGE, _AUTHORIZATION, _CHECKSUMS, _CONNECTION, _LENGTH, _AGENT, _REFERER = range(10)
_REQUEST_LINE = 10
_IF_MATCH, _IF_NONE_MATCH, _IF_MODIFIED_SINCE, _IF_UNMODIFIED_SINCE = range(11, 15)
_CONDITIONS = {
    _IF_MATCH: "if_match",
    _IF_NONE_MATCH: "if_none_match",
    _IF_MODIFIED_SINCE: "if_modified_since",
    _IF_UNMODIFIED_SINCE: "if_unmodified_since",
}
_KINDS = {
    b"host": _HOST,
    b"range": _RANGE,
    b"authorization": _AUTHORIZATION,
    b"x-amz-checksum-mode": _CHECKSUMS,
    b"connection": _CONNECTION,
    b"content-length": _LENGTH,
    b"user-agent": _AGENT,
    b"referer": _REFERER,
    b"if-match": _IF_MATCH,
    b"if-none-match": _IF_NONE_MATCH,
    b"if-modified-since": _IF_MODIFIED_SINCE,
    b"if-unmodified-since": _IF_UNMODIFIED_SINCE,
    **dict.fromkeys(
        (
            b"accept",
            b"accept-encoding",
            b"accept-language",
            b"amz-sdk-invocation-id",
            b"amz-sdk-request",
            b"content-type",
            b"traceparent",
            b"x-amz-api-version",
            b"x-amz-content-sha256",
            b"x-amz-security-token",
            b"x-amz-user-agent",
            b"x-amzn-trace-id",
            b"x-amz-date",
        ),
        _HARMLESS,
    ),
}
"""Fields that can't change what is answered are harmless; any field that is not here may change it."""

_HEX = b"0123456789abcdef"
_PLAIN = bytes(range(0x20, 0x7F))
# The complete form that current SDKs send. x-amz-date is needed, and harmless, beside it.
_SIGNED = re.compile(
    rb"AWS4-HMAC-SHA256 Credential=([A-Za-z0-9]{16,128})/[0-9]{8}/[a-z0-9-]{1,40}/s3/aws4_request, ?"
    rb"SignedHeaders=([a-z0-9;-]{1,1000}), ?Signature=[0-9a-f]{64}"
)


class Glancer:
    """Remembers how clients spell header names."""

    def __init__(self) -> None:
        self._names: dict[bytes, int] = {}
        for name, kind in _KINDS.items():
            self._names[name] = self._names[name.title()] = kind

    def glance(self, data: bytes, last: Glance | None = None) -> Glance | None:
        """What these bytes ask for, if they are exactly one GET or HEAD in which nothing is unusual.

        :param last: the request before it on the same connection
        """
        lines = data.split(b"\r\n")
        if last is not None and len(lines) == len(last.lines):
            again = self._compare(lines, last)
            if again is not None:
                return again
        if len(lines) < 4 or lines[-1] or lines[-2]:
            return None
        # One CR and one LF a line, and no other byte than those of plain text.
        if len(data.translate(None, _PLAIN)) != 2 * len(lines) - 2:
            return None
        words = _request_line(lines[0])
        if words is None:
            return None
        host = wanted = agent = referer = length = None
        access_key = None
        checksums = False
        conditions: dict[str, bytes] = {}
        names = self._names
        kinds = [_REQUEST_LINE]
        for line in lines[1:-2]:
            name, colon, value = line.partition(b": ")
            kind = names.get(name)
            if kind is None:
                kind = self._learn(name)
            if not colon:
                return None
            kinds.append(kind)
            if kind == _HARMLESS:
                continue
            if value[:1] == b" " or value[-1:] == b" ":
                return None
            if kind == _HOST and host is None:
                host = value
            elif kind == _AUTHORIZATION and access_key is None:
                access_key = _signer(value)
                if access_key is None:
                    return None
            elif kind == _AGENT and agent is None:
                agent = value
            elif kind == _RANGE and wanted is None:
                wanted = value
            elif kind == _CHECKSUMS and value.lower() == b"enabled":
                checksums = True
            elif kind == _REFERER and referer is None:
                referer = value
            elif kind == _LENGTH and length is None and value == b"0":
                length = value
            elif kind in _CONDITIONS and _CONDITIONS[kind] not in conditions and len(value) <= LONGEST_CONDITION:
                conditions[_CONDITIONS[kind]] = value
            elif not (kind == _CONNECTION and value.lower() == b"keep-alive"):
                return None
        if host is None or len(host) > LONGEST_HOST or wanted is not None and len(wanted) > LONGEST_RANGE:
            return None
        glance = Glance(words[0], words[1], host, wanted, checksums, access_key, agent or b"", referer or b"")
        if conditions:
            glance.conditions = Conditions(**conditions)
        if len(data) <= LONGEST_KEPT:
            glance.lines = lines
            glance.kinds = (*kinds, _OTHER, _OTHER)
        return glance

    def _compare(self, lines: list[bytes], last: Glance) -> Glance | None:
        """The same, by the lines in which this request differs from the last one; None if they don't tell.

        Of the ten lines that an SDK sends, four or five change from one request to the next: the target, the date, the
        signature's value, the number of the attempt.
        """
        method, target, wanted, conditions = last.method, last.target, last.wanted, last.conditions
        names = self._names
        for line, before, kind in zip(lines, last.lines, last.kinds):
            if line == before:
                continue
            if line.translate(None, _PLAIN):
                return None
            if kind == _REQUEST_LINE:
                words = _request_line(line)
                if words is None:
                    return None
                method, target = words
                continue
            name, colon, value = line.partition(b": ")
            if names.get(name) != kind or not colon:
                return None
            if kind == _HARMLESS:
                continue
            if kind == _AUTHORIZATION:
                if len(line) != len(before) or line[:-64] != before[:-64] or line[-64:].translate(None, _HEX):
                    return None
            elif kind == _RANGE and len(value) <= LONGEST_RANGE and value[:1] != b" " and value[-1:] != b" ":
                wanted = value
            elif kind in _CONDITIONS and len(value) <= LONGEST_CONDITION and value[:1] != b" " and value[-1:] != b" ":
                assert conditions is not None
                conditions = attrs.evolve(conditions, **{_CONDITIONS[kind]: value})
            else:
                return None
        return Glance(
            method,
            target,
            last.host,
            wanted,
            last.checksums,
            last.access_key,
            last.user_agent,
            last.referer,
            conditions,
            last.caller,
            lines,
            last.kinds,
        )

    def _learn(self, name: bytes) -> int:
        kind = _KINDS.get(name.lower(), _OTHER)
        if kind != _OTHER and len(self._names) < MOST_NAMES:
            self._names[name] = kind
        return kind


def _request_line(line: bytes) -> tuple[bytes, bytes] | None:
    """Method and target."""
    words = line.split(b" ")
    if len(words) != 3 or words[2] != b"HTTP/1.1" or words[0] not in (b"GET", b"HEAD"):
        return None
    return (words[0], words[1]) if 0 < len(words[1]) <= LONGEST_TARGET else None


def _signer(value: bytes) -> bytes | None:
    """The access key id of a signature in its usual form."""
    match = _SIGNED.fullmatch(value)
    return None if match is None else match.group(1)
