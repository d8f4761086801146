"""The stream of events."""

import json

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Request
from twisted.web.test.requesthelper import DummyChannel

from s3proxy.dashboard.events import PATIENCE, Hub, message


class FakeChannel(DummyChannel):
    """A channel that keeps the producer, and can be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.producer: object | None = None
        self.aborted = False
        self.transport.abortConnection = self.abort  # type: ignore[attr-defined]

    def abort(self) -> None:
        self.aborted = True

    def registerProducer(self, producer: object, streaming: bool) -> None:
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def writeHeaders(self, version: object, code: object, reason: object, headers: object) -> None:
        """Headers are not looked at here."""

    def write(self, data: bytes) -> None:
        self.transport.write(data)


class HubTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.hub = Hub(self.clock.seconds, most=2)

    def listen(self) -> tuple[FakeChannel, Request]:
        channel = FakeChannel()
        request = Request(channel, False)
        request.method, request.clientproto = b"GET", b"HTTP/1.0"
        self.hub.open(request, b"event: hello\ndata: {}\n\n")
        return channel, request

    def text(self, channel: FakeChannel) -> bytes:
        value = bytes(channel.transport.written.getvalue())
        channel.transport.written.seek(0)
        channel.transport.written.truncate()
        return value

    def test_message(self) -> None:
        """An event is two lines and an empty one, whatever its data hold."""
        lines = message("x", {"text": "a\nb\r\n\ndata: ä"}).split(b"\n")
        self.assertEqual((lines[0], lines[2:]), (b"event: x", [b"", b""]))
        self.assertEqual(json.loads(lines[1].removeprefix(b"data: ")), {"text": "a\nb\r\n\ndata: ä"})

    def test_everybody(self) -> None:
        """Who listens gets a greeting, and then what is sent."""
        one, two = self.listen()[0], self.listen()[0]
        self.assertEqual(self.text(one), b"retry: 3000\n\nevent: hello\ndata: {}\n\n")
        self.text(two)
        self.hub.send(b"x")
        self.assertEqual((self.text(one), self.text(two)), (b"x", b"x"))

    def test_full(self) -> None:
        """There may be only so many; who leaves makes room."""
        self.listen()
        self.assertFalse(self.hub.full)
        _, request = self.listen()
        self.assertTrue(self.hub.full)
        request.connectionLost(ConnectionError())
        self.assertFalse(self.hub.full)
        self.assertEqual(len(self.hub), 1)

    def test_who_does_not_read(self) -> None:
        """A browser that does not read is sent nothing more, gets the next message when it reads again, and nobody else
        waits for it.
        """
        slow, fast = self.listen()[0], self.listen()[0]
        self.text(slow), self.text(fast)
        slow.producer.pauseProducing()  # type: ignore[union-attr]
        self.hub.send(b"1")
        self.assertEqual((self.text(slow), self.text(fast)), (b"", b"1"))
        self.assertEqual(self.hub.skipped, 1)
        slow.producer.resumeProducing()  # type: ignore[union-attr]
        self.hub.send(b"2")
        self.assertEqual(self.text(slow), b"2")

    def test_patience(self) -> None:
        """One that does not read for long is cut off."""
        slow, request = self.listen()
        slow.producer.pauseProducing()  # type: ignore[union-attr]
        self.clock.advance(PATIENCE)
        self.hub.send(b"x")
        self.assertFalse(slow.aborted)
        self.clock.advance(1)
        self.hub.send(b"x")
        self.assertTrue(slow.aborted)
        self.assertEqual(len(self.hub), 0)
        request.connectionLost(ConnectionError())

    def test_close(self) -> None:
        """All streams end."""
        channel = FakeChannel()
        request = Request(channel, False)
        request.method, request.clientproto = b"GET", b"HTTP/1.0"
        done = self.hub.open(request, b"")
        self.assertNoResult(done)
        self.hub.close()
        self.assertEqual(self.successResultOf(done), b"")
        self.assertIsNone(channel.producer)
        self.assertEqual(len(self.hub), 0)
