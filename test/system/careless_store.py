"""A store that believes everybody, for requests whose signatures are wrong."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["CarelessStore"]

_BODY = b"0123456789" * 100
_ERROR = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>%b</Code><Message>No.</Message></Error>'


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    mood = "kind"
    released = threading.Event()

    def _answer(self) -> None:
        self._read_body()
        mood = self.mood
        if mood == "hold":
            self.released.wait(30)
        if mood == "cut":
            self.close_connection = True
            return
        if mood == "garbage":
            self.wfile.write(b"\x15\x03\x01\x00\x02\x02 " + self.requestline.encode("latin-1"))
            self.close_connection = True
            return
        if mood == "deny":
            self._send(403, _ERROR % b"SignatureDoesNotMatch", {"Content-Type": "application/xml"})
        elif self.command == "DELETE":
            self._send(204, b"", {})
        elif self.command == "POST":
            self._send(200, b"<Result/>", {"Content-Type": "application/xml"})
        elif self.command == "PUT":
            self._send(200, b"", {"ETag": '"e1"'})
        else:
            self._send(
                200, _BODY, {"ETag": '"e1"', "Last-Modified": "Sat, 31 Jan 2026 00:00:00 GMT", "Accept-Ranges": "bytes"}
            )

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_OPTIONS = _answer

    def _read_body(self) -> None:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                self.rfile.read(size + 2)
            while self.rfile.readline().strip():
                pass
        else:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, status: int, body: bytes, fields: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"x-amz-request-id": "STOREREQUEST", "x-amz-id-2": "STOREHOST", **fields}.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def handle_error(self, *_: Any) -> None:
        """Connections break off."""


class CarelessStore:
    """Serves from a thread of the test's process until :meth:`stop`.

    :ivar port: on 127.0.0.1
    """

    def __init__(self) -> None:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self.be("kind")
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def be(self, mood: str) -> None:
        """From now on be ``kind``, ``deny`` everything, ``cut`` connections, send ``garbage``, or ``hold`` answers."""
        if mood == "hold":
            _Handler.released.clear()
        else:
            _Handler.released.set()
        _Handler.mood = mood

    def stop(self) -> None:
        """End it."""
        self.be("kind")
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
