"""S3 keeps silent, breaks off or can't be reached: what clients of the running proxy see of it, and after how long."""

import re
import socket
from collections.abc import Callable
from functools import partial
from test.support.content import content
from test.support.fake_script import Action, Match
from test.support.raw_client import ConnectionEnded, RawClient, RawResponse
from test.support.waiting import poll
from test.system.stage import HOST, MIB, Stage, at_once

from twisted.trial.unittest import SynchronousTestCase

SIZE = 12 * MIB
NO_ANSWER = {"upstream_first_byte_timeout": "1s", "upstream_idle_retries": 1}
NO_MORE = {"upstream_idle_timeout": "1s"}


class TroubleCase(SynchronousTestCase):
    """One proxy with little patience."""

    config: dict[str, dict[str, object]] = {"connection_pool": dict(NO_ANSWER)}

    def setUp(self) -> None:
        """Start it."""
        self.stage = Stage(self.config)
        self.addCleanup(self.stage.stop)
        self.sockets = self.stage.sockets()

    def is_error(self, answer: RawResponse, status: int, code: bytes, key: bytes) -> None:
        """A document in S3's form, with the request id of the header."""
        self.assertEqual((answer.status, answer.header(b"content-type")), (status, b"application/xml"))
        found = re.fullmatch(
            rb'<\?xml version="1.0" encoding="UTF-8"\?>\s*<Error><Code>(.*?)</Code><Message>.+</Message>'
            rb"<Resource>(.*?)</Resource><RequestId>(.*?)</RequestId></Error>",
            answer.body,
        )
        assert found is not None, answer.body
        expected = (code, b"/%b/%b" % (self.stage.bucket.encode(), key), answer.header(b"x-amz-request-id"))
        self.assertEqual(found.groups(), expected)

    def nothing_is_left(self) -> None:
        """Nobody waits for anything, and nothing of it is a matter for the log."""
        self.stage.fake.behave()
        self.stage.wait_idle(self.sockets)
        self.assertEqual(self.stage.tracebacks(), [])


class NoAnswerTests(TroubleCase):
    """S3 takes the request and says nothing."""

    def test_no_answer(self) -> None:
        """504 after one attempt and upstream_idle_retries more; a HEAD has no document; the next request is served."""
        self.stage.put(b"key", 1, 1000)
        self.stage.fake.script(Match(key=b"key"), Action(hold=True), times=4)
        self.is_error(self.stage.ask(b"GET", b"key"), 504, b"GatewayTimeout", b"key")
        self.assertEqual(len(self.stage.fake.requests.of("GetObject", key=b"key")), 2)
        self.assertEqual(self.stage.ask(b"HEAD", b"key").status, 504)
        self.assertEqual(len(self.stage.fake.requests.of(key=b"key")), 4)
        self.assertTrue(self.stage.read(b"key", 1, 1000).exact)
        self.nothing_is_left()


