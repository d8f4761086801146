"""CONNECT: a client of the forward proxy asks for a connection that carries what it likes (RFC 9110 9.3.6)."""

import secrets
import socket
from http import HTTPStatus
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from s3proxy.s3 import errors
from s3proxy.s3.errors import S3Error
from s3proxy.s3.headers import Headers
from s3proxy.s3.target import parse_connect
from s3proxy.tunnel.opener import NotOpened, Opener
from s3proxy.tunnel.registry import Tunnels
from s3proxy.tunnel.relay import SocketTunnel
from s3proxy.tunnel.stream import StreamTunnel
from s3proxy.tunnel.tunnel import Ending, Origin

__all__ = ["ConnectRequest", "Connector"]

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
_NO_ROOM = "There are as many tunnels as server.max_concurrent_tunnels allows."


class _HandedOver(Protocol):
    @property
    def sock(self) -> socket.socket | None: ...

    @property
    def transport(self) -> Any: ...

    @property
    def received(self) -> bytes: ...


class ConnectRequest(Protocol):
    """What is needed of a request; :class:`s3proxy.wire.request.ClientRequest` has it."""

    target: bytes
    version: bytes
    headers: Headers
    body_length: int | None
    client_address: str
    listener: str
    received_at: float

    @property
    def tls(self) -> str: ...

    @property
    def cipher_suite(self) -> str: ...

    @property
    def over(self) -> bool: ...

    def when_gone(self) -> "Deferred[None]": ...

    async def hand_over(self) -> _HandedOver: ...

    def start_response(
        self, status: int, reason: bytes, headers: list[tuple[bytes, bytes]], length: int | None
    ) -> None: ...

    def write(self, data: bytes) -> "Deferred[None] | None": ...

    def finish(self) -> None: ...

    def abort(self) -> None: ...


class Connector:
    """Answers CONNECT requests, and opens their tunnels.

    A request that does not lead to a tunnel is answered with an error document and accounted like a tunnel that
    failed; it is no HTTP request for the statistics.
    """

    log = Logger()

    def __init__(self, reactor: Any, tunnels: Tunnels, opener: Opener) -> None:
        self._reactor = reactor
        self._tunnels = tunnels
        self._opener = opener

    def handle(self, request: ConnectRequest) -> "Deferred[None]":
        """Deal with a request. Fires, never fails, when it is answered or its tunnel is open."""
        origin = Origin(
            listener=request.listener,
            client_address=request.client_address,
            started_at=self._tunnels.now(),
            started=request.received_at,
            method=b"CONNECT",
            target=request.target,
            http_version=request.version,
            user_agent=request.headers.get(b"user-agent") or b"",
            request_id=secrets.token_hex(8).upper(),
            tls=request.tls,
            cipher_suite=request.cipher_suite,
        )
        if not self._tunnels.admit():
            self._refuse(request, origin, errors.slow_down(_NO_ROOM), Ending.OVERLOAD)
            return succeed(None)
        work = Deferred.fromCoroutine(self._connect(request, origin)).addBoth(self._over)
        request.when_gone().addCallback(lambda _: work.cancel())
        return work.addErrback(self._not_connected, request, origin).addErrback(self._unanswerable, request)

    def _over(self, result: Any) -> Any:
        self._tunnels.attempt_over()
        return result

    async def _connect(self, request: ConnectRequest, origin: Origin) -> None:
        origin.host, origin.port = parse_connect(request.target)
        if request.body_length != 0:
            raise errors.invalid_request("A CONNECT request has no body.")
        upstream = await self._opener.open(origin)
        try:
            given = await request.hand_over()
        except BaseException:
            upstream.close()
            raise
        origin.status = 200
        if given.sock is not None:
            SocketTunnel(
                self._reactor,
                self._tunnels,
                origin,
                given.sock,
                upstream,
                for_upstream=given.received,
                for_client=ESTABLISHED,
            )
        else:
            StreamTunnel(
                self._reactor,
                self._tunnels,
                origin,
                given.transport,
                upstream,
                for_upstream=given.received,
                for_client=ESTABLISHED,
            )

    def _not_connected(self, reason: Failure, request: ConnectRequest, origin: Origin) -> None:
        value = reason.value
        if isinstance(value, S3Error):
            self._refuse(request, origin, value, Ending.MALFORMED)
        elif isinstance(value, NotOpened):
            self._refuse(request, origin, _as_s3_error(value), value.reason)
        elif request.over or isinstance(value, CancelledError):
            self._tunnels.ended(origin, Ending.CLIENT_LEFT)
        else:
            self.log.failure("opening a tunnel to {host}", reason, host=origin.host)
            self._refuse(request, origin, errors.internal_error(), Ending.ERROR)

    def _refuse(self, request: ConnectRequest, origin: Origin, error: S3Error, reason: str) -> None:
        origin.status = error.status
        origin.error_code = error.code
        body = errors.render(error, origin.request_id, origin.target)
        headers = [
            (b"x-amz-request-id", origin.request_id.encode("ascii")),
            (b"Content-Type", errors.CONTENT_TYPE),
            *error.headers,
        ]
        request.start_response(error.status, HTTPStatus(error.status).phrase.encode("ascii"), headers, len(body))
        room = request.write(body)
        if room is not None:
            room.addErrback(lambda _: None)
        request.finish()
        self._tunnels.ended(origin, reason, len(body))

    def _unanswerable(self, reason: Failure, request: ConnectRequest) -> None:
        self.log.failure("answering a CONNECT request", reason)
        request.abort()


def _as_s3_error(error: NotOpened) -> S3Error:
    if error.reason == Ending.REFUSED:
        return errors.access_denied(str(error))
    if error.reason == Ending.TIMEOUT:
        return errors.gateway_timeout(str(error))
    return errors.bad_gateway(str(error))
