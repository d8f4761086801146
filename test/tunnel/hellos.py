"""ClientHello messages: well-formed ones with anything in them, and real ones."""

import ssl

__all__ = ["GREASE", "client_hello", "extension", "number", "real_hello", "records", "server_names", "vector"]

GREASE = 0x8A8A


def number(value: int, size: int) -> bytes:
    """An unsigned number."""
    return value.to_bytes(size, "big")


def vector(data: bytes, size: int) -> bytes:
    """Bytes behind their number, which has *size* bytes."""
    return number(len(data), size) + data


def extension(kind: int, content: bytes) -> bytes:
    """One extension."""
    return number(kind, 2) + vector(content, 2)


def server_names(*names: bytes, kind: int = 0) -> bytes:
    """The extension that names servers."""
    return extension(0, vector(b"".join(number(kind, 1) + vector(name, 2) for name in names), 2))


def client_hello(*extensions: bytes, random: bytes = b"r" * 32, session: bytes = b"s" * 32) -> bytes:
    """The handshake message, without records."""
    suites = number(GREASE, 2) + b"\x13\x01\x13\x02"
    body = b"\x03\x03" + random + vector(session, 1) + vector(suites, 2) + vector(b"\0", 1)
    if extensions:
        body += vector(b"".join(extensions), 2)
    return b"\x01" + vector(body, 3)


def records(message: bytes, size: int = 1 << 14) -> bytes:
    """The message in records of at most so many bytes."""
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + vector(piece, 2) for piece in pieces)


def real_hello(name: str) -> bytes:
    """What OpenSSL sends first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()
