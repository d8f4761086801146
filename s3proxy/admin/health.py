"""The health site: ``/health`` (what is wrong?), ``/livez`` (restart me?) and ``/readyz`` (send me traffic?).

GET and HEAD are answered alike, other methods with 405, other paths with 404. ``/healthz`` is another name of
``/livez``. ``/health`` is 200 while the instance is healthy or degraded, 503 when it is unhealthy.

Importing klein installs the reactor, which must not happen before twistd has chosen one. Therefore klein is imported
when a site is built, and this module can be imported by anybody at any time.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.web.resource import IResource

from s3proxy.admin.answers import JSON, TEXT, json_body, method_not_allowed, not_found, prepare, wants
from s3proxy.admin.board import ComponentStatus, HealthBoard, HealthComponent, HealthReport, HealthState
from s3proxy.admin.sites import PathResource

if TYPE_CHECKING:
    from klein import Klein

__all__ = ["ComponentStatus", "HealthBoard", "HealthComponent", "HealthReport", "HealthState", "health_resource"]


def health_resource(board: HealthBoard, endpoint: str = "/health") -> IResource:
    """The root of the health listener. To be called once the reactor is installed: it imports klein."""
    return PathResource(_HealthSite(board, endpoint).routes().resource().render)


class _HealthSite:
    def __init__(self, board: HealthBoard, endpoint: str) -> None:
        self._board = board
        self._pages: dict[bytes, Callable[[Any], bytes]] = {
            b"/livez": self._live,
            b"/healthz": self._live,
            b"/readyz": self._ready,
            endpoint.encode("utf-8"): self._health,
        }

    def routes(self) -> "Klein":
        """One route for every path: with one per page the router would take ``//health`` for ``/health``, too."""
        from klein import Klein

        app = Klein()
        app.route("/", branch=True)(self._page)
        return app

    def _page(self, request: Any) -> bytes:
        page = self._pages.get(request.path)
        if page is None:
            return not_found(request, *(path.decode("utf-8") for path in self._pages))
        if request.method not in (b"GET", b"HEAD"):
            return method_not_allowed(request)
        return page(request)

    def _health(self, request: Any) -> bytes:
        report = self._board.check()
        status = 503 if report.state is HealthState.UNHEALTHY else 200
        if wants(request, "text/plain", "application/json"):
            return prepare(request, status, _as_text(report), TEXT)
        return prepare(request, status, json_body(self._board.document()), JSON)

    def _live(self, request: Any) -> bytes:
        report = self._board.check()
        return _verdict(request, "live", report.live, report.not_live)

    def _ready(self, request: Any) -> bytes:
        report = self._board.check()
        return _verdict(request, "ready", report.ready, report.not_ready)


def _verdict(request: Any, question: str, answer: bool, reasons: tuple[str, ...]) -> bytes:
    status = 200 if answer else 503
    parameters = {parameter.partition(b"=")[0] for parameter in request.uri.partition(b"?")[2].split(b"&")}
    if b"verbose" in parameters or wants(request, "text/plain", "application/json"):
        lines = [question if answer else f"not {question}", *reasons]
        return prepare(request, status, ("\n".join(lines) + "\n").encode("utf-8"), TEXT)
    return prepare(request, status, json_body({question: answer, "reasons": list(reasons)}), JSON)


def _as_text(report: HealthReport) -> bytes:
    lines = [report.state.value]
    lines += [
        f"{status.name}: {status.state.value}: {status.message}"
        for status in report.components
        if status.state is not HealthState.HEALTHY
    ]
    return ("\n".join(lines) + "\n").encode("utf-8")
