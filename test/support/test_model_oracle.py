"""The oracle notices everything that a client must not be answered."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.upstream.interfaces import UpstreamRequest
from test.support.gateway import Asked
from test.support.model import Content, Version
from test.support.model_clients import ModelClient
from test.support.model_oracle import Oracle, Reader
from test.support.model_s3 import Exchange, Fault, ModelS3, S3Response

TTL = 60.0


class OracleTests(SynchronousTestCase):
    """Each answer here is right but for one thing."""

    def setUp(self) -> None:
        self.s3 = ModelS3((b"k",))
        self.oracle = Oracle(self.s3)
        self.history = self.s3.histories[b"k"]
        self.history.write(Content(b"k", 1, 1000), 10, 1000.0)
        self.history.write(Content(b"k", 2, 1000), 20, 2000.0)

    # A client, what S3 told on its behalf, and what it got.

    def reader(self, at: float = 3000.0, moment: int = 30, lifetime: float = TTL, **fields: bytes) -> Reader:
        """A GET at this time."""
        named = {name.replace("_", "-").encode(): value for name, value in fields.items()}
        client = ModelClient(b"GET", b"/k", named)
        reader = Reader(
            client=client,
            key=b"k",
            part=None,
            fields=named,
            started=(moment, at),
            floor=0,
            lifetime=lifetime,
            stale=0.0,
        )
        client.peer = reader
        client.witness = self  # type: ignore[assignment]
        return reader

    def ask(self, reader: Reader, fault: Fault | None = None, answered: bool = True, at: float = 3000.0) -> S3Response:
        """S3 gets the reader's request."""
        client = reader.client
        request = UpstreamRequest(method=client.method, target=client.target, host="h", port=80, headers=client.headers)
        exchange = Exchange(
            number=len(reader.exchanges) + 1,
            asked=Asked(request, None),  # type: ignore[arg-type]
            owner=reader,
            key=b"k",
            part=None,
            fields=dict(reader.fields),
            sent=(reader.started[0], at),
        )
        reader.exchanges.append(exchange)
        self.oracle.asked(exchange)
        if fault is not None:
            self.s3.plan(b"k", fault)
        response = self.s3.take(exchange)
        exchange.answered = answered
        self.oracle.approved(exchange)
        assert isinstance(response, S3Response)
        return response

    def get(self, reader: Reader, version: Version, body: bytes | None = None, **others: Any) -> None:
        """The reader is answered with a version."""
        assert version.content is not None
        headers = dict(version.fields)
        headers[b"x-amz-request-id"] = b"0123456789ABCDEF"
        headers.update(others.get("headers", {}))
        body = version.content.body if body is None else body
        length = others.get("length", len(body))
        client = reader.client
        client.start_response(others.get("status", 200), b"", list(headers.items()), length)
        client._take(body)
        client.abort() if others.get("cut") else client.finish()

    def relayed(self, reader: Reader, response: S3Response) -> None:
        """The reader gets an answer of S3 as it is."""
        reader.client.start_response(response.status, b"", list(response.headers), response.length)
        reader.client._take(response.sent)
        reader.client.finish()

    def answer_begins(self, peer: Reader) -> None:
        """See :class:`Witness`."""
        self.oracle.judge_head(peer)

    def answer_goes_on(self, peer: Reader, before: int, data: bytes) -> None:
        """See :class:`Witness`."""
        self.oracle.judge_bytes(peer, before, data)

    def answer_ends(self, peer: Reader) -> None:
        """See :class:`Witness`."""
        self.oracle.judge_end(peer)

    def complains(self, text: str) -> None:
        """The oracle says so."""
        self.assertIn(text, "; ".join(self.oracle.problems) or "nothing")

    def approve(self, at: float = 3000.0) -> None:
        """S3 told somebody about the current version at this time."""
        self.ask(self.reader(), at=at)

    # What is right.

    def test_right(self) -> None:
        """A hit, an answer of S3's, a range, and a 304."""
        current = self.history.current
        assert current.content is not None
        self.approve()
        self.get(self.reader(), current)
        reader = self.reader(lifetime=0.0)
        self.relayed(reader, self.ask(reader))
        self.get(
            self.reader(range=b"bytes=5-9"),
            current,
            current.content.body[5:10],
            status=206,
            headers={b"Content-Range": b"bytes 5-9/1000"},
        )
        self.get(self.reader(if_none_match=current.content.etag), current, b"", status=304)
        self.assertEqual(self.oracle.problems, [])

    def test_fresh_for_its_lifetime(self) -> None:
        """What S3 said may be so old, and no older."""
        old = self.history.versions[1]
        assert old.content is not None
        self.oracle._approvals[b"k"] = [(old.content.etag, 1990.0)]
        self.get(self.reader(at=2050.0), old)
        self.assertEqual(self.oracle.problems, [])
        self.get(self.reader(at=2061.0), old)
        self.complains("version 1 is too old")

    # Wrong bytes.

    def test_mixture(self) -> None:
        """Bytes of two versions."""
        self.approve()
        old, new = (version.content.body for version in self.history.versions[1:] if version.content is not None)
        self.get(self.reader(), self.history.current, new[:500] + old[500:])
        self.complains("wrong byte at")

    def test_shifted(self) -> None:
        """Bytes of another place."""
        self.approve()
        body = self.history.current.content.body  # type: ignore[union-attr]
        self.get(self.reader(), self.history.current, body[16:] + body[:16])
        self.complains("wrong byte at")

    def test_short(self) -> None:
        """Fewer bytes, that look like all of them."""
        self.approve()
        body = self.history.current.content.body  # type: ignore[union-attr]
        self.get(self.reader(), self.history.current, body[:999])
        self.complains("Content-Length 999 instead of 1000")
        self.complains("complete with 999")

    def test_cut(self) -> None:
        """The connection is cut although S3 did nothing wrong."""
        self.approve()
        body = self.history.current.content.body  # type: ignore[union-attr]
        self.get(self.reader(), self.history.current, body[:999], length=1000, cut=True)
        self.complains("cut at 999 without a reason")

    def test_cut_with_a_reason(self) -> None:
        """S3's body broke off."""
        reader = self.reader()
        self.ask(reader, Fault("cut", 999))
        body = self.history.current.content.body  # type: ignore[union-attr]
        self.get(reader, self.history.current, body[:999], length=1000, cut=True)
        self.assertEqual(self.oracle.problems, [])

    # Wrong heads.

    def test_head_of_another_version(self) -> None:
        """One field is enough."""
        self.approve()
        for name, value in self.history.versions[1].fields:
            self.oracle.problems.clear()
            self.get(self.reader(), self.history.current, headers={name: value})
            self.assertNotEqual(self.oracle.problems, [], name)

    def test_range(self) -> None:
        """Other bytes than were asked for, or another status."""
        self.approve()
        current = self.history.current
        body = current.content.body  # type: ignore[union-attr]
        content_range = {b"Content-Range": b"bytes 5-10/1000"}
        self.get(self.reader(range=b"bytes=5-9"), current, body[5:11], status=206, headers=content_range)
        self.complains("Content-Length 6 instead of 5")
        self.oracle.problems.clear()
        self.get(self.reader(range=b"bytes=5-9"), current)
        self.complains("status 200 instead of 206")
        self.oracle.problems.clear()
        self.get(self.reader(), current, body[5:11], status=206, headers=content_range)
        self.complains("206 without a range")

    def test_checksum(self) -> None:
        """That nobody asked for."""
        self.approve()
        self.get(self.reader(), self.history.current, headers={b"x-amz-checksum-crc32": b"AAAA"})
        self.complains("x-amz-checksum-crc32")

    # Wrong verdicts.

    def test_leaks(self) -> None:
        """What only the proxy's own conditions can have brought about."""
        for status, text in ((412, "without a precondition"), (304, "without a condition")):
            reader = self.reader()
            reader.client.start_response(status, b"", [(b"x-amz-request-id", b"S3-1")], 0)
            self.complains(text)

    def test_not_modified(self) -> None:
        """A 304 to somebody who has another version."""
        self.approve()
        old = self.history.versions[1].content
        assert old is not None
        self.get(self.reader(if_none_match=old.etag), self.history.current, b"", status=304)
        self.complains("304 where no version allows it")

    def test_not_found(self) -> None:
        """A 404 that S3 did not give, or for something that is there."""
        self.reader().client.start_response(404, b"", [(b"x-amz-request-id", b"0123456789ABCDEF")], 0)
        self.complains("404 that S3 did not give")

    def test_unsatisfiable(self) -> None:
        """A 416 for bytes that are there."""
        self.approve()
        self.get(self.reader(range=b"bytes=5-9"), self.history.current, b"", status=416)
        self.complains("416 where no version calls for it")

    def test_failure(self) -> None:
        """A 502 although S3 has answered."""
        reader = self.reader()
        self.ask(reader)
        reader.client.start_response(502, b"", [(b"x-amz-request-id", b"0123456789ABCDEF")], 0)
        self.complains("no reason for status 502")

    # Permissions.

    def test_somebody_elses_answer(self) -> None:
        """What S3 said to another client."""
        other = self.reader()
        response = self.ask(other)
        self.relayed(self.reader(), response)
        self.complains("somebody else")

    def test_refused(self) -> None:
        """S3 refused this caller, and said nothing to others for too long."""
        self.approve(at=2900.0)
        self.s3.denied.add(b"eve")
        reader = self.reader(x_caller=b"eve")
        self.ask(reader)
        self.get(reader, self.history.current)
        self.complains("S3 did not allow it")

    def test_always_ask(self) -> None:
        """S3 allowed it to others only."""
        self.approve()
        self.get(self.reader(lifetime=0.0), self.history.current)
        self.complains("S3 did not allow it")

    def test_not_waited_for(self) -> None:
        """S3's answer had not come yet."""
        reader = self.reader(lifetime=0.0)
        self.ask(reader, answered=False)
        self.oracle._approvals.clear()
        self.get(reader, self.history.current)
        self.complains("S3 did not allow it")

    def test_floor(self) -> None:
        """Older than a write of which the client may know."""
        old = self.history.versions[1]
        assert old.content is not None
        self.oracle._approvals[b"k"] = [(old.content.etag, 2001.0)]
        reader = self.reader(at=2001.0)
        reader.floor = 2
        self.get(reader, old)
        self.complains("version 1 is too old")
