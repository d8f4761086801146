"""An HTTP server on a bare socket: keeps exactly what it was sent and answers with exactly what it is given.

For tests that compare requests byte by byte, which a server that understands HTTP can't show.
"""

import socket
import threading
from collections.abc import Callable
from test.support.waiting import poll

__all__ = ["OK", "RawRequest", "RawServer"]

OK = b'HTTP/1.1 200 OK\r\nETag: "d41d8cd98f00b204e9800998ecf8427e"\r\nContent-Length: 0\r\n\r\n'


class RawRequest:
    """One request; grows while it comes.

    :ivar head: everything up to and including the empty line
    :ivar body: everything behind it, with the framing of chunks if there is any
    :ivar complete: whether all of it is here
    """

    def __init__(self, head: bytes) -> None:
        self.head = head
        self.body = b""
        self.complete = False

    @property
    def line(self) -> bytes:
        """The request line."""
        return self.head.partition(b"\r\n")[0]

    @property
    def target(self) -> bytes:
        """The raw target."""
        return self.line.split(b" ")[1]

    @property
    def fields(self) -> list[bytes]:
        """The header's lines."""
        return self.head.split(b"\r\n")[1:-2]

    def values(self, name: bytes) -> list[bytes]:
        """All values of the field with this lower-case name."""
        pairs = (field.partition(b":") for field in self.fields)
        return [value.strip() for given, _, value in pairs if given.lower() == name]

    @property
    def chunked(self) -> bool:
        """Whether its body comes in HTTP chunks."""
        return b"chunked" in b",".join(self.values(b"transfer-encoding")).lower()


class RawServer:
    """Listens on a free port of 127.0.0.1, with a thread per connection. :meth:`stop` ends it.

    :ivar requests: in the order of their heads
    :ivar answer: called with a request whose head is here: the answer to give at once, or None: once it is complete
    :ivar answer_in_the_end: the answer to complete requests
    """

    def __init__(self) -> None:
        self.requests: list[RawRequest] = []
        self.answer: Callable[[RawRequest], bytes | None] = lambda request: None
        self.answer_in_the_end: Callable[[RawRequest], bytes] = lambda request: OK
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def reset(self) -> None:
        """Forget all requests and answer 200 from now on."""
        self.requests.clear()
        self.answer = lambda request: None
        self.answer_in_the_end = lambda request: OK

    def stop(self) -> None:
        """Accept no more connections."""
        self._listener.close()

    def wait(self, count: int = 1) -> RawRequest:
        """The last of so many requests, when its head is here."""
        poll(lambda: len(self.requests) >= count, 10, "a request")
        return self.requests[count - 1]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        buffer = b""
        with connection:
            try:
                while True:
                    while b"\r\n\r\n" not in buffer:
                        data = connection.recv(1 << 16)
                        if not data:
                            return
                        buffer += data
                    head, _, buffer = buffer.partition(b"\r\n\r\n")
                    request = RawRequest(head + b"\r\n\r\n")
                    self.requests.append(request)
                    early = self.answer(request)
                    if early is not None:
                        connection.sendall(early)
                    buffer = self._take_body(connection, request, buffer)
                    request.complete = True
                    if early is None:
                        connection.sendall(self.answer_in_the_end(request))
            except OSError:
                return

    def _take_body(self, connection: socket.socket, request: RawRequest, buffer: bytes) -> bytes:
        """Returns what comes behind the body."""
        length = int((request.values(b"content-length") or [b"0"])[0])
        while True:
            request.body += buffer
            buffer = b""
            if request.chunked:
                end = 0 if request.body.startswith(b"0\r\n") else request.body.find(b"\r\n0\r\n") + 2
                stop = request.body.find(b"\r\n\r\n", end)
                if (end >= 2 or request.body.startswith(b"0\r\n")) and stop >= 0:
                    request.body, buffer = request.body[: stop + 4], request.body[stop + 4 :]
                    return buffer
            elif len(request.body) >= length:
                request.body, buffer = request.body[:length], request.body[length:]
                return buffer
            buffer = connection.recv(1 << 16)
            if not buffer:
                raise ConnectionError("the request broke off")
