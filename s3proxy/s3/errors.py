"""Errors in S3's own form: a status, a code that SDKs understand, and an XML document.

Every error that the proxy makes itself comes from a function here, so that codes, statuses and wording are in one
place. An error that S3 answered is never rebuilt: it is relayed as it came.
"""

import re
from datetime import datetime, timezone

__all__ = [
    "CONTENT_TYPE",
    "S3Error",
    "access_denied",
    "access_denied_expired",
    "bad_gateway",
    "entity_too_large",
    "gateway_timeout",
    "header_too_large",
    "internal_error",
    "invalid_range",
    "invalid_request",
    "invalid_uri",
    "malformed_xml",
    "method_not_allowed",
    "missing_host",
    "render",
    "request_timeout",
    "slow_down",
    "upstream_tls_validation_failed",
    "uri_too_long",
]

#: Media type of what :func:`render` gives.
CONTENT_TYPE = b"application/xml"

_RETRY_AFTER_SECONDS = 5

# What an XML 1.0 document can't contain, escaped or not (XML 1.0 section 2.2).
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class S3Error(Exception):
    """A request that is answered with an error document.

    :ivar status: HTTP status code
    :ivar code: S3's error code, such as ``SlowDown``
    :ivar message: what is wrong and what to do about it, for people
    :ivar fields: further elements of the document, as (tag, text) in order
    :ivar headers: fields of the answer besides Content-Type, Content-Length, Date and the request id
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        fields: tuple[tuple[str, str], ...] = (),
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.fields = fields
        self.headers = headers


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _timestamp(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return "never"


def slow_down(message: str = "Please reduce your request rate.") -> S3Error:
    """503: the proxy has no room for this request now; clients wait and repeat it."""
    return S3Error(503, "SlowDown", message, headers=((b"Retry-After", b"%d" % _RETRY_AFTER_SECONDS),))


def bad_gateway(message: str = "The S3 endpoint could not be reached, or its answer broke off.") -> S3Error:
    """502: no answer of S3 could be had."""
    return S3Error(502, "BadGateway", message)


def gateway_timeout(message: str = "The S3 endpoint did not answer in time.") -> S3Error:
    """504: S3 was asked and kept silent."""
    return S3Error(504, "GatewayTimeout", message)


def internal_error(message: str = "We encountered an internal error. Please try again.") -> S3Error:
    """500: a fault of the proxy."""
    return S3Error(500, "InternalError", message)


def request_timeout() -> S3Error:
    """400: the client's own body stopped coming; S3's status and code for this, which SDKs repeat."""
    return S3Error(
        400,
        "RequestTimeout",
        "Your socket connection to the server was not read from or written to within the timeout period.",
    )


def invalid_range(size: int, range_value: bytes) -> S3Error:
    """416: the range lies outside of an object of ``size`` bytes."""
    return S3Error(
        416,
        "InvalidRange",
        "The requested range is not satisfiable",
        fields=(("RangeRequested", _text(range_value)), ("ActualObjectSize", str(size))),
        headers=((b"Content-Range", b"bytes */%d" % size),),
    )


def missing_host() -> S3Error:
    """400: the request names no host."""
    return S3Error(400, "MissingHostHeader", "The request has no Host header. Every request must name one host.")


def invalid_request(message: str) -> S3Error:
    """400: the request can't be understood; ``message`` says why."""
    return S3Error(400, "InvalidRequest", message)


def invalid_uri(message: str = "Couldn't parse the specified URI.") -> S3Error:
    """400: the request target can't be understood."""
    return S3Error(400, "InvalidURI", message)


def malformed_xml() -> S3Error:
    """400: a body that must be an XML document of a known kind is none."""
    return S3Error(
        400,
        "MalformedXML",
        "The XML you provided was not well-formed or did not validate against our published schema",
    )


def uri_too_long(limit: int) -> S3Error:
    """414: the request target has more than ``limit`` bytes."""
    return S3Error(
        414,
        "RequestURITooLong",
        f"The request target is longer than {limit} bytes.",
        fields=(("MaxLengthAllowed", str(limit)),),
    )


def header_too_large(limit: int) -> S3Error:
    """431: the header section has more than ``limit`` bytes. The code is S3's."""
    return S3Error(
        431,
        "RequestHeaderSectionTooLarge",
        f"The request's header section is larger than {limit} bytes.",
        fields=(("MaxSizeAllowed", str(limit)),),
    )


def entity_too_large(limit: int, size: int | None = None) -> S3Error:
    """413: the body has, or would have, more than ``limit`` bytes. ``size`` is what was announced, if anything was."""
    announced = (("ProposedSize", str(size)),) if size is not None else ()
    return S3Error(
        413,
        "EntityTooLarge",
        f"Your proposed upload exceeds the maximum allowed size of {limit} bytes.",
        fields=announced + (("MaxSizeAllowed", str(limit)),),
    )


def access_denied(message: str = "Access Denied") -> S3Error:
    """403: the proxy does not pass this request on; ``message`` says why."""
    return S3Error(403, "AccessDenied", message)


def access_denied_expired(expires_at: float, now: float) -> S3Error:
    """403 as S3 answers a presigned request after its time. Both times are in seconds since the epoch."""
    return S3Error(
        403,
        "AccessDenied",
        "Request has expired",
        fields=(("Expires", _timestamp(expires_at)), ("ServerTime", _timestamp(now))),
    )


def method_not_allowed(method: bytes) -> S3Error:
    """405: this listener does not serve the method."""
    return S3Error(
        405,
        "MethodNotAllowed",
        "The specified method is not allowed against this resource.",
        fields=(("Method", _text(method)),),
    )


def upstream_tls_validation_failed(host: str) -> S3Error:
    """400: the upstream's certificate does not hold. A client error, so that SDKs do not repeat the request."""
    return S3Error(
        400,
        "UpstreamTLSValidationFailed",
        f"The certificate of {host} could not be validated. The request was not sent.",
        fields=(("Endpoint", host),),
    )


def _element(tag: str, text: str) -> str:
    escaped = _NOT_XML.sub("\ufffd", text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f"<{tag}>{escaped}</{tag}>"


def render(error: S3Error, request_id: str, resource: bytes) -> bytes:
    """The XML document of an error, as S3 would write it.

    :param request_id: what the answer's ``x-amz-request-id`` says too
    :param resource: the request's path; a query string is cut off, because it may hold credentials
    """
    path = _text(resource.partition(b"?")[0])
    parts = [_element("Code", error.code), _element("Message", error.message)]
    parts += [_element(tag, text) for tag, text in error.fields]
    parts += [_element("Resource", path), _element("RequestId", request_id)]
    document = '<?xml version="1.0" encoding="UTF-8"?>\n<Error>' + "".join(parts) + "</Error>"
    return document.encode("utf-8")
