"""Whatever bytes arrive on any port: the process stays healthy, goes on serving, and nothing of them is left."""

import random
import socket
import ssl
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from test.support.raw_client import ConnectionEnded, RawClient
from test.support.waiting import poll
from test.system.stage import MIB, Stage

PATIENCE = 0.1
"""Seconds of silence after which a client leaves."""


def _client_hello() -> bytes:
    """The first bytes of a TLS client."""
    outgoing = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="s3.example.com")
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


GET = b"GET /bucket/key HTTP/1.1\r\nHost: s3.us-east-1.amazonaws.com\r\n"
PUT = b"PUT /bucket/key HTTP/1.1\r\nHost: s3.us-east-1.amazonaws.com\r\n"

GARBAGE: dict[str, bytes] = {
    "nothing": b"",
    "random": random.Random(7).randbytes(100_000),
    "zeroes": bytes(10_000),
    "line_ends": b"\r\n" * 5000,
    "tls_hello": _client_hello(),
    "http_0_9": b"GET /\r\n",
    "http_0_9_and_eof": b"GET /bucket/key\r\n\r\n",
    "http_2_preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http_1_9": b"GET / HTTP/1.9\r\nHost: a\r\n\r\n",
    "http_3_0": b"GET / HTTP/3.0\r\nHost: a\r\n\r\n",
    "header_of_1_mib": GET + b"X-Long: " + b"a" * MIB + b"\r\n\r\n",
    "100000_headers": GET + b"a: b\r\n" * 100_000 + b"\r\n",
    "target_of_1_mib": b"GET /" + b"a" * MIB + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "method_of_1_mib": b"A" * MIB,
    "half_a_line": b"GET /bucket/k",
    "half_a_head": GET + b"Authoriz",
    "half_a_body": PUT + b"Content-Length: 1000\r\n\r\nabc",
    "half_a_chunk": PUT + b"Transfer-Encoding: chunked\r\n\r\n10\r\nabc",
    "wrong_chunk": PUT + b"Transfer-Encoding: chunked\r\n\r\nnothex\r\n",
    "huge_chunk": PUT + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 100 + b"\r\n",
    "two_lengths": PUT + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "negative_length": PUT + b"Content-Length: -1\r\n\r\n",
    "huge_length": PUT + b"Content-Length: 99999999999999999999999999\r\n\r\n",
    "length_and_chunks": PUT + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "unknown_coding": PUT + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "space_before_colon": GET + b"Range : bytes=0-1\r\n\r\n",
    "folded_header": GET + b"X-A: b\r\n c\r\n\r\n",
    "nul_in_header": GET + b"X-A: b\0c\r\n\r\n",
    "bare_cr": GET + b"X-A: b\rc\r\n\r\n",
    "no_host": b"GET /bucket/key HTTP/1.1\r\n\r\n",
    "two_hosts": GET + b"Host: b\r\n\r\n",
    "bad_host": b"GET / HTTP/1.1\r\nHost: a b/c@d:xyz\r\n\r\n",
    "own_host": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "bad_escape": b"GET /bucket/%zz%%%00 HTTP/1.1\r\nHost: s3.us-east-1.amazonaws.com\r\n\r\n",
    "high_bytes": b"GET /\xff\xfe\x80 HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n",
    "unknown_method": b"\x01BREW /pot HTTP/1.1\r\nHost: a\r\n\r\n",
    "connect": b"CONNECT s3.us-east-1.amazonaws.com:443 HTTP/1.1\r\nHost: s3.us-east-1.amazonaws.com:443\r\n\r\n",
    "connect_elsewhere": b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n",
    "absolute_form_elsewhere": b"GET http://169.254.169.254/latest HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n",
    "absolute_form_broken": b"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n",
    "options_star": b"OPTIONS * HTTP/1.1\r\nHost: s3.us-east-1.amazonaws.com\r\n\r\n",
    "upgrade": GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
    "expect_nonsense": PUT + b"Expect: the-moon\r\nContent-Length: 3\r\n\r\n",
    "pipelined_garbage": b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n" + b"\xde\xad\xbe\xef" * 1000,
    "garbage_after_a_request": GET + b"\r\n" + random.Random(8).randbytes(5000),
    "authorization_nonsense": GET + b"Authorization: AWS4-HMAC-SHA256 Credential=,SignedHeaders=;;,Signature\r\n\r\n",
    "huge_range": GET + b"Range: bytes=" + b"0-1," * 10_000 + b"\r\n\r\n",
}


