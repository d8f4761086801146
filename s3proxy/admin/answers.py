"""How the sites for operators answer: one way to write a body, and the refusals they have in common."""

import json
from typing import Any, Final

from twisted.web.iweb import IRequest

__all__ = ["JSON", "TEXT", "Refused", "json_body", "method_not_allowed", "not_found", "prepare", "quality", "wants"]

JSON: Final = b"application/json"
TEXT: Final = b"text/plain; charset=utf-8"

_ALLOWED: Final = b"GET, HEAD"


class Refused(Exception):
    """A request that can't be answered as it is. :ivar status: of the answer"""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def json_body(value: object) -> bytes:
    """A JSON document for programs and for ``grep``: indented, ASCII, with a line feed at the end."""
    return json.dumps(value, indent=2, ensure_ascii=True).encode("ascii") + b"\n"


def prepare(request: Any, status: int, body: bytes, content_type: bytes = JSON) -> bytes:
    """Set status and headers; what comes back is what is to be written: nothing, for HEAD."""
    request.setResponseCode(status)
    request.setHeader(b"Content-Type", content_type)
    request.setHeader(b"Content-Length", b"%d" % len(body))
    request.setHeader(b"Cache-Control", b"no-store")
    request.setHeader(b"X-Content-Type-Options", b"nosniff")
    return b"" if request.method == b"HEAD" else body


def not_found(request: Any, *paths: str) -> bytes:
    """404, with the paths that exist."""
    return prepare(request, 404, json_body({"error": "There is nothing at this path.", "paths": list(paths)}))


def method_not_allowed(request: Any) -> bytes:
    """405 to everything but GET and HEAD."""
    request.setHeader(b"Allow", _ALLOWED)
    return prepare(request, 405, json_body({"error": "Only GET and HEAD are answered here."}))


def wants(request: IRequest, media_type: str, default: str) -> bool:
    """Whether the Accept header prefers *media_type* to *default*, and says so by name (RFC 9110, section 12.5.1)."""
    best = _weights(request, "accept")
    wanted = best.get(media_type, 0.0)
    other = best.get(default, best.get(f"{default.partition('/')[0]}/*", best.get("*/*", 0.0)))
    return wanted > 0 and wanted >= other


def quality(request: IRequest, field: str, word: str) -> float:
    """How much the client wants this coding, by a field like Accept-Encoding; 0: not at all."""
    best = _weights(request, field)
    return best.get(word, best.get("*", 0.0))


def _weights(request: IRequest, field: str) -> dict[str, float]:
    best: dict[str, float] = {}
    for header in request.requestHeaders.getRawHeaders(field.encode("ascii"), []):
        for item in header.decode("latin-1").split(","):
            name, *parameters = (part.strip().lower() for part in item.split(";"))
            best[name] = max(best.get(name, 0.0), _quality(parameters))
    return best


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return min(1.0, max(0.0, float(parameter[2:])))
            except ValueError:
                return 0.0
    return 1.0
