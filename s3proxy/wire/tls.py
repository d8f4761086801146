"""TLS between clients and a data listener: certificate and key, which may change while the listener runs."""

import os
from datetime import datetime, timezone
from typing import Any

import attrs
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from s3proxy.wire.site import CachingSite

__all__ = ["Certificate", "CertificateProblem", "ServerTLS", "read_certificate", "tls_factory"]

_ALPN = b"http/1.1"


class CertificateProblem(Exception):
    """Certificate and key can't be used. The text says why, and names the file."""


@attrs.frozen
class Certificate:
    """A certificate with its key, ready for use.

    :ivar context: with both of them, the chain, and this proxy's policy for TLS
    :ivar expires_at: Unix time from which on clients refuse it
    :ivar subject: whom it names, for people
    :ivar stamp: what tells these files from later ones
    """

    context: SSL.Context
    expires_at: float
    subject: str
    stamp: tuple[object, ...]


def stamp_of(cert_path: str, key_path: str) -> tuple[object, ...]:
    """What changes when one of the files is written or replaced.

    :raises CertificateProblem: one of them can't be found
    """
    found: list[object] = []
    for path in (cert_path, key_path):
        try:
            status = os.stat(path)
        except OSError as error:
            raise CertificateProblem(f"{path} can't be read: {error.strerror or error}") from None
        found += [status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev]
    return tuple(found)


def read_certificate(cert_path: str, key_path: str, last: tuple[object, ...] = ()) -> Certificate | None:
    """Read both files; None if they are those of *last*. Reads; for a thread.

    :raises CertificateProblem: they can't be used
    """
    stamp = stamp_of(cert_path, key_path)
    if stamp == last:
        return None
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.set_alpn_select_callback(_select_protocol)
    context.set_session_id(b"s3proxy")
    # A key with a password must not make the process ask for it.
    context.set_passwd_cb(lambda *_: b"")
    try:
        with open(cert_path, "rb") as file:
            certificate = crypto.load_certificate(crypto.FILETYPE_PEM, file.read())
        context.use_certificate_chain_file(cert_path)
    except (SSL.Error, crypto.Error, ValueError):
        raise CertificateProblem(f"{cert_path} holds no certificate chain in PEM format") from None
    except OSError as error:
        raise CertificateProblem(f"{cert_path} can't be read: {error.strerror or error}") from None
    try:
        context.use_privatekey_file(key_path)
    except SSL.Error as error:
        if "mismatch" in str(error):
            raise CertificateProblem(f"the key in {key_path} does not belong to {cert_path}") from None
        raise CertificateProblem(f"{key_path} holds no key in PEM format without a password") from None
    try:
        context.check_privatekey()
    except SSL.Error:
        raise CertificateProblem(f"the key in {key_path} does not belong to {cert_path}") from None
    return Certificate(context, _expiry(certificate), certificate.get_subject().CN or "", stamp)


def _expiry(certificate: crypto.X509) -> float:
    text = certificate.get_notAfter()
    if text is None:
        return 0.0
    at = datetime.strptime(text.decode("ascii"), "%Y%m%d%H%M%SZ")
    return at.replace(tzinfo=timezone.utc).timestamp()


def _select_protocol(connection: SSL.Connection, offered: list[bytes]) -> Any:
    return _ALPN if _ALPN in offered else SSL.NO_OVERLAPPING_PROTOCOLS


@implementer(IOpenSSLServerConnectionCreator)
class ServerTLS:
    """Makes the server's side of new connections; those that exist keep the certificate they began with.

    :ivar certificate: the one in use
    """

    def __init__(self, certificate: Certificate) -> None:
        self.certificate = certificate

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Called for each accepted connection."""
        return SSL.Connection(self.certificate.context, None)


class ListenerTLS(BufferingTLSTransport):
    """The TLS layer of one client's connection; tells its site when no handshake came about."""

    log = Logger()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Called by the socket."""
        site: Any = self.factory.wrappedFactory  # type: ignore[union-attr]
        shaken = self._handshakeDone
        failure = self._reason or reason
        if not shaken and failure.check(SSL.Error):
            site.counters.failed_handshakes += 1
            self.log.debug("TLS handshake failed: {reason}", reason=failure.getErrorMessage())
        super().connectionLost(reason)


def tls_factory(reactor: Any, tls: ServerTLS, site: CachingSite) -> TLSMemoryBIOFactory:
    """A factory that puts TLS before the connections of *site*."""
    factory = TLSMemoryBIOFactory(tls, False, site, clock=reactor)
    factory.protocol = ListenerTLS
    return factory
