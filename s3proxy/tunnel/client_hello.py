"""The first message of a TLS connection, read as far as the server's name (RFC 8446 4.1.2, RFC 6066 3).

Nothing here does input or output, and nothing but :class:`HelloError` is raised, whatever the bytes are.
"""

import enum
import ipaddress
import re

import attrs

__all__ = ["LARGEST_HELLO", "ClientHello", "ClientHelloReader", "HelloError", "HelloFault"]

LARGEST_HELLO = 16 * 1024
"""Bytes within which the message must be complete, framing included."""

_RECORD_HEADER = 5
_LARGEST_RECORD = 16 * 1024
_HANDSHAKE = 22
_CLIENT_HELLO = 1
_SERVER_NAME = 0
_ENCRYPTED_CLIENT_HELLO = 0xFE0D
_HOST_NAME = 0

_METHODS = (b"GET ", b"HEAD ", b"PUT ", b"POST ", b"DELETE ", b"OPTIONS ", b"CONNECT ", b"PATCH ", b"TRACE ", b"PRI ")
_NAME = re.compile(
    r"(?=.{1,253}\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*"
)


class HelloFault(str, enum.Enum):
    """Why a connection can't be passed on; the value is the word of the metrics and of the access log."""

    NOT_TLS = "not_tls"
    HTTP = "http"
    TOO_LONG = "too_long"
    MALFORMED = "malformed"
    NO_NAME = "no_sni"
    ENCRYPTED_NAME = "ech"
    BAD_NAME = "bad_sni"


class HelloError(Exception):
    """What was received is no ClientHello that names a host."""

    def __init__(self, fault: HelloFault, detail: str) -> None:
        super().__init__(detail)
        self.fault = fault


@attrs.frozen
class ClientHello:
    """What matters of the message.

    :ivar server_name: a host name, lower case and without a dot at its end; never an IP address
    :ivar random: the 32 bytes that tell this message from all others
    :ivar encrypted: whether it also holds an encrypted one, whose name nobody on the way can read
    """

    server_name: str
    random: bytes
    encrypted: bool


class _Fields:
    """Takes fields off the front of a byte string; what is missing is a fault of the message."""

    __slots__ = ("_data", "_at")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        """The next *count* bytes."""
        end = self._at + count
        if end > len(self._data):
            raise HelloError(HelloFault.MALFORMED, "a field of the ClientHello is longer than what holds it")
        found = self._data[self._at : end]
        self._at = end
        return found

    def number(self, size: int) -> int:
        """An unsigned number of *size* bytes."""
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        """Bytes preceded by their number, which has *size* bytes."""
        return self.take(self.number(size))


class ClientHelloReader:
    """Gets the bytes of a connection in any pieces, until it knows what they say.

    :ivar received: all bytes so far, unchanged: what has to be passed on
    """

    __slots__ = ("received", "_at", "_message")

    def __init__(self) -> None:
        self.received = bytearray()
        self._at = 0
        self._message = bytearray()

    def feed(self, data: bytes) -> ClientHello | None:
        """Take some bytes; None: more are needed.

        :raises HelloError: they are not, or will not become, what is wanted; nothing may be fed afterwards
        """
        self.received += data
        while True:
            message = self._message
            if len(message) >= 4:
                if message[0] != _CLIENT_HELLO:
                    raise HelloError(HelloFault.NOT_TLS, "the first TLS message is no ClientHello")
                size = 4 + int.from_bytes(message[1:4], "big")
                if size > LARGEST_HELLO:
                    raise HelloError(HelloFault.TOO_LONG, f"the ClientHello announces {size} bytes")
                if len(message) >= size:
                    return _parse(bytes(message[4:size]))
            if not self._take_record():
                if len(self.received) >= LARGEST_HELLO:
                    raise HelloError(HelloFault.TOO_LONG, f"no complete ClientHello within {LARGEST_HELLO} bytes")
                return None

    def _take_record(self) -> bool:
        """Append the next record's bytes to the message; False: it is not complete."""
        received, at = self.received, self._at
        if len(received) <= at:
            return False
        if received[at] != _HANDSHAKE:
            raise self._no_tls()
        if len(received) > at + 1 and received[at + 1] != 3:
            raise self._no_tls()
        if len(received) < at + _RECORD_HEADER:
            return False
        size = int.from_bytes(received[at + 3 : at + 5], "big")
        if not 0 < size <= _LARGEST_RECORD:
            raise HelloError(HelloFault.NOT_TLS, f"a TLS record announces {size} bytes")
        end = at + _RECORD_HEADER + size
        if end > LARGEST_HELLO and not self._message:
            raise HelloError(HelloFault.TOO_LONG, f"the first TLS record has {size} bytes")
        if len(received) < end:
            return False
        self._message += received[at + _RECORD_HEADER : end]
        self._at = end
        return True

    def _no_tls(self) -> HelloError:
        start = bytes(self.received[:8])
        if self._at == 0 and any(start.startswith(method[:8]) for method in _METHODS):
            return HelloError(HelloFault.HTTP, "plain HTTP was sent to the port for TLS")
        return HelloError(HelloFault.NOT_TLS, "what was received is no TLS handshake")


def _parse(body: bytes) -> ClientHello:
    fields = _Fields(body)
    fields.take(2)
    random = fields.take(32)
    session = fields.vector(1)
    suites = fields.vector(2)
    methods = fields.vector(1)
    if len(session) > 32 or not suites or len(suites) % 2 or not methods:
        raise HelloError(HelloFault.MALFORMED, "the ClientHello has a field of impossible length")
    names: bytes | None = None
    encrypted = False
    if fields:
        extensions = _Fields(fields.vector(2))
        if fields:
            raise HelloError(HelloFault.MALFORMED, "bytes follow the extensions of the ClientHello")
        while extensions:
            kind = extensions.number(2)
            content = extensions.vector(2)
            if kind == _SERVER_NAME:
                if names is not None:
                    raise HelloError(HelloFault.MALFORMED, "the ClientHello names servers twice")
                names = content
            elif kind == _ENCRYPTED_CLIENT_HELLO:
                encrypted = True
    if names is None:
        if encrypted:
            raise HelloError(HelloFault.ENCRYPTED_NAME, "the ClientHello names its server in its encrypted part only")
        raise HelloError(HelloFault.NO_NAME, "the ClientHello names no server")
    return ClientHello(_host_name(names), random, encrypted)


def _host_name(content: bytes) -> str:
    """The one host name of the extension's content; entries of other types are left aside."""
    fields = _Fields(content)
    entries = _Fields(fields.vector(2))
    if fields or not entries:
        raise HelloError(HelloFault.MALFORMED, "the list of server names is not well-formed")
    found: bytes | None = None
    while entries:
        kind = entries.number(1)
        name = entries.vector(2)
        if kind == _HOST_NAME:
            if found is not None:
                raise HelloError(HelloFault.MALFORMED, "the ClientHello has two host names")
            found = name
    if found is None:
        raise HelloError(HelloFault.NO_NAME, "the ClientHello has no host name")
    try:
        text = found.decode("ascii").lower().removesuffix(".")
    except UnicodeDecodeError:
        text = ""
    if _NAME.fullmatch(text) is None or _is_address(text):
        raise HelloError(HelloFault.BAD_NAME, "the server name of the ClientHello is no host name")
    return text


def _is_address(text: str) -> bool:
    """Whether it is an IP address, which has no place there (RFC 6066 3), or might be taken for one."""
    last = text.rpartition(".")[2]
    if last.isdigit() or re.fullmatch(r"0x[0-9a-f]*", last):
        return True
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
