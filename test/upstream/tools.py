"""What the tests of the upstream side share: settings, a byte source and sink, certificates, a scripted server."""

import datetime
import ipaddress
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from s3proxy.s3.headers import Headers
from s3proxy.upstream.interfaces import UpstreamRequest
from s3proxy.util.streams import IByteSink, IByteSource

__all__ = ["Authority", "Override", "ScriptedServer", "Settings", "Sink", "Source", "a_get", "a_put"]


@attrs.frozen
class Override:
    """A value of ``upstream_overrides``."""

    scheme: str = "http"
    validate_tls: bool = True
    ca_file: str | None = None


@attrs.frozen
class HedgeLimits:
    """Section ``hedged_requests``."""

    max_inflight_fraction: float = 0.1


@attrs.frozen(kw_only=True)
class Settings:
    """The keys of ``connection_pool`` that the upstream side reads, with their defaults."""

    dns_servers: Sequence[str] = ()
    endpoint_overrides: Mapping[str, Sequence[str]] = attrs.Factory(dict)
    upstream_overrides: Mapping[str, Override] = attrs.Factory(dict)
    dns_refresh_interval: float = 60.0
    connection_timeout: float = 10.0
    idle_timeout: float = 55.0
    keepalive_enabled: bool = True
    max_idle_per_host: int = 100
    ip_distribution_enabled: bool = True
    max_idle_per_ip: int = 10
    max_lifetime: float = 300.0
    keepalive_idle_secs: int = 15
    keepalive_interval_secs: int = 5
    keepalive_retries: int = 3
    tcp_recv_buffer_size: int | None = None
    ip_failure_threshold: int = 3
    health_probe_initial_cooldown: float = 5.0
    health_probe_max_cooldown: float = 300.0
    max_registered_endpoints: int = 10000
    upstream_first_byte_timeout: float = 5.0
    upstream_idle_retries: int = 2
    upstream_idle_timeout: float = 5.0
    max_connections: int = 0
    hedged_requests: HedgeLimits = HedgeLimits()
    system_ca: bool = True


def a_get(**changes: Any) -> UpstreamRequest:
    """A GET of ``/bucket/key`` on ``s3.test`` that may be repeated."""
    values: dict[str, Any] = {
        "method": b"GET",
        "target": b"/bucket/key",
        "host": "s3.test",
        "port": 80,
        "headers": Headers([(b"Host", b"s3.test")]),
        "repeatable": True,
    }
    return UpstreamRequest(**{**values, **changes})


def a_put(body: IByteSource, length: int | None, *more: tuple[bytes, bytes], **changes: Any) -> UpstreamRequest:
    """A PUT to ``/bucket/key`` on ``s3.test``; a length of None sends it chunked."""
    pairs = [(b"Host", b"s3.test"), *more]
    if length is not None:
        pairs.append((b"Content-Length", b"%d" % length))
    values = {"method": b"PUT", "headers": Headers(pairs), "body": body, "body_length": length, "repeatable": False}
    return a_get(**{**values, **changes})


