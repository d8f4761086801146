"""Answers that wait until something is up to date."""

from test.admin.exchange import Answer, Exchange, ask
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource

from s3proxy.admin.refreshing import RefreshingResource
from s3proxy.admin.sites import PathResource


class RefreshingTests(SynchronousTestCase):
    """A site with two pages."""

    def setUp(self) -> None:
        """A page that says its path and what is known."""
        self.known = "old"
        self.waiting: list[tuple[Any, Deferred[None]]] = []
        self.asked: list[bytes] = []

        def answer(request: Any) -> bytes:
            self.asked.append(request.path)
            return f"{request.method.decode()} {request.path.decode()}: {self.known}".encode()

        self.resource = RefreshingResource(PathResource(answer), self.refresh)

    def refresh(self, request: Any) -> "Deferred[None]":
        """Wait for the test."""
        done: Deferred[None] = Deferred()
        self.waiting.append((request, done))
        return done

    def test_waits(self) -> None:
        """The answer is made when it is time, of what is known then."""
        exchange = Exchange(self.resource)
        self.assertEqual(exchange.send(b"GET /a/b?c=d HTTP/1.1\r\nHost: h\r\n\r\n"), b"")
        self.known = "new"
        ((request, done),) = self.waiting
        self.assertEqual(request.path, b"/a/b")
        done.callback(None)
        self.assertIn(b"GET /a/b: new", exchange.transport.value())

    def test_at_once(self) -> None:
        """If there is nothing to wait for, the answer comes at once."""
        resource = RefreshingResource(self.resource._resource, lambda request: succeed(None))
        answer = ask(resource, "/x")
        self.assertEqual((answer.status, b"GET /x: old" in answer.body), (200, True))

    def test_client_leaves(self) -> None:
        """Nobody is answered who has gone meanwhile."""
        exchange = Exchange(self.resource)
        exchange.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        exchange.channel.connectionLost(Failure(ConnectionDone()))
        self.waiting[0][1].callback(None)
        self.assertEqual(self.asked, [])

    def test_tree(self) -> None:
        """Resources with children are found as without waiting, and so is what is not there."""
        root, child = Resource(), Resource()
        root.putChild(b"here", child)
        child.render_GET = lambda request: b"child"  # type: ignore[attr-defined]
        resource = RefreshingResource(root, lambda request: succeed(None))
        self.assertIn(b"child", ask(resource, "/here").body)
        self.assertEqual(ask(resource, "/there").status, 404)

    def test_failure(self) -> None:
        """A page that fails is answered with 500."""

        def fail(request: Any) -> bytes:
            raise ZeroDivisionError("oops")

        exchange = Exchange(RefreshingResource(PathResource(fail), self.refresh))
        exchange.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        self.waiting[0][1].callback(None)
        self.assertEqual(Answer(exchange.transport.value()).status, 500)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
