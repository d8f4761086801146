"""The API for s3proxyctl: paths, methods, refusals, and answers that come while something happens."""

import json
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.admin.answers import Refused
from s3proxy.admin.api import IDENTITY, Order, Query, Tell, control_resource
from test.admin.exchange import Answer, Exchange


class FakeOperations:
    """A proxy whose answers a test knows.

    :ivar asked: the query or order of everything
    """

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.waiting: Deferred[None] = Deferred()
        self.cancelled = False

    async def _document(self, query: Query) -> Any:
        self.asked.append(dict(query))
        return {"it": "is"}

    status = top = objects = rules = explain = _document

    async def stats(self, query: Query) -> Any:
        return float("nan")

    async def inspect(self, query: Query) -> Any:
        self.asked.append(dict(query))
        raise Refused(404, "There is none.")

    async def refresh(self, order: Order, who: str, tell: Tell) -> Any:
        tell("progress", {"done": 1})
        try:
            await self.waiting
        except CancelledError:
            self.cancelled = True
            raise
        tell("found", {"name": "b/k"})
        return {"objects": 1}

    async def purge(self, order: Order, who: str, tell: Tell) -> Any:
        self.asked.append((dict(order), who))
        return {"objects": 0}

    async def verify(self, order: Order, who: str, tell: Tell) -> Any:
        if order.get("late"):
            tell("progress", {"done": 1})
        raise Refused(400, "That is bad.") if "bad" in order else ValueError("a bug")

    async def drain(self, order: Order, who: str, tell: Tell) -> Any:
        return {}

    async def roll(self, order: Order, who: str, tell: Tell) -> Any:
        return {}


class ApiCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.operations = FakeOperations()
        self.exchange = Exchange(control_resource(self.operations))

    def send(self, text: str, body: bytes = b"") -> bytes:
        head = f"{text} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        return self.exchange.send(head.encode("ascii") + body)

    def ask(self, text: str, body: bytes = b"") -> Answer:
        return Answer(self.send(text, body))


class DocumentTests(ApiCase):
    def test_get(self) -> None:
        """A document, with its query decoded, and as it is."""
        answer = self.ask("GET /api/v1/cache/objects?prefix=b%2Fx&key=%FF")
        self.assertEqual((answer.status, json.loads(answer.body)), (200, {"data": {"it": "is"}}))
        (query,) = self.operations.asked
        self.assertEqual((query["prefix"], query[IDENTITY]), ("b/x", "prefix=b%2Fx&key=%FF"))
        self.assertEqual(self.ask("HEAD /api/v1/status").body, b"")

    def test_refused(self) -> None:
        """What can't be answered has a status and words."""
        answer = self.ask("GET /api/v1/cache/object?name=b/k")
        self.assertEqual((answer.status, json.loads(answer.body)), (404, {"error": "There is none."}))

    def test_fault(self) -> None:
        """A fault of ours is told without its details; these are in the log."""
        answer = self.ask("GET /api/v1/stats")
        self.assertEqual((answer.status, b"application log" in answer.body), (500, True))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_elsewhere(self) -> None:
        """Other paths and methods: what there is."""
        for path in ("/", "/api/v1/", "/api/v1/none", "/api/v1//status", "/status"):
            answer = self.ask(f"GET {path}")
            self.assertEqual((answer.status, "/api/v1/status" in json.loads(answer.body)["paths"]), (404, True), path)
        self.assertEqual(self.ask("POST /api/v1/status").status, 405)


class OrderTests(ApiCase):
    def test_get_changes_nothing(self) -> None:
        """Orders are given by POST."""
        answer = self.ask("GET /api/v1/cache/purge")
        self.assertEqual((answer.status, answer.headers[b"allow"], self.operations.asked), (405, b"POST", []))

    def test_not_an_object(self) -> None:
        """An order is a JSON object."""
        for body in (b"", b"[]", b"{", b'"x"', b"[" * 100_000):
            self.exchange = Exchange(control_resource(self.operations))
            answer = self.ask("POST /api/v1/cache/purge", body[: 60 * 1024])
            self.assertEqual((answer.status, self.operations.asked), (400, []), body[:10])

    def test_done(self) -> None:
        """What comes of it is one line; who ordered it is known as far as it can be."""
        answer = self.ask("POST /api/v1/cache/purge", b'{"ref": "x"}')
        self.assertEqual(answer.headers[b"content-type"], b"application/x-ndjson")
        self.assertIn(b'{"data":{"objects":0}}\n', answer.body)
        self.assertEqual(self.operations.asked, [({"ref": "x"}, "s3proxyctl")])

    def test_while_it_happens(self) -> None:
        """Each line is sent when there is something to say."""
        raw = self.send("POST /api/v1/cache/refresh", b"{}")
        self.assertIn(b'{"progress":{"done":1}}\n', raw)
        self.assertNotIn(b'"data"', raw)
        self.operations.waiting.callback(None)
        rest = bytes(self.exchange.transport.value())
        self.assertLess(rest.index(b'{"found":{"name":"b/k"}}\n'), rest.index(b'{"data":{"objects":1}}\n'))

    def test_nobody_waits(self) -> None:
        """Who leaves ends what he asked for."""
        self.send("POST /api/v1/cache/refresh", b"{}")
        self.exchange.channel.connectionLost(Failure(ConnectionDone()))
        self.assertTrue(self.operations.cancelled)

    def test_refused(self) -> None:
        """Before anything was said it is a status; after that, a line."""
        answer = self.ask("POST /api/v1/cache/verify", b'{"bad": 1}')
        self.assertEqual((answer.status, json.loads(answer.body)), (400, {"error": "That is bad."}))
        answer = self.ask("POST /api/v1/cache/verify", b'{"bad": 1, "late": 1}')
        self.assertEqual(answer.status, 200)
        self.assertIn(b'{"error":"That is bad.","status":400}\n', answer.body)

    def test_fault(self) -> None:
        """A fault of ours is told without its details."""
        self.assertEqual(self.ask("POST /api/v1/cache/verify", b"{}").status, 500)
        self.assertIn(b'"status":500}', self.ask("POST /api/v1/cache/verify", b'{"late": 1}').body)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)