def _wait(client: RawClient) -> bytes:
    """Be patient for an answer, then close."""
    return client.read_some()


def _finish(client: RawClient) -> bytes:
    """Say that nothing more comes."""
    client.end_sending()
    return client.read_to_end()


def _reset(client: RawClient) -> bytes:
    """Reset the connection."""
    client.abort()
    return b""


class GarbageTests(SynchronousTestCase):
    """One proxy per port; every kind of garbage on it, ended in every way."""

    def setUp(self) -> None:
        """Start the proxy, and see that it serves."""
        self.stage = Stage()
        self.addCleanup(self.stage.stop)
        self.stage.put(b"object", 1, 100_000)
        self.assertTrue(self.stage.read(b"object", 1, 100_000).exact)
        self.stage.wait_idle(20)
        self.sockets = self.stage.sockets()

    def throw(self, port: int, data: bytes, end: Callable[[RawClient], bytes]) -> bytes:
        """Send these bytes, end somehow, and return what was answered."""
        client = RawClient("127.0.0.1", port, timeout=PATIENCE)
        try:
            client.send(data)
            return end(client)
        except (ConnectionEnded, OSError):
            return b""
        finally:
            client.close()

    def check(self, port: int) -> None:
        """Throw everything at one port."""
        for name, data in GARBAGE.items():
            for end in (_wait, _finish, _reset):
                answer = self.throw(port, data, end)
                self.assertTrue(self.stage.proxy.running, f"{name} ended the process")
                if answer:
                    self.assertRegex(answer[:12], rb"^HTTP/1\.[01] [1-5]\d\d$", name)
        self.slow_heads(port)
        self.await_health()
        reading = self.stage.read(b"object", 1, 100_000)
        self.assertEqual((reading.exact, reading.x_cache), (True, b"HIT"))
        self.assertIn("cache_hit_rate", self.stage.proxy.metrics_text())
        self.stage.wait_idle(self.sockets)
        self.assertEqual(self.stage.tracebacks(), [])

    def await_health(self) -> None:
        """All is well, or will be in a moment: on a busy machine the reactor may be late once. Only that no name server
        knows the names that clients made up may be said, where there is no name server.
        """

        def complaints() -> list[object]:
            components = self.stage.proxy.health()["components"]
            ill = [each for each in components if each["status"] not in ("healthy", "disabled")]
            return [each for each in ill if (each["name"], each["status"]) != ("dns", "degraded")]

        try:
            poll(lambda: not complaints(), 10, "health", interval=0.5)
        except TimeoutError:
            self.fail(complaints())

    def slow_heads(self, port: int) -> None:
        """A hundred clients that stop in the middle of a head, or trickle it, keep nobody else waiting."""
        clients = [RawClient("127.0.0.1", port, timeout=10) for _ in range(100)]
        try:
            for client in clients:
                client.send(b"GET /health HTTP/1.1\r\n")
            for byte in b"X-Slow: a":
                for client in clients:
                    client.send(bytes([byte]))
            self.await_health()
            self.assertTrue(self.stage.read(b"object", 1, 100_000).exact)
        finally:
            for client in clients:
                client.close()

    def test_traffic(self) -> None:
        """The caching listener."""
        self.check(self.stage.proxy.port)

    def test_health(self) -> None:
        """The health listener."""
        self.check(self.stage.proxy.config["health"]["port"])

    def test_metrics(self) -> None:
        """The metrics listener."""
        self.check(self.stage.proxy.config["metrics"]["port"])

    def test_connections_without_a_word(self) -> None:
        """Connections that say nothing cost one descriptor each, and none when they are gone."""
        ports = [self.stage.proxy.port, *(self.stage.proxy.config[name]["port"] for name in ("health", "metrics"))]
        clients = [socket.create_connection(("127.0.0.1", port), timeout=10) for port in ports * 50]
        try:
            poll(lambda: self.stage.sockets() >= len(clients), 10, "the connections to be accepted")
            self.assertTrue(self.stage.read(b"object", 1, 100_000).exact)
        finally:
            for client in clients:
                client.close()
        self.stage.wait_idle(self.sockets)
