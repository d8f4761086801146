"""The metrics site: Prometheus' text format, or JSON for people and scripts.

``?format=prometheus`` or ``?format=json`` decides; without it, an Accept header that prefers ``application/json``;
else the configured format.
"""

from typing import Any, Final

from twisted.web.resource import IResource

from s3proxy.admin.answers import JSON, json_body, method_not_allowed, not_found, prepare, wants
from s3proxy.admin.sites import PathResource
from s3proxy.telemetry.metrics import TEXT_CONTENT_TYPE, Metrics

__all__ = ["FORMATS", "metrics_resource"]

FORMATS: Final = ("prometheus", "json")
"""The values of ``metrics.format`` and of the query parameter ``format``."""


def metrics_resource(metrics: Metrics, endpoint: str = "/metrics", default_format: str = "prometheus") -> IResource:
    """The root of the metrics listener: answers GET and HEAD at *endpoint*, 404 elsewhere.

    :raises ValueError: when the format is none of :data:`FORMATS`
    """
    if default_format not in FORMATS:
        raise ValueError(f"metrics format {default_format!r} is not one of {', '.join(FORMATS)}")
    path = endpoint.encode("utf-8")

    def answer(request: Any) -> bytes:
        if request.path != path:
            return not_found(request, endpoint)
        if request.method not in (b"GET", b"HEAD"):
            return method_not_allowed(request)
        chosen = _format_of(request, default_format)
        if chosen not in FORMATS:
            return prepare(request, 400, json_body({"error": f"The format is one of {', '.join(FORMATS)}."}))
        request.setHeader(b"Vary", b"Accept")
        if chosen == "json":
            return prepare(request, 200, metrics.render_json(), JSON)
        return prepare(request, 200, metrics.render_text(), TEXT_CONTENT_TYPE)

    return PathResource(answer)


def _format_of(request: Any, default: str) -> str:
    named = request.args.get(b"format")
    if named:
        return str(named[-1].decode("ascii", "replace"))
    if default == "json":
        return "prometheus" if wants(request, "text/plain", "application/json") else "json"
    return "json" if wants(request, "application/json", "text/plain") else "prometheus"
