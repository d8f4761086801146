"""The forms in which lines of the access log are written: made from the lines of :mod:`.accessline`.

What is not in such a line is in no form: secrets are taken out, and lines made safe, in one place. Both functions are
for the thread that writes; they are no part of answering a request.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Final

__all__ = ["FIELDS", "FORMS", "as_json", "fields_of", "strictly_s3"]

FIELDS: Final = (
    "bucket_owner", "bucket", "time", "remote_ip", "requester", "request_id", "operation", "key", "request_uri",
    "http_status", "error_code", "bytes_sent", "object_size", "total_time", "turn_around_time", "referrer",
    "user_agent", "version_id", "host_id", "signature_version", "cipher_suite", "authentication_type", "host_header",
    "tls_version", "access_point_arn", "acl_required", "source_region",
    "outcome", "first_byte_ms", "range", "cached_bytes", "upstream", "upstream_ms", "wait_ms", "ending", "instance",
    "proxy_request_id", "reason", "bytes_received",
)  # fmt: skip
"""Names of the fields, in their order in a line; the first 27 are S3's."""

_OF_S3: Final = 27
_NUMBERS: Final = frozenset(
    {
        "http_status", "bytes_sent", "object_size", "total_time", "turn_around_time", "first_byte_ms", "cached_bytes",
        "upstream_ms", "wait_ms", "bytes_received",
    }
)  # fmt: skip
_PIECE: Final = re.compile(rb'"[^"]*"|[^ \n]+')
_AT_TIME: Final = 2
_TIME: Final = re.compile(r"\[(\d\d)/(\w{3})/(\d{4}):(\d\d:\d\d:\d\d) \+0000\]")
_MONTHS: Final = {
    name: number
    for number, name in enumerate("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), start=1)
}  # fmt: skip


def fields_of(line: bytes) -> list[bytes]:
    """The fields of a line, quotes and brackets included. Blanks are within quotes, and one is in the time."""
    pieces = _PIECE.findall(line)
    pieces[_AT_TIME : _AT_TIME + 2] = [b" ".join(pieces[_AT_TIME : _AT_TIME + 2])]
    return pieces


def as_json(line: bytes) -> bytes:
    """One JSON object on a line: every field that is there, under its name. Numbers are numbers, the time is that of
    RFC 3339, everything else is as it is in the line, percent-encoding included.
    """
    found: dict[str, object] = {}
    for name, field in zip(FIELDS, fields_of(line)):
        text = field.decode("ascii", "backslashreplace")
        if name == "time":
            text = _rfc_3339(text)
        elif text.startswith('"'):
            text = text[1:-1]
        if text == "-":
            continue
        found[name] = _number(text) if name in _NUMBERS else text
    return json.dumps(found, separators=(",", ":")).encode("ascii") + b"\n"


def strictly_s3(line: bytes) -> bytes:
    """The 27 fields of S3 alone."""
    return b" ".join(fields_of(line)[:_OF_S3]) + b"\n"


def _number(text: str) -> object:
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        return text


def _rfc_3339(text: str) -> str:
    found = _TIME.fullmatch(text)
    if found is None:
        return text
    day, month, year, clock = found.groups()
    return f"{year}-{_MONTHS[month]:02d}-{day}T{clock}Z"


FORMS: Final[Mapping[str, Callable[[bytes], bytes] | None]] = {
    "s3": None,
    "s3-strict": strictly_s3,
    "json": as_json,
}
"""The values of ``logging.access_log_format``, and what makes such a line; None: the line is written as it is."""
