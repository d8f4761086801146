"""What a fake S3 remembers of each request, and how it is told to misbehave.

A script is a :class:`Match` and an :class:`Action`. The first script that matches a request and has uses left is
applied to it; without one the fake behaves as S3 does.
"""

from collections.abc import Callable, Iterator
from typing import Any

import attrs
from twisted.internet.defer import Deferred, succeed

__all__ = ["Action", "Match", "RecordedRequest", "RequestLog", "Script", "Scripts"]

Pair = tuple[bytes, bytes]


@attrs.define(kw_only=True)
class RecordedRequest:
    """One request as it came, and what became of it. Grows until ``finished``."""

    number: int
    connection: int
    """Which connection it came over, counted from 1."""
    tls: bool
    time: float
    """When its head was complete, in seconds since 1970."""
    method: bytes
    target: bytes
    version: bytes
    headers: tuple[Pair, ...]
    operation: str
    bucket: bytes
    key: bytes
    access_key: str = ""
    body_received: int = 0
    """Bytes of the request's body that were read, without chunk framing."""
    continued: bool = False
    """``100 Continue`` was sent."""
    status: int = 0
    error: str = ""
    """The code of the error document, if one was sent."""
    body_sent: int = 0
    """Bytes of the answer's body that were written."""
    finished: bool = False
    """The whole answer was written; stays false if the connection ended earlier."""

    def header(self, name: bytes) -> bytes | None:
        """The first value of the field with this lower-case name, or None."""
        return next((value for given, value in self.headers if given.lower() == name), None)

    def to_json(self) -> dict[str, Any]:
        """As values that JSON knows; bytes become ISO 8859-1 text."""
        return {
            field.name: _text(getattr(self, field.name)) for field in attrs.fields(RecordedRequest)
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "RecordedRequest":
        """The reverse of :meth:`to_json`."""
        binary = ("method", "target", "version", "bucket", "key")
        values = {name: value.encode("latin-1") if name in binary else value for name, value in values.items()}
        pairs = values["headers"]
        values["headers"] = tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs)
        return cls(**values)


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, tuple):
        return [_text(item) for item in value]
    return value


class RequestLog:
    """The requests in the order of their heads."""

    def __init__(self, requests: list[RecordedRequest] | None = None) -> None:
        self._requests = requests if requests is not None else []

    def append(self, request: RecordedRequest) -> None:
        """Add the newest."""
        self._requests.append(request)

    def clear(self) -> None:
        """Forget all."""
        self._requests.clear()

    def __iter__(self) -> Iterator[RecordedRequest]:
        return iter(self._requests)

    def __len__(self) -> int:
        return len(self._requests)

    def __getitem__(self, index: int) -> RecordedRequest:
        return self._requests[index]

    def of(
        self,
        operation: str | None = None,
        *,
        method: bytes | None = None,
        bucket: bytes | None = None,
        key: bytes | None = None,
        status: int | None = None,
    ) -> list[RecordedRequest]:
        """Those that agree with everything given."""
        return [
            request
            for request in self._requests
            if (operation is None or request.operation == operation)
            and (method is None or request.method == method)
            and (bucket is None or request.bucket == bucket)
            and (key is None or request.key == key)
            and (status is None or request.status == status)
        ]

    def reads_with_body(self, key: bytes | None = None) -> list[RecordedRequest]:
        """The GetObjects (of this key) whose answer carried bytes of the object."""
        reads = self.of("GetObject", key=key)
        return [request for request in reads if request.status in (200, 206) and request.body_sent]

    def object_bytes(self, key: bytes | None = None) -> int:
        """How many bytes of objects (of this object) were sent."""
        return sum(request.body_sent for request in self.reads_with_body(key))

    def connections(self) -> set[int]:
        """The numbers of the connections that were used."""
        return {request.connection for request in self._requests}


