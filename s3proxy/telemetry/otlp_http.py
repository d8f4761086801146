"""One export by OTLP over HTTP, with OpenTelemetry's exporter; for a thread. Needs the extra ``s3proxy[otlp]``."""

import io
import logging
import ssl
import time
from collections.abc import Mapping
from typing import Any, Final

import attrs
import requests
from google.protobuf.message import DecodeError
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData
from urllib3.exceptions import HTTPError

from s3proxy.util.filevalue import resolved

__all__ = ["Collector", "Delivery", "METRICS_PATH", "endpoint_url"]

METRICS_PATH: Final = "/v1/metrics"
LONGEST_ANSWER: Final = 64 * 1024
"""Bytes of an answer that are read."""

# What the exporter has to say is in Delivery; without a handler Python would write it to stderr.
logging.getLogger("opentelemetry").addHandler(logging.NullHandler())


def endpoint_url(endpoint: str) -> str:
    """The URL to post to: that of the collector, with the path of metrics if it has none."""
    scheme, _, rest = endpoint.partition("://")
    host, slash, path = rest.partition("/")
    return endpoint if path else f"{scheme}://{host}{METRICS_PATH}"


@attrs.frozen(kw_only=True)
class Delivery:
    """What became of an export.

    :ivar problem: why nothing was taken; None: it was
    :ivar rejected: how many data points the collector did not take although it took the others
    :ivar reason: what it says about them
    """

    problem: str | None = None
    rejected: int = 0
    reason: str = ""


@attrs.frozen(kw_only=True)
class Collector:
    """Who takes metrics.

    :ivar endpoint: its URL, see :func:`endpoint_url`
    :ivar headers: fields of the requests; files that values name are read at every export
    :ivar ca_file: PEM file of the authorities that are trusted; None: those of the system
    :ivar compression: none or gzip
    """

    endpoint: str
    headers: Mapping[str, str] = attrs.field(factory=dict)
    ca_file: str | None = None
    compression: str = "none"

    def export(self, data: MetricsData, timeout: float) -> Delivery:
        """Deliver this; tried again as the exporter thinks fit, for ``timeout`` seconds altogether."""
        headers = {}
        for name, value in self.headers.items():
            try:
                headers[name] = _value_of(value)
            except (OSError, ValueError) as error:
                return Delivery(problem=f"the value of {name} can't be sent: {error}")
        session = _Session(time.monotonic() + timeout)
        exporter = OTLPMetricExporter(
            endpoint=endpoint_url(self.endpoint),
            certificate_file=self.ca_file or _system_authorities(),
            headers=headers,
            timeout=timeout,
            compression=Compression.Gzip if self.compression == "gzip" else Compression.NoCompression,
            session=session,
        )
        try:
            result = exporter.export(data)
        except (requests.RequestException, ValueError) as error:
            return Delivery(problem=session.problem or _innermost(error))
        finally:
            exporter.shutdown()
        # The exporter takes a redirection for success.
        if session.problem is not None or result is not MetricExportResult.SUCCESS:
            return Delivery(problem=session.problem or "the exporter gave up")
        return _judged(session.answer)


class _Session(requests.Session):
    """Goes to the collector and nowhere else: neither to proxies, which this process may be, nor after redirections.

    :ivar problem: why the latest request was of no use; None: it was
    :ivar answer: the beginning of the body of the answer to it
    """

    def __init__(self, deadline: float) -> None:
        super().__init__()
        self.trust_env = False
        self.problem: str | None = None
        self.answer = b""
        self._deadline = deadline

    def get_redirect_target(self, resp: requests.Response) -> None:
        """See the class."""

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Send it, and read no more of the answer than there is room and time for."""
        self.answer = b""
        options["stream"] = True
        try:
            response = super().send(request, **options)
            self.answer = self._read(response)
        except requests.RequestException as error:
            self.problem = _innermost(error)
            raise
        self.problem = None if 200 <= response.status_code < 300 else f"the collector answered {response.status_code}"
        return response

    def _read(self, response: requests.Response) -> bytes:
        answer = bytearray()
        try:
            # Larger pieces would be waited for, however slowly they come.
            for piece in response.raw.stream(1, decode_content=True):
                answer += piece
                if len(answer) >= LONGEST_ANSWER or time.monotonic() > self._deadline:
                    break
        except HTTPError as error:
            raise requests.ConnectionError(error, request=response.request) from error
        finally:
            response.close()
        response.raw = io.BytesIO(answer)
        return bytes(answer)


def _value_of(value: str) -> str:
    value = resolved(value).strip()
    if not value.isprintable():
        # The library would say the same with the value in it.
        raise ValueError("it has characters that are not printable")
    # So that UTF-8 is sent, not what the library takes for the encoding of fields.
    return value.encode("utf-8").decode("latin-1")


def _system_authorities() -> str | None:
    """Where OpenSSL looks, see SSL_CERT_FILE and SSL_CERT_DIR; None: nowhere, and the exporter has its own."""
    paths = ssl.get_default_verify_paths()
    return paths.cafile or paths.capath


def _innermost(error: BaseException) -> str:
    """What went wrong first. What is around it may name the URL, which may hold a password."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return str(error) or type(error).__name__


def _judged(answer: bytes) -> Delivery:
    try:
        partial = ExportMetricsServiceResponse.FromString(answer).partial_success
    except DecodeError:
        # Some collectors answer with text.
        return Delivery()
    return Delivery(rejected=partial.rejected_data_points, reason=partial.error_message)
