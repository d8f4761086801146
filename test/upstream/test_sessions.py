"""Tests of s3proxy.upstream.sessions, by itself and on the loopback interface."""

from test.upstream.test_client import ClientTestCase, answering
from test.upstream.tools import Authority, Override
from typing import Any

from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.upstream import sessions
from s3proxy.upstream.interfaces import UpstreamTLSError
from s3proxy.upstream.routing import TLSPolicy
from s3proxy.upstream.sessions import MAX_AGE, MOST, Session, TLSSessions

POLICY = TLSPolicy()
CLOSING = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello"


class FakeConnection:
    """Has a session to give, and was perhaps resumed."""

    def __init__(self, session: object | None) -> None:
        self._session = session

    def get_session(self) -> object | None:
        return self._session


class SessionsTests(SynchronousTestCase):
    """What is kept, for how long, and for whom."""

    def setUp(self) -> None:
        self.now = 0.0
        self.sessions = TLSSessions(lambda: self.now)

    def keep(self, session: object | None, policy: TLSPolicy = POLICY, host: str = "s3.test") -> None:
        connection: Any = FakeConnection(session)
        self.sessions.keep(policy, host, connection, None)

    def found(self, policy: TLSPolicy = POLICY, host: str = "s3.test") -> object | None:
        session = self.sessions.find(policy, host)
        return None if session is None else session.data

    def test_newest(self) -> None:
        """The newest session of a host is offered; without one there is none."""
        self.assertIsNone(self.found())
        self.keep("one")
        self.keep("two")
        self.keep(None)
        self.assertEqual(self.found(), "two")

    def test_policies(self) -> None:
        """A session of a connection that was not verified is never offered where that is asked for, and so on."""
        self.keep("lax", TLSPolicy(verify=False))
        self.keep("private", TLSPolicy(ca_file="/ca.pem"))
        self.assertIsNone(self.found())
        self.assertIsNone(self.found(TLSPolicy(tls12_only=True)))
        self.assertIsNone(self.found(TLSPolicy(verify=False), "other.test"))

    def test_age(self) -> None:
        """An hour after the certificate was looked at it has to be looked at again."""
        self.keep("one")
        self.now = MAX_AGE - 1
        self.assertEqual(self.found(), "one")
        self.now = MAX_AGE
        self.assertIsNone(self.found())

    def test_age_of_resumed_sessions(self) -> None:
        """A session that goes on from an earlier one is as old as that: a resumed connection showed no certificate."""
        connection: Any = FakeConnection("two")
        self.patch(sessions, "was_resumed", lambda _: True)
        self.now = MAX_AGE - 1
        self.sessions.keep(POLICY, "s3.test", connection, Session("one", 0.0))  # type: ignore[arg-type]
        self.assertEqual(self.found(), "two")
        self.now = MAX_AGE
        self.assertIsNone(self.found())

    def test_failure(self) -> None:
        """A session with which no connection came about is not offered again."""
        self.keep("one")
        self.sessions.forget(POLICY, "s3.test")
        self.assertIsNone(self.found())

    def test_bounded(self) -> None:
        """Sessions of the hosts that were heard of least recently are dropped."""
        for number in range(MOST + 5):
            self.keep("one", host=f"h{number}")
        self.assertEqual(len(self.sessions._sessions), MOST)
        self.assertIsNone(self.found(host="h0"))
        self.assertIsNotNone(self.found(host=f"h{MOST + 4}"))


class ResumptionTests(ClientTestCase):
    """With real handshakes."""

    def setUp(self) -> None:
        self.authority = Authority(self.mktemp())
        self.trusting = Override("https", True, self.authority.path)

    async def test_resumed(self) -> None:
        """The second connection to a host takes up the first one's session, in both versions of TLS."""
        for options in ({"tls12_only": True}, {"tls13_only": True}):
            server = self.listen(answering(), self.authority.server("s3.test", **options))
            upstream = self.client(server, override=self.trusting, max_lifetime=0.0)
            for _ in range(3):
                self.assertEqual(await self.fetch(upstream, server), b"hello")
            self.assertEqual((upstream.counters.connections_opened, upstream.counters.tls_resumed), (3, 2), options)

    async def test_other_servers(self) -> None:
        """A server that does not know the session makes a full handshake, and is checked."""
        first = self.listen(answering(), self.authority.server("s3.test"), address="127.0.0.1")
        second = self.listen(answering(), self.authority.server("s3.test"), address="127.0.0.2", port=first.port)
        ips = ("127.0.0.1", "127.0.0.2")
        upstream = self.client(first, ips=ips, override=self.trusting, max_lifetime=0.0)
        for _ in range(4):
            self.assertEqual(await self.fetch(upstream, first), b"hello")
        self.assertEqual((len(first.connections), len(second.connections)), (2, 2))

    async def test_certificate_of_another_server(self) -> None:
        """A session opens no way to a server whose certificate does not hold."""
        first = self.listen(answering(), self.authority.server("s3.test"), address="127.0.0.1")
        bad = Authority(self.mktemp()).server("s3.test")
        self.listen(answering(), bad, address="127.0.0.2", port=first.port)
        upstream = self.client(first, ips=("127.0.0.1", "127.0.0.2"), override=self.trusting, max_lifetime=0.0)
        self.assertEqual(await self.fetch(upstream, first), b"hello")
        with self.assertRaises(UpstreamTLSError):
            await self.fetch(upstream, first)

    def test_pyopenssl(self) -> None:
        """What tells whether a session was taken up is there in this pyOpenSSL."""
        inside: Any = SSL
        self.assertTrue(callable(inside._lib.SSL_session_reused))
