"""A collector that takes metrics by OTLP over HTTP on loopback, and keeps what it got."""

import gzip
import http.server
import ssl
import threading
from collections.abc import Iterator
from test.support.certificates import ServerCertificate
from typing import Any

import attrs
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from prometheus_client.utils import floatToGoString

__all__ = ["Got", "OtlpCollector", "Reply", "rejecting", "series"]


@attrs.frozen(kw_only=True)
class Reply:
    """What it answers.

    :ivar drip: seconds between the first bytes of the body, of which there are very many then
    """

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    drip: float = 0.0


def rejecting(count: int, reason: str) -> Reply:
    """All but so many data points are taken."""
    answer = ExportMetricsServiceResponse()
    answer.partial_success.rejected_data_points = count
    answer.partial_success.error_message = reason
    return Reply(body=answer.SerializeToString())


@attrs.frozen(kw_only=True)
class Got:
    """A request. :ivar headers: by lower-case name"""

    path: str
    headers: dict[str, str]
    document: ExportMetricsServiceRequest

    def metrics(self) -> dict[str, Any]:
        """Metrics by name."""
        (resource,) = self.document.resource_metrics
        (scope,) = resource.scope_metrics
        return {metric.name: metric for metric in scope.metrics}

    def resource(self) -> dict[str, str]:
        """The attributes of the resource."""
        (resource,) = self.document.resource_metrics
        return {each.key: each.value.string_value for each in resource.resource.attributes}


def series(metric: Any) -> Iterator[tuple[str, float]]:
    """Series and values as the text format has them: what Prometheus makes of a metric that it gets by OTLP."""
    kind = metric.WhichOneof("data")
    unit = {"s": "_seconds", "By": "_bytes", "1": "_ratio"}.get(metric.unit, "")
    name = metric.name.replace(".", "_") + unit + ("_total" if kind == "sum" else "")
    for point in getattr(metric, kind).data_points:
        labels = [f'{each.key}="{each.value.string_value}"' for each in point.attributes]
        around = "{" + ",".join(labels) + "}" if labels else ""
        if kind != "histogram":
            yield name + around, getattr(point, point.WhichOneof("value"))
            continue
        count = 0
        for bound, here in zip((*point.explicit_bounds, float("inf")), point.bucket_counts):
            count += here
            inner = ",".join((*labels, f'le="{floatToGoString(bound)}"'))
            yield f"{name}_bucket{{{inner}}}", count
        yield f"{name}_count{around}", point.count
        yield f"{name}_sum{around}", point.sum


class OtlpCollector:
    """Listens from the beginning on. :meth:`stop` ends it.

    :ivar got: requests, in order
    :ivar replies: what is answered next, one after the other; then everything is taken
    :ivar silent: while it is set, nothing is answered
    """

    def __init__(self, certificate: ServerCertificate | None = None) -> None:
        self.got: list[Got] = []
        self.replies: list[Reply] = []
        self.silent = threading.Event()
        self._ending = threading.Event()
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector._serve(self)

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate.certificate, certificate.key)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self.url = f"https://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=lambda: self._server.serve_forever(0.02), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Listen no more."""
        self._ending.set()
        self.silent.clear()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _serve(self, request: http.server.BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in request.headers.items()}
        if headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        document = ExportMetricsServiceRequest.FromString(body)
        self.got.append(Got(path=request.path, headers=headers, document=document))
        while self.silent.is_set():
            if self._ending.wait(0.01):
                return
        reply = self.replies.pop(0) if self.replies else Reply()
        request.send_response(reply.status)
        for name, value in reply.headers:
            request.send_header(name, value)
        request.send_header("Content-Length", str(1 << 30 if reply.drip else len(reply.body)))
        request.end_headers()
        try:
            request.wfile.write(reply.body)
            while reply.drip and not self._ending.wait(reply.drip):
                request.wfile.write(b"x")
        except OSError:
            request.close_connection = True
