"""A look at bytes that may be one whole, ordinary read request: what the fast lane needs of it, or nothing.

This is no parser but a filter: what it lets through, the parser (:mod:`s3proxy.wire.head`) understands in the same way;
whatever is unusual in any respect it leaves alone.
"""

import re

from s3proxy.gateway.lane import Glance

__all__ = ["Glancer"]

MOST_NAMES = 1000
"""Spellings of header names that are remembered."""
LONGEST_TARGET = 4096
LONGEST_HOST = 256
LONGEST_RANGE = 64
"""Bytes. What is longer is no object's name and no ordinary range, and nobody should have to remember it."""

_OTHER, _HARMLESS, _HOST, _RANGE, _AUTHORIZATION, _CHECKSUMS, _CONNECTION, _LENGTH, _AGENT, _REFERER = range(10)
_KINDS = {
    b"host": _HOST,
    b"range": _RANGE,
    b"authorization": _AUTHORIZATION,
    b"x-amz-checksum-mode": _CHECKSUMS,
    b"connection": _CONNECTION,
    b"content-length": _LENGTH,
    b"user-agent": _AGENT,
    b"referer": _REFERER,
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

    def glance(self, data: bytes) -> Glance | None:
        """What these bytes ask for, if they are exactly one GET or HEAD in which nothing is unusual."""
        lines = data.split(b"\r\n")
        if len(lines) < 4 or lines[-1] or lines[-2]:
            return None
        # One CR and one LF a line, and no other byte than those of plain text.
        if len(data.translate(None, _PLAIN)) != 2 * len(lines) - 2:
            return None
        words = lines[0].split(b" ")
        if len(words) != 3 or words[2] != b"HTTP/1.1" or words[0] not in (b"GET", b"HEAD"):
            return None
        if len(words[1]) > LONGEST_TARGET:
            return None
        host = wanted = agent = referer = length = None
        access_key = None
        checksums = False
        names = self._names
        for line in lines[1:-2]:
            name, _, value = line.partition(b": ")
            kind = names.get(name)
            if kind is None:
                kind = self._learn(name)
            if kind == _HARMLESS:
                continue
            if kind == _HOST and host is None:
                host = value
            elif kind == _AUTHORIZATION and access_key is None:
                match = _SIGNED.fullmatch(value)
                if match is None:
                    return None
                access_key = match.group(1)
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
            elif not (kind == _CONNECTION and value.lower() == b"keep-alive"):
                return None
        if host is None or len(host) > LONGEST_HOST or wanted is not None and len(wanted) > LONGEST_RANGE:
            return None
        return Glance(words[0], words[1], host, wanted, checksums, access_key, agent or b"", referer or b"")

    def _learn(self, name: bytes) -> int:
        kind = _KINDS.get(name.lower(), _OTHER)
        if kind != _OTHER and len(self._names) < MOST_NAMES:
            self._names[name] = kind
        return kind
