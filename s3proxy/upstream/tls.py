"""TLS towards S3: contexts shared by all connections of one policy, SNI, and the check of the peer's certificate."""

import time
from collections.abc import Callable
from typing import Any

from OpenSSL import SSL, crypto
from service_identity.exceptions import CertificateError, VerificationError
from service_identity.pyopenssl import verify_hostname, verify_ip_address
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from s3proxy.s3.address import certificate_host
from s3proxy.upstream.interfaces import UpstreamError, UpstreamTLSError, UpstreamUnreachable
from s3proxy.upstream.routing import TLSPolicy, ip_literal
from s3proxy.upstream.sessions import Session, TLSSessions, was_resumed
from s3proxy.upstream.sockets import UpstreamSocket

__all__ = [
    "ClientContexts",
    "ConnectionCreator",
    "Decrypter",
    "Encrypter",
    "UpstreamTLS",
    "check_name",
    "find_decrypter",
    "handshake_error",
]

RECORD = 16 * 1024
"""The most bytes that one TLS record holds (RFC 8446 5.1)."""
PIECE = 64 * 1024
"""Bytes that are handed on together."""
SENT_TOGETHER = 256 * 1024
"""Bytes of a request's body that are encrypted before any of them is sent."""

_CHAIN_ERRORS = {
    7: "was not signed by the authority it names",
    9: "is not valid yet",
    10: "has expired",
    18: "is self-signed",
    19: "was issued by an authority that is not trusted here",
    20: "was issued by an authority that is not trusted here",
    21: "was issued by an authority that is not trusted here",
    23: "has been revoked",
}


class Decrypter:
    """Takes decrypted records out of connections, into one buffer that they share.

    pyOpenSSL's ``recv`` makes an object of every record and an exception of every end, and records have to be joined
    then. Measured, this takes 320 instead of 430 µs per MiB, decryption included.

    :raises AttributeError: pyOpenSSL looks different inside
    """

    def __init__(self) -> None:
        inside: Any = SSL
        lib, ffi = inside._lib, inside._ffi
        self._read, self._error, self._want_read = lib.SSL_read, lib.SSL_get_error, lib.SSL_ERROR_WANT_READ
        self._buffer = ffi.new("char[]", PIECE + RECORD)
        self._bytes = ffi.buffer(self._buffer)
        sample: Any = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
        self._read(sample._ssl, self._buffer, 0)
        sample._raise_ssl_error

    def read(self, connection: Any) -> tuple[bytes, Failure | None]:
        """At least PIECE bytes, or what there is. And, if that is less, how it ends: None: more has to be received."""
        session, size = connection._ssl, 0
        while size < PIECE:
            count = self._read(session, self._buffer + size, RECORD)
            if count <= 0:
                if self._error(session, count) == self._want_read:
                    return self._bytes[:size], None
                try:
                    connection._raise_ssl_error(session, count)
                except SSL.Error:
                    return self._bytes[:size], Failure()
            size += count
        return self._bytes[:size], None


def find_decrypter() -> Decrypter | None:
    """The way past pyOpenSSL's own methods, if there is one."""
    try:
        return Decrypter()
    except (AttributeError, TypeError, SSL.Error):
        return None


class Encrypter:
    """Puts bytes into records, into one buffer that connections share.

    Twisted cuts what is written into records, makes an object of each and of what it becomes, and gives them to the
    socket one by one. Measured on uploads of 64 MiB, with larger reads and writes, the processor time is half of that.
    OpenSSL's own buffer is emptied after PIECE bytes: each connection keeps the largest that it ever had.

    :raises AttributeError: pyOpenSSL looks different inside
    """

    def __init__(self) -> None:
        inside: Any = SSL
        lib, self._ffi = inside._lib, inside._ffi
        self._write, self._read = lib.SSL_write, lib.BIO_read
        # What a record adds to its bytes is less than 100 of them, and nothing was left in OpenSSL's buffer before.
        self._size = SENT_TOGETHER + 2 * RECORD
        self._buffer = self._ffi.new("char[]", self._size)
        self._bytes = memoryview(self._ffi.buffer(self._buffer))
        sample: Any = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
        self._read(sample._from_ssl, self._buffer, 0)
        sample._ssl

    def encrypt(self, connection: Any, data: bytes, start: int) -> tuple[int, memoryview]:
        """Take bytes from ``data[start:]``, at most SENT_TOGETHER; returns where it stopped, and what to send, which
        stands until the next call. When it took none, OpenSSL can't go on, and the next attempt tells why.
        """
        session, bio, write = connection._ssl, connection._from_ssl, self._write
        stop = min(len(data), start + SENT_TOGETHER)
        filled = 0
        with self._ffi.from_buffer(data) as plain:
            while start < stop:
                piece = min(stop, start + PIECE)
                while start < piece and (count := write(session, plain + start, min(RECORD, piece - start))) > 0:
                    start += count
                filled += max(0, self._read(bio, self._buffer + filled, self._size - filled))
                if start < piece:
                    break
        return start, self._bytes[:filled]


