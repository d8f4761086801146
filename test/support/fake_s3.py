"""A strict, scriptable S3 on loopback: verifies signatures and digests, records requests, misbehaves when told to.

In a test: ``fake = FakeS3(reactor)``, ``port = fake.listen()``, and ``return fake.stop()`` at the end. As a process of
its own: ``python -m test.support.fake_s3``, started and driven by :class:`test.support.fake_control.RemoteFakeS3`.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IListeningPort

from test.support import fake_listing, fake_multipart, fake_writes
from test.support.fake_answer import Answerer, error_response, scripted_response
from test.support.fake_messages import Response, S3Error, S3Request
from test.support.fake_reads import read_object
from test.support.fake_routing import Route, route
from test.support.fake_script import Action, Match, RecordedRequest, RequestLog, Script, Scripts
from test.support.fake_store import BytesBody, FakeStore, ObjectVersion
from test.support.http_connection import (
    BadRequest,
    BodyReader,
    ConnectionFactory,
    HTTPConnection,
    RequestHead,
    sleep,
)
from test.support.sigv4 import Credential
from test.support.sigv4_verify import SignatureError, verify

__all__ = ["DEFAULT_CREDENTIAL", "FakeS3"]

DEFAULT_CREDENTIAL = Credential("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
SMALL_BODY = 1 << 20
LINGER = 5.0

_OPERATIONS: dict[str, Callable[[S3Request], Awaitable[Response]]] = {
    "AbortMultipartUpload": fake_multipart.abort,
    "CompleteMultipartUpload": fake_multipart.complete,
    "CopyObject": fake_writes.copy_object,
    "CreateBucket": fake_listing.create_bucket,
    "CreateMultipartUpload": fake_multipart.create,
    "DeleteBucket": fake_listing.delete_bucket,
    "DeleteDocument": fake_writes.documents,
    "DeleteObject": fake_writes.delete_object,
    "DeleteObjects": fake_writes.delete_objects,
    "GetBucketLocation": fake_listing.bucket_location,
    "GetBucketVersioning": fake_listing.bucket_versioning,
    "GetDocument": fake_writes.documents,
    "GetObject": read_object,
    "HeadBucket": fake_listing.head_bucket,
    "HeadObject": read_object,
    "ListBuckets": fake_listing.list_buckets,
    "ListMultipartUploads": fake_multipart.list_uploads,
    "ListObjectVersions": fake_listing.list_versions,
    "ListObjects": fake_listing.list_objects,
    "ListObjectsV2": fake_listing.list_objects,
    "ListParts": fake_multipart.list_parts,
    "Preflight": fake_listing.preflight,
    "PutBucketVersioning": fake_listing.put_versioning,
    "PutDocument": fake_writes.documents,
    "PutObject": fake_writes.put_object,
    "UploadPart": fake_multipart.upload_part,
    "UploadPartCopy": fake_multipart.upload_part_copy,
}


class FakeS3:
    """One fake store with its listeners.

    :param domains: names before which a bucket may stand in Host, besides AWS's own.
    :param region: the only region that signatures may name, or None for any.
    :param now: the current time in seconds since 1970.
    :param min_part_size: what all parts but the last need at least.
    :param idle_timeout: seconds after which idle connections are closed, 0 for never.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        domains: Sequence[bytes] = (b"s3.test",),
        region: str | None = "us-east-1",
        now: Callable[[], float] = time.time,
        min_part_size: int = 5 << 20,
        idle_timeout: float = 0,
    ) -> None:
        self._reactor = reactor
        self._domains = tuple(domains)
        self._region = region
        self._now = now
        self._min_part_size = min_part_size
        self.idle_timeout = idle_timeout
        self.store = FakeStore(now)
        self.requests = RequestLog()
        self.bad_requests: list[str] = []
        """What was wrong with bytes that were no request."""
        self._credentials = {DEFAULT_CREDENTIAL.access_key: DEFAULT_CREDENTIAL}
        self._denied: list[tuple[str, bytes | None, bytes | None]] = []
        self._scripts = Scripts()
        self._answerer = Answerer(reactor, now)
        self._ports: list[IListeningPort] = []
        self._connections: dict[int, HTTPConnection] = {}
        self.accepted = 0
        """Connections accepted so far."""

    def listen(self, port: int = 0, interface: str = "127.0.0.1", tls: Any = None) -> int:
        """Accept connections, with TLS if a context factory is given; returns the port number."""
        factory = ConnectionFactory(lambda: self._accept(tls is not None))
        if tls is None:
            listening = self._reactor.listenTCP(port, factory, backlog=1024, interface=interface)
        else:
            listening = self._reactor.listenSSL(port, factory, tls, backlog=1024, interface=interface)
        self._ports.append(listening)
        number: int = listening.getHost().port
        return number

    def stop(self) -> "Deferred[list[None]]":
        """Close everything; fires when no connection is left."""
        self._scripts.clear()
        waits: list[Deferred[None]] = []
        for port in self._ports:
            stopped = port.stopListening()
            if stopped is not None:
                waits.append(stopped)
        self._ports.clear()
        for connection in list(self._connections.values()):
            done: Deferred[None] = Deferred()
            connection.done.chainDeferred(done)
            waits.append(done)
            connection.reset()
        return gatherResults(waits)

    def create_bucket(self, name: str, *, versioned: bool = False, cors: bool = False, public: bool = False) -> None:
        """Add a bucket. A public one takes requests without a signature."""
        self.store.create_bucket(name.encode(), versioned=versioned, cors=cors, public=public)

    def put_object(
        self,
        bucket: str,
        key: bytes,
        data: bytes,
        *,
        headers: Sequence[tuple[bytes, bytes]] = (),
        etag: bytes | None = None,
        last_modified: int | None = None,
    ) -> ObjectVersion:
        """Store an object behind everybody's back."""
        found = self.store.buckets[bucket.encode()]
        return self.store.put(
            found, key, BytesBody(data), headers=headers, etag=etag, last_modified=last_modified
        )

    def put_generated(self, bucket: str, key: bytes, seed: int, size: int, part_size: int = 8 << 20) -> ObjectVersion:
        """Store ``content(seed, 0, size)``, which costs no memory."""
        return self.store.put_generated(self.store.buckets[bucket.encode()], key, seed, size, part_size)

    def delete_object(self, bucket: str, key: bytes) -> None:
        """Delete an object behind everybody's back."""
        self.store.delete(self.store.buckets[bucket.encode()], key)

    def add_credential(self, credential: Credential) -> None:
        """Know this access key from now on."""
        self._credentials[credential.access_key] = credential

    def deny(self, access_key: str, bucket: str | None = None, key: bytes | None = None) -> None:
        """Answer 403 AccessDenied to this access key, for one bucket or object or for all."""
        self._denied.append((access_key, None if bucket is None else bucket.encode(), key))

    def allow_all(self) -> None:
        """Forget all that :meth:`deny` was told."""
        self._denied.clear()

    def script(self, match: Match, action: Action, times: int | None = 1) -> Script:
        """Misbehave; see :class:`~test.support.fake_script.Scripts`."""
        return self._scripts.add(match, action, times)

    def behave(self) -> None:
        """Forget all scripts and release what they hold."""
        self._scripts.clear()

    def close_idle_connections(self, reset: bool = False) -> int:
        """Close the connections that wait for a request; returns how many there were."""
        idle = [connection for connection in self._connections.values() if connection.idle]
        for connection in idle:
            if reset:
                connection.reset()
            else:
                connection.close()
        return len(idle)

    def reset_connections(self) -> None:
        """Reset every connection, whatever it is doing."""
        for connection in list(self._connections.values()):
            connection.reset()

    @property
    def open_connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    def _accept(self, tls: bool) -> HTTPConnection:
        self.accepted += 1
        connection = HTTPConnection(self.accepted, lambda made: self._serve(made, tls))
        self._connections[connection.number] = connection

        def forget(_: None) -> None:
            del self._connections[connection.number]

        connection.done.addCallback(forget)
        return connection

    async def _serve(self, connection: HTTPConnection, tls: bool) -> None:
        while True:
            timer = self._reactor.callLater(self.idle_timeout, connection.close) if self.idle_timeout else None
            try:
                head = await connection.read_head()
                if timer is not None and timer.active():
                    timer.cancel()
                if not await self._handle(connection, head, tls):
                    return
            except BadRequest as problem:
                self.bad_requests.append(str(problem))
                await connection.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
                return
            finally:
                if timer is not None and timer.active():
                    timer.cancel()

    async def _handle(self, connection: HTTPConnection, head: RequestHead, tls: bool) -> bool:
        """Serve one request; True if the connection can go on."""
        found = route(head, self._domains)
        record = RecordedRequest(
            number=len(self.requests),
            connection=connection.number,
            tls=tls,
            time=self._now(),
            method=head.method,
            target=head.target,
            version=head.version,
            headers=head.headers,
            operation=found.operation if found is not None else "Unknown",
            bucket=found.bucket if found is not None else b"",
            key=found.key if found is not None else b"",
        )
        self.requests.append(record)
        if found is None:
            raise BadRequest(f"the target is not in origin-form: {head.target!r}")
        refusal: Exception | None = None
        try:
            verified = verify(
                head.method, head.target, head.headers, self._credentials.get,
                now=self._now(), region=self._region, bucket_in_host=found.bucket_in_host,
            )
            record.access_key = verified.access_key if verified is not None else ""
        except SignatureError as error:
            verified, refusal = None, error
        script = self._scripts.find(record)
        action = script.action if script is not None else Action()
        expects = (head.get(b"expect") or b"").lower() == b"100-continue"

        async def before_body() -> None:
            if action.hold_body and script is not None:
                await connection.wait(script.wait())
            if expects and not action.no_continue:
                if action.delay_continue:
                    await connection.wait(sleep(self._reactor, action.delay_continue))
                connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                record.continued = True

        body = BodyReader(connection, head, before_body)
        request = S3Request(
            head=head, query=found.query, bucket_name=found.bucket, bucket_in_host=found.bucket_in_host, key=found.key,
            operation=found.operation, raw_body=body, store=self.store, verified=verified,
            min_part_size=self._min_part_size,
        )
        try:
            response = await self._respond(request, found, action, refusal)
            if not action.early and (not expects or record.continued) and not body.finished:
                await self._discard(body)
            if action.delay_head:
                await connection.wait(sleep(self._reactor, action.delay_head))
            if action.hold and script is not None:
                await connection.wait(script.wait())
            record.error = _code(response)
            asked_close = (head.get(b"connection") or b"").lower() == b"close" or head.version == b"HTTP/1.0"
            close = asked_close or not body.finished
            keep = await self._answerer.send(connection, record, response, script, close)
            if not body.finished and not connection.lost:
                await self._linger(connection)
                return False
            return keep
        finally:
            record.body_received = body.received

    async def _respond(
        self, request: S3Request, found: Route, action: Action, refusal: Exception | None
    ) -> Response:
        try:
            if refusal is not None:
                raise refusal
            self._authorize(request)
            if action.status or action.error_in_200:
                while not action.early and await request.raw_body.read():
                    continue
                return scripted_response(action)
            if found.operation == "PostObject":
                response = await fake_writes.post_object(request, self._credentials)
            elif found.operation in _OPERATIONS:
                response = await _OPERATIONS[found.operation](request)
            else:
                raise S3Error(501, "NotImplemented", "A header or method implies functionality that is not implemented")
        except SignatureError as error:
            return error_response(S3Error(error.status, error.code, error.message))
        except S3Error as error:
            return error_response(error)
        if action.ignore_range and response.body is not None:
            headers = tuple(pair for pair in response.headers if pair[0] != b"Content-Range")
            response = Response(status=200, headers=headers, body=response.body, start=0, stop=response.body.size)
        bucket = self.store.buckets.get(found.bucket)
        origin = request.header(b"origin")
        if bucket is not None and bucket.cors and origin is not None and found.operation != "Preflight":
            extra = ((b"Access-Control-Allow-Origin", origin), (b"Vary", b"Origin"))
            response = Response(
                status=response.status, headers=(*response.headers, *extra), document=response.document,
                body=response.body, start=response.start, stop=response.stop,
            )
        return response

    def _authorize(self, request: S3Request) -> None:
        bucket = self.store.buckets.get(request.bucket_name)
        if request.verified is None:
            if request.operation not in ("Preflight", "PostObject") and (bucket is None or not bucket.public):
                raise S3Error(403, "AccessDenied", "Access Denied")
            return
        for access_key, denied_bucket, denied_key in self._denied:
            if (
                access_key == request.verified.access_key
                and denied_bucket in (None, request.bucket_name)
                and denied_key in (None, request.key)
            ):
                raise S3Error(403, "AccessDenied", "Access Denied")

    async def _discard(self, body: BodyReader) -> None:
        """Read what is left of a small body, so that the connection can be used again."""
        while (body.length is None or body.length <= SMALL_BODY) and body.received <= SMALL_BODY and await body.read():
            continue

    async def _linger(self, connection: HTTPConnection) -> None:
        """Read on for a while: closing with unread bytes would reset, and the client would lose the answer."""
        limit = self._reactor.callLater(LINGER, connection.reset)
        try:
            while True:
                await connection.read()
        finally:
            if limit.active():
                limit.cancel()


def _code(response: Response) -> str:
    document = response.document or b""
    return document.partition(b"<Code>")[2].partition(b"</Code>")[0].decode() if b"<Error>" in document else ""


if __name__ == "__main__":
    from test.support.fake_control import serve

    serve()
