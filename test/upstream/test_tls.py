"""The TLS layer of one connection, in memory: how what one read brought is handed on."""

from collections.abc import Callable
from test.upstream.tools import Authority
from typing import Any

from OpenSSL import SSL
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.upstream.routing import TLSPolicy
from s3proxy.upstream.tls import (
    PIECE,
    RECORD,
    SENT_TOGETHER,
    ClientContexts,
    Decrypter,
    Encrypter,
    UpstreamTLS,
    find_decrypter,
    find_encrypter,
)


class User(Protocol):
    """Keeps pieces; ``act``, if any, is called with each."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.act: Callable[[], None] | None = None
        self.lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        assert self.lost is None
        self.pieces.append(data)
        if self.act is not None:
            self.act()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason


class Socket(StringTransport):
    """Remembers an abort."""

    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True


class PieceTests(SynchronousTestCase):
    """UpstreamTLS, which knows pyOpenSSL from inside."""

    decrypter = Decrypter()
    encrypter = Encrypter()

    def setUp(self) -> None:
        self.shake()

    def shake(self, before: Callable[[], None] = lambda: None) -> None:
        """Connect.

        :param before: done before the handshake
        """
        authority = Authority(self.mktemp())
        self.server: SSL.Connection = authority.server("s3.test").serverConnectionForTLS(None)
        self.server.set_accept_state()
        self.user = User()
        factory: Any = Factory.forProtocol(lambda: self.user)
        factory = TLSMemoryBIOFactory(
            ClientContexts().creator(TLSPolicy(verify=False), "s3.test"), True, factory, clock=Clock()
        )
        factory.protocol = type("Layer", (UpstreamTLS,), {"decrypter": self.decrypter, "encrypter": self.encrypter})
        self.layer: Any = factory.buildProtocol(None)
        self.socket = Socket()
        self.layer.makeConnection(self.socket)
        before()
        while said := self.socket.value():
            self.socket.clear()
            self.server.bio_write(said)
            try:
                self.server.do_handshake()
            except SSL.WantReadError:
                pass
            if not (heard := self.wire()):
                break
            self.layer.dataReceived(heard)

    def wire(self) -> bytes:
        """What the server has for the client."""
        data = b""
        while True:
            try:
                data += self.server.bio_read(1 << 20)
            except SSL.WantReadError:
                return data

    def records(self, count: int) -> list[bytes]:
        """The server writes so many records."""
        written = [bytes([index]) * RECORD for index in range(count)]
        for record in written:
            self.server.send(record)
        return written

    def test_pieces(self) -> None:
        """Records are handed on in order, some together, and none is kept back for later."""
        written = self.records(7)
        self.layer.dataReceived(self.wire())
        self.assertEqual(b"".join(self.user.pieces), b"".join(written))
        self.assertEqual([len(piece) for piece in self.user.pieces], [PIECE, 3 * RECORD])

    def test_goodbye_behind_data(self) -> None:
        """What came before the peer's goodbye is delivered before the end."""
        written = self.records(2)
        self.server.shutdown()
        self.layer.dataReceived(self.wire())
        self.assertEqual(b"".join(self.user.pieces), b"".join(written))
        self.assertTrue(self.socket.disconnecting)
        self.layer.connectionLost(Failure(ConnectionDone()))
        assert self.user.lost is not None
        self.user.lost.trap(ConnectionDone)

    def test_cut_within_a_record(self) -> None:
        """A connection that ends within a record delivers the whole ones, and does not end in good order."""
        written = self.records(3)
        self.layer.dataReceived(self.wire()[:-100])
        self.layer.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(b"".join(self.user.pieces), b"".join(written[:2]))
        assert self.user.lost is not None
        self.user.lost.trap(ConnectionLost)

    def test_broken_record(self) -> None:
        """A record that was changed on the way is an error behind what was sound."""
        written = self.records(3)
        data = self.wire()
        self.layer.dataReceived(data[:-1] + bytes([data[-1] ^ 1]))
        self.assertEqual(b"".join(self.user.pieces), b"".join(written[:2]))
        self.layer.connectionLost(Failure(ConnectionDone()))
        assert self.user.lost is not None
        self.user.lost.trap(SSL.Error)

    def test_aborted_by_a_piece(self) -> None:
        """Who aborts while a piece is handed over gets no more."""
        self.records(9)
        self.user.act = self.layer.abortConnection
        self.layer.dataReceived(self.wire())
        self.assertEqual([len(piece) for piece in self.user.pieces], [PIECE])
        self.assertTrue(self.socket.aborted)

    def test_paused_by_a_piece(self) -> None:
        """A pause stops the socket; what was read already still comes."""
        written = self.records(6)
        self.user.act = self.layer.pauseProducing
        self.layer.dataReceived(self.wire())
        self.assertEqual(self.socket.producerState, "paused")
        self.assertEqual(b"".join(self.user.pieces), b"".join(written))

    def sent(self) -> bytes:
        """What the client has sent since the last call, decrypted."""
        if said := self.socket.value():
            self.server.bio_write(said)
            self.socket.clear()
        data = b""
        while True:
            try:
                data += self.server.recv(RECORD)
            except (SSL.WantReadError, SSL.ZeroReturnError):
                return data

    def test_written(self) -> None:
        """What is written arrives at once, whatever its size, in order."""
        written = []
        for size in (1, RECORD, RECORD + 1, PIECE - 1, PIECE, PIECE + 1, SENT_TOGETHER, SENT_TOGETHER + RECORD + 7, 5):
            written.append(bytes([len(written)]) * size)
            self.layer.write(written[-1])
            self.assertTrue(self.sent() == written[-1], size)
        for data in written:
            self.layer.write(data)
        self.assertTrue(self.sent() == b"".join(written))

    def test_written_before_the_handshake(self) -> None:
        """It waits for the handshake."""
        data = b"x" * 3 * PIECE
        self.shake(lambda: self.layer.write(data))
        self.assertTrue(self.sent() == data)

    def test_written_after_the_end(self) -> None:
        """Nothing is sent behind our goodbye, or when the connection is lost."""
        self.layer.loseConnection()
        self.sent()
        self.layer.write(b"x" * 3 * PIECE)
        self.assertEqual(self.socket.value(), b"")
        self.layer.connectionLost(Failure(ConnectionDone()))
        self.layer._write(b"x" * 3 * PIECE)
        self.assertEqual(self.socket.value(), b"")

    def test_write_fails(self) -> None:
        """OpenSSL's refusal to encrypt ends the connection, and is its reason."""
        self.layer.getHandle().shutdown()
        self.layer.write(b"x" * 3 * PIECE)
        self.assertTrue(self.socket.disconnecting)
        self.layer.connectionLost(Failure(ConnectionDone()))
        assert self.user.lost is not None
        self.user.lost.trap(SSL.Error)


class PublicMethodsTests(PieceTests):
    """UpstreamTLS with nothing but pyOpenSSL's public methods."""

    decrypter = None  # type: ignore[assignment]
    encrypter = None  # type: ignore[assignment]

    def test_missing_inside(self) -> None:
        """They are used when pyOpenSSL looks different inside."""
        self.patch(SSL, "_lib", object())
        self.assertIsNone(find_decrypter())
        self.assertIsNone(find_encrypter())