class StallTests(TroubleCase):
    """S3 stops in the middle of a body."""

    config = {"connection_pool": dict(NO_MORE)}

    def begin(self, key: bytes) -> RawClient:
        """A client that has asked."""
        client = self.stage.connect(timeout=30)
        self.addCleanup(client.close)
        client.send(self.stage.request(b"GET", key))
        return client

    def test_stall(self) -> None:
        """The rest is fetched once, whoever waits for it; nobody notices."""
        self.stage.put(b"stalls", 2, SIZE)
        script = self.stage.fake.script(Match(key=b"stalls"), Action(stall_after=2 * SIZE // 3))
        clients = [self.begin(b"stalls")]
        poll(lambda: script.held == 1, 10, "S3 to stop")
        clients += [self.begin(b"stalls") for _ in range(4)]
        work: list[Callable[[], bool]] = [partial(self._exact, client) for client in clients]
        self.assertEqual(at_once(work), [True] * 5)
        for client in clients:
            client.close()
        reads = self.stage.fake.requests.reads_with_body(b"stalls")
        self.assertEqual(len(reads), 2)
        etag = self.stage.ask(b"HEAD", b"stalls").header(b"etag")
        pinned = (reads[1].header(b"range"), reads[1].header(b"if-match"))
        self.assertEqual(pinned, (b"bytes=%d-%d" % (2 * SIZE // 3, SIZE - 1), etag))
        self.assertEqual(sum(read.body_sent for read in reads), SIZE)
        self.nothing_is_left()
        self.assertEqual(self.stage.read(b"stalls", 2, SIZE).x_cache, b"HIT")

    def _exact(self, client: RawClient) -> bool:
        return self.stage.finish(client, 2, SIZE).exact

    def test_stall_for_good(self) -> None:
        """When the rest can't be had, every client's connection is cut behind the bytes that came, and none ends as if
        it were complete.
        """
        self.stage.put(b"stuck", 3, SIZE)
        self.stage.fake.script(Match(key=b"stuck"), Action(stall_after=MIB), times=1)
        self.stage.fake.script(Match(key=b"stuck"), Action(status=503), times=None)

        def read() -> int:
            client = self.begin(b"stuck")
            self.assertEqual(client.read_head().status, 200)
            at = 0
            try:
                while data := client.read_some():
                    self.assertTrue(data == content(3, at, at + len(data)))
                    at += len(data)
            except ConnectionEnded:
                pass
            return at

        self.assertEqual(at_once([read, read]), [MIB, MIB])
        self.nothing_is_left()
        self.assertTrue(self.stage.read(b"stuck", 3, SIZE).exact)

    def test_slow_client_is_not_silence(self) -> None:
        """A client that takes longer than S3's limit between two reads has all of its body in the end, from the cache
        or past it.
        """
        self.stage.put(b"slow", 4, SIZE)
        for target in (b"slow", b"slow?response-content-type=a%2Fb"):
            client = self.stage.connect(timeout=30, receive_buffer=16 << 10)
            self.addCleanup(client.close)
            client.send(self.stage.request(b"GET", target))
            client.read_head()
            self.assertTrue(client.read_exactly(50_000, rate=50_000) == content(4, 0, 50_000))
            self.assertTrue(client.read_exactly(SIZE - 50_000) == content(4, 50_000, SIZE))
            client.close()
        self.nothing_is_left()


class UnreachableTests(TroubleCase):
    """No connection, or one to somebody who never speaks."""

    def silent(self) -> int:
        """The port of somebody who accepts connections and never says a word."""
        listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.addCleanup(listening.close)
        port: int = listening.getsockname()[1]
        return port

    def restart(self, *ports: int, **settings: object) -> None:
        """Begin anew with these addresses for S3, in plain text."""
        name = HOST.decode()
        self.stage.proxy.configure(
            {
                "connection_pool": {
                    **settings,
                    "endpoint_overrides": {name: [f"127.0.0.1:{port}" for port in ports]},
                    "upstream_overrides": {f"{name}:80": {"scheme": "http"}},
                }
            }
        )
        self.stage.proxy.restart()

    def test_other_address(self) -> None:
        """An address that takes requests and does not answer them is replaced by another one, for this very request;
        one that goes on like this is left out.
        """
        self.restart(self.silent(), self.stage.fake.port, health_probe_initial_cooldown="60s")
        for number in range(5):
            key = b"key-%d" % number
            self.stage.put(key, number, 1000)
            self.assertTrue(self.stage.read(key, number, 1000).exact)
        hosts = next(part for part in self.stage.proxy.health()["components"] if part["name"] == "upstream")
        self.assertEqual(len(hosts["data"]["excluded"]), 1)
        self.assertEqual(self.stage.tracebacks(), [])

    def test_nobody_answers(self) -> None:
        """Refused connections are 502, silent ones 504; both within the attempts that are configured."""
        self.stage.put(b"key", 1, 1000)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            closed = probe.getsockname()[1]
        self.restart(closed)
        self.is_error(self.stage.ask(b"GET", b"key"), 502, b"BadGateway", b"key")
        self.restart(self.silent())
        self.is_error(self.stage.ask(b"GET", b"key"), 504, b"GatewayTimeout", b"key")
        self.assertEqual(self.stage.tracebacks(), [])

    def test_limit_for_all_attempts(self) -> None:
        """server.request_timeout ends it, however many attempts are left."""
        self.stage.put(b"key", 1, 1000)
        self.stage.proxy.configure({"server": {"request_timeout": "1s"}})
        self.restart(self.silent(), upstream_first_byte_timeout="0.6s", upstream_idle_retries=100)
        self.is_error(self.stage.ask(b"GET", b"key"), 504, b"GatewayTimeout", b"key")


class SalvageTests(TroubleCase):
    """partial_range_commit_ratio."""

    config = {
        "connection_pool": dict(NO_MORE),
        "cache": {"partial_range_commit_ratio": 0.25, "get_ttl": "1h", "head_ttl": "1h"},
    }

    def test_beginning_is_kept(self) -> None:
        """S3 breaks off and does not answer again: the beginning, if it is long enough, is a hit afterwards, and only
        the rest is fetched.
        """
        for key, came, kept in ((b"short", 2 * MIB, False), (b"long", 4 * MIB, True)):
            self.stage.put(key, 5, SIZE)
            self.stage.fake.script(Match(key=key), Action(cut_after=came), times=1)
            self.stage.fake.script(Match(key=key), Action(status=503), times=None)
            with self.assertRaises(ConnectionEnded):
                self.stage.read(key, 5, SIZE)
            self.nothing_is_left()
            self.stage.fake.clear_requests()
            answer = self.stage.ask(b"GET", key, headers=[(b"Range", b"bytes=0-999999")])
            self.assertTrue(answer.body == content(5, 0, 1_000_000))
            self.assertEqual(self.stage.fake.requests.object_bytes(key), 0 if kept else 1_000_000)
