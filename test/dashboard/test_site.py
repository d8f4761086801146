"""The dashboard's site: paths, methods, refusals, and what is made only once."""

import gzip
import json
from test.admin.exchange import Answer as Reply
from test.admin.exchange import Exchange
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.dashboard.guard import names_of
from s3proxy.dashboard.site import Answer, Api, Query, Refused, dashboard_resource


class SiteCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.made: list[dict[str, str]] = []
        self.orders: list[dict[str, Any]] = []
        self.waiting: Deferred[None] = Deferred()
        self.streams = 0
        self.is_full = False
        self.now = 0.0
        self.resource = dashboard_resource(
            Api(
                documents={
                    "simple": self.simple,
                    "slow": self.slow,
                    "refused": self.refused,
                    "broken": lambda query: Answer(object()),
                    "fresh": lambda query: (self.made.append({}), Answer(len(self.made), keep=0))[1],
                    "text": lambda query: Answer("words\n"),
                },
                changes={"cache/purge": self.change},
                stream=self.stream,
                full=lambda: self.is_full,
                names=names_of("proxy-1"),
                seconds=lambda: self.now,
            )
        )

    def simple(self, query: Query) -> Answer:
        self.made.append(dict(query))
        return Answer({"n": len(self.made), "q": query.get("q", "")})

    async def slow(self, query: Query) -> Answer:
        await self.waiting
        return Answer("done")

    def refused(self, query: Query) -> Answer:
        raise Refused(404, "There is none.")

    async def change(self, order: dict[str, Any], who: str) -> dict[str, Any]:
        if order.get("bad"):
            raise Refused(400, "That is bad.")
        if order.get("broken"):
            raise OSError("secrets of the file system")
        self.orders.append({**order, "who": who})
        return {"done": True}

    def stream(self, request: Any) -> "Deferred[bytes]":
        self.streams += 1
        done: Deferred[bytes] = Deferred(lambda _: None)
        request.write(b"event: x\n\n")
        return done

    def ask(
        self, path: str, method: str = "GET", body: bytes | None = None, host: str = "localhost", **fields: str
    ) -> Reply:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        raw = Exchange(self.resource).send("\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b""))
        self.assertTrue(raw, f"no answer to {path}")
        return Reply(raw)

    def post(self, body: bytes = b"{}", path: str = "/api/v1/cache/purge", **fields: str) -> Reply:
        given = {"Content_Type": "application/json", "X_S3Proxy": "1", **fields}
        return self.ask(path, "POST", body, **given)


class PageTests(SiteCase):
    def test_page(self) -> None:
        """The page and its files, each with its type; compressed for who understands that."""
        page = self.ask("/")
        self.assertEqual((page.status, page.headers[b"content-type"]), (200, b"text/html; charset=utf-8"))
        self.assertIn(b"<h1>", page.body)
        packed = self.ask("/", Accept_Encoding="gzip, br")
        self.assertEqual((packed.headers[b"content-encoding"], gzip.decompress(packed.body)), (b"gzip", page.body))
        self.assertEqual(self.ask("/app.js").headers[b"content-type"], b"text/javascript; charset=utf-8")
        self.assertEqual(self.ask("/", "HEAD").body, b"")

    def test_again(self) -> None:
        """Who has a file already is told so, and asks each time."""
        etag = self.ask("/style.css").headers[b"etag"].decode()
        again = self.ask("/style.css", If_None_Match=etag)
        self.assertEqual((again.status, again.body, again.headers[b"cache-control"]), (304, b"", b"no-cache"))
        self.assertEqual(self.ask("/style.css", If_None_Match='"other"').status, 200)

    def test_other_paths(self) -> None:
        """What is not there is 404; nothing outside the files can be reached."""
        for path in ("/none", "/../site.py", "/vendor/../../site.py", "/vendor", "//", "/index.html/", "/api/v1/none",
                     "/api/v1/", "/%2e%2e/site.py"):  # fmt: skip
            self.assertEqual(self.ask(path).status, 404, path)

    def test_headers(self) -> None:
        """Whatever is answered, browsers are told what the page may do."""
        for path in ("/", "/none", "/api/v1/simple", "/api/v1/refused"):
            headers = self.ask(path).headers
            policy = headers[b"content-security-policy"]
            self.assertIn(b"default-src 'none'", policy)
            self.assertNotIn(b"unsafe", policy)
            self.assertIn(b"frame-ancestors 'none'", policy)
            self.assertEqual(headers[b"x-content-type-options"], b"nosniff")
            self.assertNotIn(b"access-control-allow-origin", headers)

    def test_foreign_names(self) -> None:
        """A page whose name somebody made lead here gets nothing."""
        for path in ("/", "/api/v1/simple"):
            self.assertEqual(self.ask(path, host="evil.example").status, 421)
        self.assertEqual(self.ask("/", host="proxy-1:8081").status, 200)
        self.assertEqual(self.made, [])


class DocumentTests(SiteCase):
    def test_document(self) -> None:
        """JSON below data; the last parameter of a name counts."""
        reply = self.ask("/api/v1/simple?q=a%2Fb&q=%C3%A4+c")
        self.assertEqual(json.loads(reply.body), {"data": {"n": 1, "q": "ä c"}})
        self.assertEqual(reply.headers[b"cache-control"], b"no-store")
        self.assertEqual(self.ask("/api/v1/text").body, b"words\n")

    def test_kept(self) -> None:
        """Many browsers that ask for the same within a second cost what one does."""
        bodies = {self.ask("/api/v1/simple?q=1").body for _ in range(20)}
        self.assertEqual((len(bodies), len(self.made)), (1, 1))
        self.ask("/api/v1/simple?q=2")
        self.assertEqual(len(self.made), 2)
        self.now = 1.0
        self.ask("/api/v1/simple?q=1")
        self.assertEqual(len(self.made), 3)

    def test_kept_is_bounded(self) -> None:
        """Whoever asks for something else each time does not fill the memory; what must be fresh is."""
        for number in range(1000):
            self.ask(f"/api/v1/simple?q={number}")
        self.assertEqual(len(self.made), 1000)
        self.assertEqual([json.loads(self.ask("/api/v1/fresh").body)["data"] for _ in range(2)], [1001, 1002])

    def test_refusals(self) -> None:
        """What can't be answered says why; what fails is in the log, without details for the asker."""
        self.assertEqual((self.ask("/api/v1/refused").status, self.ask("/api/v1/refused").body),
                         (404, b'{\n  "error": "There is none."\n}\n'))  # fmt: skip
        reply = self.ask("/api/v1/broken")
        self.assertEqual(reply.status, 500)
        self.assertNotIn(b"object", reply.body.replace(b"document", b""))
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)

    def test_methods(self) -> None:
        """Documents are only read."""
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            self.assertEqual(self.ask("/api/v1/simple", method).status, 405)
            self.assertEqual(self.ask("/", method).status, 405)
        self.assertEqual(self.ask("/api/v1/simple", "HEAD").body, b"")

    def test_who_does_not_wait(self) -> None:
        """A browser that leaves while its document is made leaves no trace."""
        exchange = Exchange(self.resource)
        exchange.send(b"GET /api/v1/slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        exchange.channel.connectionLost(ConnectionError())
        self.waiting.callback(None)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_slow(self) -> None:
        """A document may take its time."""
        exchange = Exchange(self.resource)
        self.assertEqual(exchange.send(b"GET /api/v1/slow HTTP/1.1\r\nHost: localhost\r\n\r\n"), b"")
        self.waiting.callback(None)
        self.assertTrue(bytes(exchange.transport.value()).endswith(b"done"))


class ChangeTests(SiteCase):
    def test_order(self) -> None:
        """POST with JSON and the header does it."""
        reply = self.post(b'{"ref": "x"}')
        self.assertEqual((reply.status, json.loads(reply.body)), (200, {"data": {"done": True}}))
        self.assertEqual([order["ref"] for order in self.orders], ["x"])

    def test_get_changes_nothing(self) -> None:
        """Nor does anything but POST."""
        for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS"):
            reply = self.ask("/api/v1/cache/purge", method)
            self.assertEqual((reply.status, reply.headers[b"allow"]), (405, b"POST"))
        self.assertEqual(self.orders, [])

    def test_foreign_pages(self) -> None:
        """What a page from elsewhere could send does nothing."""
        for fields in ({"Content_Type": "text/plain"}, {"X_S3Proxy": "0"}, {"Origin": "http://evil.example"},
                       {"Sec_Fetch_Site": "cross-site"}):  # fmt: skip
            self.assertEqual(self.post(**fields).status, 403, fields)
        self.assertEqual(self.post(host="evil.example").status, 421)
        self.assertEqual(self.orders, [])

    def test_bodies(self) -> None:
        """What is no JSON object is refused, and so is what makes no sense."""
        for body in (b"", b"x", b"[]", b"null", b"\xff", b"[" * 60000):
            self.assertEqual(self.post(body).status, 400, body[:9])
        self.assertEqual(self.post(b'{"bad": true}').status, 400)

    def test_fault(self) -> None:
        """What fails is in the log, without details for who ordered it."""
        reply = self.post(b'{"broken": true}')
        self.assertEqual(reply.status, 500)
        self.assertIn("the application log says why", json.loads(reply.body)["error"])
        self.assertNotIn(b"secrets", reply.body)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_shown_at_once(self) -> None:
        """What was kept is made anew after a change."""
        self.ask("/api/v1/simple")
        self.post()
        self.ask("/api/v1/simple")
        self.assertEqual(len(self.made), 2)


class StreamTests(SiteCase):
    def test_stream(self) -> None:
        """It begins, and does not end."""
        exchange = Exchange(self.resource)
        raw = exchange.send(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertIn(b"event: x", raw)
        self.assertFalse(exchange.transport.disconnecting)
        exchange.channel.connectionLost(ConnectionError())
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_full(self) -> None:
        """As many as may be listen already: the page asks now and then instead."""
        self.is_full = True
        reply = self.ask("/api/v1/events")
        self.assertEqual((reply.status, reply.headers[b"retry-after"], self.streams), (503, b"30", 0))

    def test_head(self) -> None:
        """HEAD opens no stream."""
        self.assertEqual((self.ask("/api/v1/events", "HEAD").status, self.streams), (200, 0))
