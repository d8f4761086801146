"""Speaks to a proxy's admin socket."""

import json
from collections.abc import Callable
from typing import Any, Final, NoReturn

import treq
import treq.client
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import ConnectError
from twisted.python.failure import Failure
from twisted.web.client import Agent, ResponseFailed, ResponseNeverReceived
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from s3proxy.control.outcome import BadNews, Unreachable, Usage

__all__ = ["AdminClient", "Lines"]

_CONNECT: Final = 5.0
_BASE: Final = "http://localhost/api/v1/"
# What the proxy may say that is the fault of who asked.
_USAGE: Final = (400, 404, 405, 413)

Event = Callable[[str, Any], None]


@implementer(IAgentEndpointFactory)
class _Socket:
    def __init__(self, reactor: Any, path: str) -> None:
        self._reactor = reactor
        self._path = path

    def endpointForURI(self, uri: Any) -> UNIXClientEndpoint:
        """The socket, whatever the URI."""
        return UNIXClientEndpoint(self._reactor, self._path, timeout=_CONNECT)


class Lines:
    """Cuts what comes into lines, each a JSON object with one member.

    :param take: gets the name and the value of the member
    """

    def __init__(self, take: Event) -> None:
        self._take = take
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """More of it.

        :raises ValueError: it is something else
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            document = json.loads(line)
            if not isinstance(document, dict) or not document:
                raise ValueError("not a line of the API")
            kind = "error" if "error" in document else next(iter(document))
            self._take(kind, document if kind == "error" else document[kind])


class AdminClient:
    """Asks and tells one proxy.

    :param path: of its socket
    :param patience: seconds without any answer, or any further part of one, after which it counts as unreachable
    """

    def __init__(self, reactor: Any, path: str, patience: float) -> None:
        self._reactor = reactor
        self.path = path
        self._patience = patience
        self._http = treq.client.HTTPClient(Agent.usingEndpointFactory(reactor, _Socket(reactor, path)))

    async def get(self, name: str, query: str = "") -> Any:
        """A document.

        :param query: encoded
        :raises ControlError: there is none
        """
        response = await self._within(self._http.get(f"{_BASE}{name}{'?' if query else ''}{query}"))
        body = await self._within(treq.content(response))
        document = self._read(body)
        if response.code != 200:
            _refuse(response.code, document)
        return document["data"]

    async def order(self, name: str, order: dict[str, Any], event: Event) -> Any:
        """Have something done.

        :param event: gets what is told meanwhile: ``progress`` and ``found``
        :return: what it comes to
        :raises ControlError: it can't be done
        """
        response = await self._within(
            self._http.post(
                f"{_BASE}{name}",
                data=json.dumps(order).encode("ascii"),
                headers=Headers({"Content-Type": ["application/json"]}),
            )
        )
        if response.code != 200:
            _refuse(response.code, self._read(await self._within(treq.content(response))))
        ends: list[Any] = []
        refusals: list[Any] = []

        def take(kind: str, value: Any) -> None:
            if kind == "data":
                ends.append(value)
            elif kind == "error":
                refusals.append(value)
            else:
                event(kind, value)

        await self._collect(response, Lines(take))
        if refusals:
            _refuse(int(refusals[0].get("status", 500)), refusals[0])
        if not ends:
            raise Unreachable("the proxy ended before it was done")
        return ends[0]

    async def _collect(self, response: Any, lines: Lines) -> None:
        """Read to the end; every piece must come in time."""
        collecting: Deferred[None] = Deferred()
        late = self._reactor.callLater(self._patience, lambda: end(Failure(TimeoutError())))

        def end(result: Any) -> None:
            if not collecting.called:
                collecting.callback(result)

        def more(data: bytes) -> None:
            late.reset(self._patience)
            lines.feed(data)

        treq.collect(response, more).addBoth(end)
        try:
            await collecting
        except ValueError:
            raise Unreachable(f"what answers at {self.path} is no proxy") from None
        except Exception as error:
            self._unreachable(error)
        finally:
            if late.active():
                late.cancel()

    async def _within(self, waiting: "Deferred[Any]") -> Any:
        waiting.addTimeout(self._patience, self._reactor)
        try:
            return await waiting
        except Exception as error:
            self._unreachable(error)

    def _unreachable(self, error: BaseException) -> NoReturn:
        if isinstance(error, ConnectError):
            text = _why(error)
        elif isinstance(error, TimeoutError):
            text = f"nothing came for {self._patience:.0f} s"
        elif isinstance(error, (ResponseFailed, ResponseNeverReceived)):
            text = "the connection broke off"
        else:
            text = f"{type(error).__name__}: {error}"
        raise Unreachable(f"the proxy can't be reached at {self.path}: {text}") from None

    def _read(self, body: bytes) -> Any:
        try:
            document = json.loads(body)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise Unreachable(f"what answers at {self.path} is no proxy")
        return document


def _why(error: ConnectError) -> str:
    number = getattr(error, "osError", None)
    code = {2: "there is no such socket; the proxy does not run, or has another one",
            13: "permission denied; only the proxy's user and root may ask it",
            111: "nobody listens there; the proxy does not run"}  # fmt: skip
    return code.get(number or 0) or str(error)


def _refuse(status: int, document: Any) -> NoReturn:
    text = str(document.get("error", f"status {status}")) if isinstance(document, dict) else f"status {status}"
    raise (Usage if status in _USAGE and status != 404 else BadNews)(text)