@implementer(IByteSink)
class Sink:
    """Keeps what it is given, and checks that nothing follows the end."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.ended = 0
        self.failures: list[Failure] = []
        self._waiting: list[Deferred[bytes]] = []

    @property
    def data(self) -> bytes:
        return b"".join(self.pieces)

    def wait(self) -> "Deferred[bytes]":
        """Fires with all bytes at the end of the stream, or fails as the stream does."""
        done: Deferred[bytes] = Deferred()
        self._waiting.append(done)
        self._tell()
        return done

    def data_received(self, data: bytes) -> None:
        assert data and not self.ended and not self.failures
        self.pieces.append(data)

    def stream_ended(self) -> None:
        assert not self.ended and not self.failures
        self.ended += 1
        self._tell()

    def stream_failed(self, reason: Failure) -> None:
        assert not self.ended and not self.failures
        self.failures.append(reason)
        self._tell()

    def _tell(self) -> None:
        if self.ended or self.failures:
            waiting, self._waiting = self._waiting, []
            for done in waiting:
                done.callback(self.data) if self.ended else done.errback(self.failures[0])


@implementer(IByteSource)
class Source:
    """Gives *pieces* when started, as long as it is not paused, then ends; an open one waits for :meth:`push`."""

    def __init__(self, pieces: Sequence[bytes] = (), end: bool = True) -> None:
        self.waiting = list(pieces)
        self.end = end
        self.sink: Any = None
        self.paused = False
        self.aborted = 0
        self.calls: list[str] = []

    def start(self, sink: IByteSink) -> None:
        assert self.sink is None, "started twice"
        self.calls.append("start")
        self.sink = sink
        self._flow()

    def pause(self) -> None:
        self.calls.append("pause")
        self.paused = True

    def resume(self) -> None:
        self.calls.append("resume")
        if self.paused:
            self.paused = False
            self._flow()

    def abort(self) -> None:
        self.calls.append("abort")
        self.aborted += 1
        self.waiting = []

    def push(self, *pieces: bytes) -> None:
        self.waiting += pieces
        self._flow()

    def finish(self) -> None:
        self.end = True
        self._flow()

    def _flow(self) -> None:
        while self.waiting and not self.paused and not self.aborted and self.sink is not None:
            self.sink.data_received(self.waiting.pop(0))
        if self.end and not self.waiting and not self.paused and not self.aborted and self.sink is not None:
            self.end = False
            self.sink.stream_ended()


class Authority:
    """A certificate authority of the tests' own, with its files in a new directory.

    :ivar path: PEM file with the authority's certificate
    """

    def __init__(self, directory: str) -> None:
        os.makedirs(directory)
        self._directory = directory
        self._servers = 0
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = f"Test Authority {x509.random_serial_number()}"[:60]
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._sign(self._name, self._key, None, [], authority=True)
        self.path = os.path.join(directory, "authority.pem")
        with open(self.path, "wb") as stream:
            stream.write(certificate.public_bytes(serialization.Encoding.PEM))

    def _sign(
        self, subject: Any, key: Any, issuer_key: Any, names: Sequence[x509.GeneralName], authority: bool, days: int = 1
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=2))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(issuer_key or key, hashes.SHA256())

    def server(self, *names: str, days: int = 1, tls12_only: bool = False, tls13_only: bool = False) -> Any:
        """A context factory for a server with these DNS names and addresses in its certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        general: list[x509.GeneralName] = []
        for name in names:
            try:
                general.append(x509.IPAddress(ipaddress.ip_address(name)))
            except ValueError:
                general.append(x509.DNSName(name))
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
        certificate = self._sign(subject, key, self._key, general, authority=False, days=days)
        self._servers += 1
        path = os.path.join(self._directory, f"server{self._servers}.pem")
        with open(path, "wb") as stream:
            stream.write(certificate.public_bytes(serialization.Encoding.PEM))
            stream.write(
                key.private_bytes(
                    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
                )
            )
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.use_certificate_file(path)
        context.use_privatekey_file(path)
        if tls12_only:
            context.set_max_proto_version(SSL.TLS1_2_VERSION)
        if tls13_only:
            context.set_min_proto_version(SSL.TLS1_3_VERSION)
        return _ServerContext(context)


@implementer(IOpenSSLServerConnectionCreator)
class _ServerContext:
    def __init__(self, context: SSL.Context) -> None:
        self._context = context

    def serverConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        return SSL.Connection(self._context, None)


class ScriptedConnection(Protocol):
    """One connection to a :class:`ScriptedServer`."""

    def __init__(self, server: "ScriptedServer") -> None:
        self.server = server
        self.received = b""
        self.requests = 0
        self.lost: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self.server.connections.append(self)

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self.server.on_data(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(None)

    def take_head(self) -> bytes | None:
        """Remove a request's head from what came and give it, or None while it is not complete."""
        head, blank, rest = self.received.partition(b"\r\n\r\n")
        if not blank:
            return None
        self.received = rest
        self.requests += 1
        return head + blank


class ScriptedServer(Factory):
    """Calls *on_data* with the connection whenever bytes came; the script does all the rest.

    :ivar port: where it listens, for whoever starts it to set
    """

    noisy = False
    port = 0

    def __init__(self, on_data: Callable[[ScriptedConnection], None]) -> None:
        self.on_data = on_data
        self.connections: list[ScriptedConnection] = []

    def buildProtocol(self, addr: object) -> ScriptedConnection:
        return ScriptedConnection(self)

    def answers(self) -> int:
        return sum(connection.requests for connection in self.connections)
