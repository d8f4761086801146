"""Requests that ended, and lines of the application log, as documents: from the lines of the access log, in which no
secrets are left.
"""

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from s3proxy.telemetry.accessforms import fields_of
from s3proxy.telemetry.redaction import redact_text

__all__ = ["LogLines", "matching", "parse_line", "text_of"]

_FIELDS: Final = 39
_MOST_LINES: Final = 2000
LEVELS: Final = ("trace", "debug", "info", "warn", "error", "critical")


def text_of(name: bytes) -> str:
    """A name for people: UTF-8 by S3's rules, bytes that are not as ``\\xNN``."""
    return name.decode("utf-8", "backslashreplace")


def parse_line(arrived: float, line: bytes) -> dict[str, Any] | None:
    """A line of the access log as a document; None for one that is not whole."""
    fields = [field.decode("ascii", "replace") for field in fields_of(line)]
    if len(fields) < _FIELDS:
        return None

    def number(at: int) -> float | None:
        try:
            return float(fields[at - 1])
        except ValueError:
            return None

    def word(at: int) -> str:
        value = fields[at - 1].strip('"')
        return "" if value == "-" else value

    return {
        "time": round(arrived, 3),
        "client": word(4),
        "operation": word(7),
        "bucket": word(2),
        "key": text_of(unquote_to_bytes(word(8))),
        "request": word(9),
        "status": int(number(10) or 0),
        "error": word(11),
        "sent": int(number(12) or 0),
        "size": number(13),
        "total_ms": number(14),
        "first_byte_ms": number(29),
        "agent": word(17),
        "outcome": word(28),
        "range": word(30),
        "cached": int(number(31) or 0),
        "upstream": word(32),
        "upstream_ms": number(33),
        "wait_ms": number(34),
        "ending": word(35),
        "id": word(37),
        "reason": word(38),
        "received": int(number(39) or 0),
    }


def matching(
    lines: Iterable[tuple[float, bytes]], *, text: str, outcome: str, reason: str, limit: int
) -> list[dict[str, Any]]:
    """The first of these that fit: by a part of the bucket, key, request or client, an outcome, and a reason."""
    wanted = text.lower()
    found: list[dict[str, Any]] = []
    for arrived, line in lines:
        if len(found) >= limit:
            break
        # Most lines need not be taken apart.
        if f" {outcome}".encode() not in line or f" {reason}".encode() not in line:
            continue
        document = parse_line(arrived, line)
        if document is None or (outcome or document["outcome"], reason or document["reason"]) != (
            document["outcome"], document["reason"],
        ):  # fmt: skip
            continue
        if wanted:
            whole = "{bucket}/{key} {request} {client} {operation} {status} {id}".format_map(document).lower()
            if wanted not in whole:
                continue
        found.append(document)
    return found


class LogLines:
    """The last lines of the application log. :meth:`add` may be called by any thread, the rest by the reactor's."""

    def __init__(self, most: int = _MOST_LINES) -> None:
        self._lines: deque[tuple[int, float, str, str, str]] = deque(maxlen=most)
        self._number = 0
        self._lock = threading.Lock()

    def add(self, at: float, level: str, namespace: str, text: str) -> None:
        """A line was written; its text may have further lines, and has no secrets."""
        with self._lock:
            self._number += 1
            self._lines.append((self._number, at, level, namespace, text))

    @property
    def newest(self) -> int:
        """The number of the last line; 0 before the first."""
        return self._number

    def _documents(self) -> Iterator[dict[str, Any]]:
        with self._lock:
            lines = tuple(self._lines)
        for number, at, level, namespace, text in reversed(lines):
            yield {
                "number": number, "time": round(at, 3), "level": level, "source": namespace, "text": redact_text(text),
            }  # fmt: skip

    def latest(
        self, *, after: int = 0, level: str = "trace", text: str = "", since: float = 0.0, limit: int = 200
    ) -> list[dict[str, Any]]:
        """The newest lines that fit, newest first.

        :param after: only lines of a higher number
        :param level: the least level
        :param since: Unix time
        """
        least, wanted = LEVELS.index(level), text.lower()
        found: list[dict[str, Any]] = []
        for line in self._documents():
            if line["number"] <= after or line["time"] < since or len(found) >= limit:
                break
            if LEVELS.index(line["level"]) < least:
                continue
            if wanted and wanted not in f"{line['source']} {line['text']}".lower():
                continue
            found.append(line)
        return found