def find_encrypter() -> Encrypter | None:
    """The same for what is sent."""
    try:
        return Encrypter()
    except (AttributeError, TypeError, SSL.Error):
        return None


class UpstreamTLS(TLSMemoryBIOProtocol):
    """The TLS layer of one connection. It hands on what one read of the socket brought in pieces of some records each.

    A record is 16 KiB at most, and handing on costs as much as decrypting a third of it. Larger pieces would not be
    cheaper: from 128 KiB on, each would be mapped into memory anew.

    :ivar chain_error: OpenSSL's verification error (``X509_V_ERR_*``), once there was one
    :cvar decrypter: None: pyOpenSSL's own methods have to do
    :cvar encrypter: the same for what is sent
    """

    chain_error: int | None = None
    decrypter = find_decrypter()
    encrypter = find_encrypter()

    def _write(self, bytes: bytes) -> None:
        start = 0
        if len(bytes) > RECORD and self.encrypter is not None and self._handshakeDone:
            start = self._write_records(self.encrypter, bytes)
        if start == 0:
            super()._write(bytes)
        elif start < len(bytes):
            super()._write(bytes[start:])

    def _write_records(self, encrypter: Encrypter, data: bytes) -> int:
        """Send as much as OpenSSL takes; returns where it stopped."""
        lower: Any = self.transport
        start = 0
        while start < len(data) and not self._lostTLSConnection:
            stop, records = encrypter.encrypt(self._tlsConnection, data, start)
            if records:
                if isinstance(lower, UpstreamSocket):
                    lower.write_through(records)
                else:
                    lower.write(records.tobytes())
            if stop == start:
                break
            start = stop
        return start

    def dataReceived(self, data: bytes) -> None:
        """Called by the socket.

        What TLS itself has to say after the handshake (the answer to a key update) may wait for the next request.
        """
        if self.decrypter is None or not self._handshakeDone or self._appSendBuffer:
            super().dataReceived(data)
        else:
            self._tlsConnection.bio_write(data)
            self._decrypt(self.decrypter)

    def _flushReceiveBIO(self) -> None:
        if self.decrypter is not None:
            self._decrypt(self.decrypter)
        else:
            self._receive()
        self._flushSendBIO()

    def _decrypt(self, decrypter: Decrypter) -> None:
        while not self._lostTLSConnection:
            data, end = decrypter.read(self._tlsConnection)
            if data and not self._aborted:
                ProtocolWrapper.dataReceived(self, data)
            if end is not None:
                self._tls_ended(end)
            elif len(data) < PIECE:
                break

    def _receive(self) -> None:
        records: list[bytes] = []
        size = 0
        while not self._lostTLSConnection:
            try:
                record = self._tlsConnection.recv(RECORD)
            except SSL.WantReadError:
                break
            except SSL.Error:
                end = Failure()
                self._hand_on(records)
                self._tls_ended(end)
            else:
                records.append(record)
                size += len(record)
                if size >= PIECE:
                    self._hand_on(records)
                    size = 0
        self._hand_on(records)

    def _tls_ended(self, reason: Failure) -> None:
        if reason.check(SSL.ZeroReturnError):
            self._shutdownTLS()
            self._tlsShutdownFinished(None)
        else:
            self._tlsShutdownFinished(reason)

    def _hand_on(self, records: list[bytes]) -> None:
        if records and not self._aborted:
            ProtocolWrapper.dataReceived(self, records[0] if len(records) == 1 else b"".join(records))
        records.clear()


def _note_chain_error(connection: SSL.Connection, cert: crypto.X509, error: int, depth: int, ok: int) -> bool:
    protocol = connection.get_app_data()
    if not ok and isinstance(protocol, UpstreamTLS):
        protocol.chain_error = error
    return bool(ok)


