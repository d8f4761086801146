"""Sends the answers of the fake S3, correctly or as an :class:`~test.support.fake_script.Action` wants them."""

import itertools
import uuid
from collections.abc import Callable
from http import HTTPStatus

from twisted.internet.interfaces import IReactorTime

from test.support.fake_messages import Response, S3Error, element, http_date
from test.support.fake_script import Action, RecordedRequest, Script
from test.support.fake_store import BytesBody
from test.support.http_connection import HTTPConnection, sleep

__all__ = ["Answerer", "error_response"]

Pair = tuple[bytes, bytes]

PIECE = 256 << 10
RATE_TICK = 0.05
_CODES = {
    301: "PermanentRedirect",
    307: "TemporaryRedirect",
    400: "InvalidRequest",
    403: "AccessDenied",
    404: "NoSuchKey",
    412: "PreconditionFailed",
    416: "InvalidRange",
    500: "InternalError",
    503: "SlowDown",
}


def error_response(error: S3Error, status: int | None = None) -> Response:
    """The error as S3 words it."""
    inside = element("Code", error.code) + element("Message", error.message)
    inside += "".join(element(name, value) for name, value in error.elements)
    inside += element("RequestId", uuid.uuid4().hex[:16].upper()) + element("HostId", "fake")
    document = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{inside}</Error>'.encode()
    return Response(status=error.status if status is None else status, headers=error.headers, document=document)


def scripted_response(action: Action) -> Response:
    """What ``status`` or ``error_in_200`` of an action asks for."""
    if action.error_in_200:
        return error_response(S3Error(200, action.error_in_200, "We encountered an internal error. Please try again."))
    if action.status < 300 or action.status == 304:
        return Response(status=action.status)
    code = action.code or _CODES.get(action.status, "InternalError")
    headers = ((b"Location", action.location),) if action.location else ()
    return error_response(S3Error(action.status, code, "As told by the test.", headers=headers))


class Answerer:
    """Writes responses to connections.

    :param now: the current time in seconds since 1970, for Date.
    """

    def __init__(self, reactor: IReactorTime, now: Callable[[], float]) -> None:
        self._reactor = reactor
        self._now = now
        self._numbers = itertools.count(1)

    async def send(
        self,
        connection: HTTPConnection,
        record: RecordedRequest,
        response: Response,
        script: Script | None,
        close: bool,
    ) -> bool:
        """Send one answer; True if the connection can go on."""
        action = script.action if script is not None else Action()
        close = close or action.say_close
        for status in action.interim:
            connection.write(b"HTTP/1.1 %d %b\r\n\r\n" % (status, _reason(status)))
        if action.raw is not None:
            await connection.write_all(action.raw)
            record.finished = True
            return False
        record.status = response.status
        head, chunked, hollow = self._head(record, response, action, close)
        # The head goes out by itself, as S3 often sends it: a proxy must not rely on getting head and body together.
        connection.write(head)
        if not hollow and not await self._send_body(connection, record, response, script, chunked):
            return False
        record.finished = True
        return not (close or action.close_after)

    def _head(
        self, record: RecordedRequest, response: Response, action: Action, close: bool
    ) -> tuple[bytes, bool, bool]:
        """The head, whether the body is chunked, whether there is none."""
        fields: list[Pair] = [
            (b"x-amz-id-2", b"fake/%032x=" % next(self._numbers)),
            (b"x-amz-request-id", uuid.uuid4().hex[:16].upper().encode()),
            (b"Date", http_date(self._now())),
            *response.headers,
            (b"Server", b"AmazonS3"),
        ]
        bodiless = response.status in (204, 304)
        chunked = not bodiless and (response.document is not None or action.chunked)
        if response.document is not None:
            fields.append((b"Content-Type", b"application/xml"))
        if chunked:
            fields.append((b"Transfer-Encoding", b"chunked"))
        elif not bodiless:
            length = response.stop - response.start if action.content_length is None else action.content_length
            fields.append((b"Content-Length", b"%d" % length))
        if close:
            fields.append((b"Connection", b"close"))
        replaced = list(action.set_headers)
        if action.content_range is not None:
            replaced.append((b"Content-Range", action.content_range))
        gone = {name.lower() for name, _ in replaced} | set(action.drop_headers)
        fields = [pair for pair in fields if pair[0].lower() not in gone] + replaced
        line = b"HTTP/1.1 %d %b\r\n" % (response.status, _reason(response.status))
        head = line + b"".join(b"%b: %b\r\n" % pair for pair in fields) + b"\r\n"
        return head, chunked, bodiless or record.method == b"HEAD"

    async def _send_body(
        self,
        connection: HTTPConnection,
        record: RecordedRequest,
        response: Response,
        script: Script | None,
        chunked: bool,
    ) -> bool:
        """Send the body; False if the connection has to end here."""
        action = script.action if script is not None else Action()
        if response.document is not None:
            body, start, stop = BytesBody(response.document), 0, len(response.document)
        elif response.body is not None:
            body, start, stop = response.body, response.start, response.stop  # type: ignore[assignment]
        else:
            body, start, stop = BytesBody(b""), 0, 0
        marks = (action.stall_after, action.reset_after, action.cut_after)
        stops = sorted(start + mark for mark in marks if mark is not None and start + mark <= stop)
        limit = max(1, int(action.rate * RATE_TICK)) if action.rate else PIECE
        at = start
        while True:
            if at in stops:
                stops.remove(at)
                if action.stall_after == at - start and script is not None:
                    await connection.wait(script.wait())
                if action.reset_after == at - start:
                    connection.reset()
                    return False
                if action.cut_after == at - start:
                    return False
            if at >= stop:
                break
            end = min(stop, at + limit, *stops)
            data = body.read(at, end)
            await connection.write_all(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
            record.body_sent += len(data)
            at = end
            if action.rate:
                await connection.wait(sleep(self._reactor, len(data) / action.rate))
        if chunked:
            await connection.write_all(b"0\r\n\r\n")
        return True


def _reason(status: int) -> bytes:
    return HTTPStatus(status).phrase.encode() if status in HTTPStatus._value2member_map_ else b"Unknown"