@attrs.frozen(kw_only=True)
class Match:
    """Which requests a script is for: those that agree with everything given."""

    operation: str | None = None
    method: bytes | None = None
    bucket: bytes | None = None
    key: bytes | None = None
    header: bytes | None = None
    """A lower-case field name that has to be present."""
    without_header: bytes | None = None
    """A lower-case field name that must be absent."""
    target: bytes | None = None
    """Part of the raw target."""
    access_key: str | None = None
    tls: bool | None = None
    predicate: Callable[[RecordedRequest], bool] | None = None
    """Any other test; not over the control port."""

    def fits(self, request: RecordedRequest) -> bool:
        """True if this request is meant."""
        given = [
            (self.operation, request.operation),
            (self.method, request.method),
            (self.bucket, request.bucket),
            (self.key, request.key),
            (self.access_key, request.access_key),
            (self.tls, request.tls),
        ]
        return (
            all(wanted is None or wanted == value for wanted, value in given)
            and (self.header is None or request.header(self.header) is not None)
            and (self.without_header is None or request.header(self.without_header) is None)
            and (self.target is None or self.target in request.target)
            and (self.predicate is None or self.predicate(request))
        )


@attrs.frozen(kw_only=True)
class Action:
    """How an answer differs from S3's. Counts are bytes of the answer's body, times are seconds."""

    hold: bool = False
    """Wait for the script's release before the answer's head."""
    hold_body: bool = False
    """Wait for the release before the request's body is read (and before ``100 Continue``)."""
    delay_head: float = 0
    delay_continue: float = 0
    """Wait this long before ``100 Continue``."""
    no_continue: bool = False
    """Read the body without ever sending ``100 Continue``."""
    early: bool = False
    """Answer without reading the request's body. Meant to go with ``status``."""
    status: int = 0
    """Answer with this status instead of doing what was asked; the signature is checked all the same."""
    code: str = ""
    """The code of the error document that goes with ``status``; by default the usual one."""
    location: bytes = b""
    """The Location of a redirect."""
    error_in_200: str = ""
    """Answer 200, with an error document with this code as its body."""
    raw: bytes | None = None
    """Send exactly these bytes as the answer, then close."""
    interim: tuple[int, ...] = ()
    """Statuses of interim responses before the answer."""
    stall_after: int | None = None
    """Send so much of the body, then wait for the release."""
    reset_after: int | None = None
    """Send so much of the body, then RST."""
    cut_after: int | None = None
    """Send so much of the body, then FIN."""
    rate: float = 0
    """Bytes of the body per second."""
    content_length: int | None = None
    """Announce this length instead of the true one."""
    content_range: bytes | None = None
    chunked: bool = False
    """Send the body in HTTP chunks, without Content-Length."""
    ignore_range: bool = False
    """Answer 200 with the whole object to a request with a Range."""
    drop_headers: tuple[bytes, ...] = ()
    """Lower-case names of fields to leave out."""
    set_headers: tuple[Pair, ...] = ()
    """Fields to add, or to replace."""
    say_close: bool = False
    """Send ``Connection: close``, and close after the answer."""
    close_after: bool = False
    """Close after the answer without announcing it."""


class Script:
    """One match and action in use."""

    def __init__(self, match: Match, action: Action, times: int | None) -> None:
        self.match = match
        self.action = action
        self.left = times
        self.hits: list[RecordedRequest] = []
        """The requests that it was applied to."""
        self._released = False
        self._held: list[Deferred[None]] = []

    @property
    def held(self) -> int:
        """How many requests wait for :meth:`release`."""
        return len(self._held)

    def release(self) -> None:
        """Let everything that is held go on, and hold nothing from now on."""
        self._released = True
        held, self._held = self._held, []
        for waiting in held:
            waiting.callback(None)

    def wait(self) -> "Deferred[None]":
        """Fires with the release; can be cancelled."""
        if self._released:
            return succeed(None)
        waiting: Deferred[None] = Deferred(self._held.remove)
        self._held.append(waiting)
        return waiting


class Scripts:
    """All scripts of one fake, in the order in which they are tried."""

    def __init__(self) -> None:
        self._scripts: list[Script] = []

    def add(self, match: Match, action: Action, times: int | None = 1) -> Script:
        """Apply ``action`` to the next ``times`` requests that fit, or to all of them with None."""
        script = Script(match, action, times)
        self._scripts.append(script)
        return script

    def find(self, request: RecordedRequest) -> Script | None:
        """The script for this request; uses it up."""
        for script in self._scripts:
            if script.left != 0 and script.match.fits(request):
                if script.left is not None:
                    script.left -= 1
                script.hits.append(request)
                return script
        return None

    def clear(self) -> None:
        """Release everything and behave from now on."""
        scripts, self._scripts = self._scripts, []
        for script in scripts:
            script.left = 0
            script.release()