@implementer(IOpenSSLClientConnectionCreator)
class ConnectionCreator:
    """Makes the TLS side of one connection.

    :ivar resumed: whether its handshake took up an earlier session
    """

    def __init__(
        self, context: SSL.Context, server_name: bytes | None, sessions: TLSSessions, policy: TLSPolicy, host: str
    ) -> None:
        self._context = context
        self._server_name = server_name
        self._sessions = sessions
        self._policy = policy
        self._host = host
        self._offered: Session | None = None
        self.resumed = False

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        connection = SSL.Connection(self._context, None)
        # Verification calls back with the connection only. Older releases of Twisted do not set this themselves.
        connection.set_app_data(tlsProtocol)
        if self._server_name is not None:
            connection.set_tlsext_host_name(self._server_name)
        self._offered = self._sessions.find(self._policy, self._host)
        if self._offered is not None:
            connection.set_session(self._offered.data)
        return connection

    def shaken(self, connection: SSL.Connection) -> None:
        """The handshake is complete, and the peer is who it should be."""
        self.resumed = was_resumed(connection)

    def answered(self, connection: SSL.Connection) -> None:
        """The peer has sent something after the handshake: what later connections need is among it."""
        self._sessions.keep(self._policy, self._host, connection, self._offered)

    def failed(self) -> None:
        """No connection came about."""
        if self._offered is not None:
            self._sessions.forget(self._policy, self._host)


class ClientContexts:
    """OpenSSL contexts, one per policy: reading the system's authorities takes milliseconds.

    :param system_ca: trust the system's authorities, besides a policy's own file
    :param seconds: a monotonic clock, by which sessions grow old
    """

    def __init__(
        self,
        system_ca: bool = True,
        make_context: Callable[[], SSL.Context] | None = None,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._system_ca = system_ca
        self._sessions = TLSSessions(seconds)
        self._make_context = make_context or (lambda: SSL.Context(SSL.TLS_CLIENT_METHOD))
        self._contexts: dict[TLSPolicy, SSL.Context] = {}

    def creator(self, policy: TLSPolicy, host: str) -> ConnectionCreator:
        """What makes a connection to *host* under *policy*. Sends SNI for names, none for IP literals (RFC 6066 3).

        :raises UpstreamTLSError: the policy's file can't be used
        """
        context = self._contexts.get(policy)
        if context is None:
            context = self._contexts[policy] = self._context(policy)
        name = None if ip_literal(host) else host.encode("ascii")
        return ConnectionCreator(context, name, self._sessions, policy, host)

    def _context(self, policy: TLSPolicy) -> SSL.Context:
        context = self._make_context()
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        if policy.tls12_only:
            context.set_max_proto_version(SSL.TLS1_2_VERSION)
        context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
        if not policy.verify:
            context.set_verify(SSL.VERIFY_NONE, _note_chain_error)
            return context
        context.set_verify(SSL.VERIFY_PEER, _note_chain_error)
        if self._system_ca:
            context.set_default_verify_paths()
        if policy.ca_file is not None:
            try:
                context.load_verify_locations(policy.ca_file)
            except SSL.Error:
                raise UpstreamTLSError(f"ca_file {policy.ca_file} holds no certificate that can be read") from None
        return context


def check_name(connection: SSL.Connection, host: str, peer: str) -> None:
    """Check that the certificate, whose chain has been verified, is for *host*.

    For a bucket with dots below one of Amazon's names see :func:`~s3proxy.s3.address.certificate_host`.

    :param peer: how messages call the peer
    :raises UpstreamTLSError: it is not
    """
    other = certificate_host(host)
    if not _is_for(connection, host) and (other is None or not _is_for(connection, other)):
        raise UpstreamTLSError(f"the certificate of {peer} is not for {host}")


def _is_for(connection: SSL.Connection, host: str) -> bool:
    try:
        if ip_literal(host):
            verify_ip_address(connection, host)
        else:
            verify_hostname(connection, host)
    except (VerificationError, CertificateError):
        return False
    return True


def handshake_error(layer: UpstreamTLS, reason: Failure, peer: str) -> UpstreamError:
    """What a connection that was lost during the handshake means."""
    if layer.chain_error is not None:
        text = _CHAIN_ERRORS.get(layer.chain_error, f"does not hold (OpenSSL verification error {layer.chain_error})")
        return UpstreamTLSError(f"the certificate of {peer} {text}")
    detail = reason.getErrorMessage()
    if isinstance(reason.value, SSL.Error) and reason.value.args and reason.value.args[0]:
        detail = str(reason.value.args[0][-1][-1])
    return UpstreamUnreachable(f"TLS handshake with {peer} failed: {detail}")
