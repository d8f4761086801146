"""``s3proxyctl warm``: reads objects through the proxy, so that the next who reads them finds them in the cache.

The proxy has no credentials; what it may read, somebody has to sign. A presigned URL is that, for one object and some
time. It is sent as any client would send it: to the proxy's listener, with its path, query and Host as they are.

No reactor is needed for this: threads wait for answers, as many as may be under way.
"""

import http.client
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, SimpleQueue
from typing import Any, Final
from urllib.parse import urlsplit

import attrs

from s3proxy.control.outcome import Unreachable, Usage

__all__ = ["Target", "Warmed", "read_targets", "report", "warm"]

_PIECE: Final = 256 * 1024
_MOST_TEXT: Final = 4096


@attrs.frozen
class Target:
    """One URL. :ivar line: where it stands, from 1 on; :ivar target: path and query, as they are"""

    line: int
    host: str
    target: str

    @property
    def shown(self) -> str:
        """For people, without what signs it."""
        return f"{self.host}{self.target.partition('?')[0]}"


@attrs.frozen(kw_only=True)
class Warmed:
    """What came of one. :ivar error: why it failed; empty if it did not"""

    target: Target
    status: int = 0
    outcome: str = ""
    size: int = 0
    error: str = ""


def read_targets(lines: Iterable[str]) -> list[Target]:
    """The URLs of a list: one in a line; blank lines and those that begin with ``#`` do not count.

    :raises Usage: a line is no URL
    """
    found, wrong = [], []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            parts = urlsplit(text)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.path not in ("", "/")
        except ValueError:
            usable = False
        host = parts.netloc.rpartition("@")[2] if usable else ""
        if not usable or not text.isascii() or any(not each.isprintable() or each == " " for each in text):
            wrong.append(str(number))
            continue
        target = text.split("#", 1)[0].partition("://")[2].partition("/")[2]
        found.append(Target(number, host, f"/{target}"))
    if wrong:
        many = "line" if len(wrong) == 1 else "lines"
        raise Usage(f"{many} {', '.join(wrong[:20])}: no URL of an object; write one https://… in a line")
    return found


def warm(
    targets: list[Target],
    proxy: tuple[str, int],
    *,
    parallel: int,
    patience: float,
    told: Callable[[Warmed], None] = lambda each: None,
) -> list[Warmed]:
    """Read all of them, in the order of the list.

    :param proxy: host and port of a listener of the proxy
    :param parallel: how many at a time
    :param patience: seconds without a byte after which one has failed
    :param told: called when one is done, in any thread, one at a time
    :raises Unreachable: nobody listens there
    """
    try:
        socket.create_connection(proxy, timeout=min(patience, 10.0)).close()
    except OSError as error:
        raise Unreachable(
            f"the proxy can't be reached at {proxy[0]} port {proxy[1]}: {error.strerror or error}"
        ) from None
    waiting: SimpleQueue[Target] = SimpleQueue()
    for each in targets:
        waiting.put(each)
    done: list[Warmed] = []
    lock = threading.Lock()

    def work() -> None:
        connection = http.client.HTTPConnection(*proxy, timeout=patience)
        try:
            for target in _drawn(waiting):
                result = _read(connection, target)
                with lock:
                    done.append(result)
                    told(result)
        finally:
            connection.close()

    # Threads of a daemon's kind: Ctrl-C must not have to wait for a body.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(parallel, len(targets)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.2)
    return sorted(done, key=lambda each: each.target.line)


def _drawn(waiting: "SimpleQueue[Target]") -> Iterator[Target]:
    while True:
        try:
            yield waiting.get_nowait()
        except Empty:
            return


def _read(connection: http.client.HTTPConnection, target: Target) -> Warmed:
    """One whole object. A connection that was kept may have been closed meanwhile: then once more."""
    for attempt in (1, 2):
        kept = connection.sock is not None
        try:
            return _exchange(connection, target)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            if not kept or attempt == 2:
                return Warmed(target=target, error=str(error) or type(error).__name__)
    raise AssertionError


def _exchange(connection: http.client.HTTPConnection, target: Target) -> Warmed:
    connection.putrequest("GET", target.target, skip_host=True, skip_accept_encoding=True)
    connection.putheader("Host", target.host)
    connection.putheader("User-Agent", "s3proxyctl")
    connection.endheaders()
    response = connection.getresponse()
    outcome = response.getheader("X-Cache", "")
    if response.status != 200:
        text = response.read(_MOST_TEXT).decode("utf-8", "replace")
        response.read()
        return Warmed(target=target, status=response.status, outcome=outcome, error=_reason(response, text))
    size = 0
    while data := response.read(_PIECE):
        size += len(data)
    return Warmed(target=target, status=200, outcome=outcome, size=size)


def _reason(response: http.client.HTTPResponse, text: str) -> str:
    """S3's own words."""
    code = text.partition("<Code>")[2].partition("</Code>")[0]
    words = text.partition("<Message>")[2].partition("</Message>")[0]
    return ": ".join(part for part in (code, words) if part) or response.reason


def report(results: list[Warmed], seconds: float) -> dict[str, Any]:
    """All of it as a document."""
    failed = [each for each in results if each.error]
    return {
        "read": len(results) - len(failed),
        "failed": len(failed),
        "bytes": sum(each.size for each in results),
        "seconds": round(seconds, 3),
        "outcomes": dict(Counter(each.outcome or "unknown" for each in results if not each.error)),
        "urls": [
            {
                "line": each.target.line,
                "url": each.target.shown,
                "status": each.status or None,
                "outcome": each.outcome,
                "bytes": each.size,
                "error": each.error,
            }
            for each in results
        ],
    }


def now() -> float:
    """Seconds of a clock that is never set."""
    return time.monotonic()
