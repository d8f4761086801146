"""Exports metrics to a collector by OTLP over HTTP, on a timer of its own.

There is never more than one batch: one that could not be delivered is tried again until the next is due, and then
given up for it. An export that hangs delays nothing, and the end of the process cuts it.
"""

import gzip
import json
import random
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers

from s3proxy.config.model import Otlp
from s3proxy.telemetry.otlp import document, endpoint_url, rejected
from s3proxy.telemetry.snapshot import Snapshot

__all__ = ["OtlpExporter"]

RETRIED: Final = frozenset({429, 502, 503, 504})
"""Answers after which the same batch is sent again (OTLP specification, Retryable Response Codes)."""
FIRST_DELAY: Final = 1.0
"""Seconds before the second attempt, about; twice as long before each further one."""
LONGEST_ANSWER: Final = 64 * 1024
"""Bytes of an answer that are looked at."""


class _Refused(Exception):
    """The collector did not take the batch. :ivar delay: seconds after which it may; None: it never will"""

    def __init__(self, text: str, delay: float | None) -> None:
        super().__init__(text)
        self.delay = delay


class OtlpExporter(Service):
    """See the module.

    :param snapshot: gives what is to be exported: of this process, or of several
    :param resource: attributes of who exports (``service.name``…)
    :param exported: told how each export ended: success, partial or failure
    :param started_at: Unix time from which on counters count
    :param now: Unix time
    :param post: sends a request with these headers and this body; gives back status, Retry-After and body
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        config: Otlp,
        *,
        snapshot: "Callable[[], Snapshot | Deferred[Snapshot]]",
        resource: Mapping[str, str],
        exported: Callable[[str], None],
        started_at: float,
        now: Callable[[], float] = time.time,
        post: "Callable[[str, dict[str, str], bytes], Deferred[tuple[int, str, bytes]]] | None" = None,
    ) -> None:
        self._reactor = reactor
        self._config = config
        self._take: Callable[[], Any] = snapshot
        self._resource = dict(resource)
        self._exported = exported
        self._started_at = started_at
        self._now = now
        self._post = post or self._post_over_http
        self._url = endpoint_url(config.endpoint)
        self._loop = LoopingCall(self._tick)
        self._loop.clock = reactor
        self._under_way: Deferred[None] | None = None
        self._failing = False

    def startService(self) -> None:
        """Export after each interval."""
        super().startService()
        self._loop.start(self._config.export_interval, now=False).addErrback(self._broken)

    def stopService(self) -> None:
        """Export no more, and cut what is under way."""
        super().stopService()
        if self._loop.running:
            self._loop.stop()
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.cancel()

    def _broken(self, reason: Failure) -> None:
        self.log.failure("the OTLP export", reason)

    def _tick(self) -> "Deferred[None]":
        exporting = self._under_way = Deferred.fromCoroutine(self._export())
        return exporting.addErrback(self._ended)

    def _ended(self, reason: Failure) -> None:
        """Nothing that goes wrong ends the timer."""
        if not reason.check(CancelledError):
            self._broken(reason)
            self._exported("failure")

    async def _export(self) -> None:
        """One batch, until it is delivered or the next one is due."""
        config = self._config
        due = self._reactor.seconds() + config.export_interval
        body, headers = self._encode(await maybeDeferred(self._take))
        attempt = 0
        while True:
            try:
                count, text = await self._send(headers, body)
            except _Refused as error:
                problem: Exception = error
                delay = error.delay
            except (CancelledError, MemoryError):
                raise
            except Exception as error:
                # There are many ways for a connection not to come about.
                problem, delay = error, 0.0
            else:
                self._delivered(count, text)
                return
            if delay is not None:
                delay = max(delay, FIRST_DELAY * 2**attempt * random.uniform(0.5, 1.5))
            if delay is None or self._reactor.seconds() + delay + config.timeout > due:
                self._gave_up(problem)
                return
            attempt += 1
            await deferLater(self._reactor, delay)

    def _encode(self, snapshot: Snapshot) -> tuple[bytes, dict[str, str]]:
        config = self._config
        found = document(
            snapshot, self._resource, started_at=self._started_at, now=self._now(), per_bucket=config.per_bucket_enabled
        )
        body = json.dumps(found, separators=(",", ":"), allow_nan=False).encode("ascii")
        headers = {"Content-Type": "application/json", **config.headers}
        if config.compression == "gzip":
            body = gzip.compress(body, compresslevel=1, mtime=0)
            headers["Content-Encoding"] = "gzip"
        return body, headers

    async def _send(self, headers: dict[str, str], body: bytes) -> tuple[int, str]:
        """How many data points were not taken, and why.

        :raises _Refused: none was
        """
        sending = self._post(self._url, headers, body)
        sending.addTimeout(self._config.timeout, self._reactor)
        status, retry_after, answer = await sending
        if 200 <= status < 300:
            try:
                return rejected(json.loads(answer or b"{}"))
            except ValueError:
                return 0, ""
        delay = None
        if status in RETRIED:
            delay = float(retry_after) if retry_after.isdigit() else 0.0
        raise _Refused(f"the collector answered {status}", delay)

    def _delivered(self, count: int, text: str) -> None:
        self._exported("partial" if count else "success")
        if count:
            self.log.warn("the OTLP collector did not take {count} data points: {text}", count=count, text=text)
        if self._failing:
            self._failing = False
            self.log.info("metrics are exported by OTLP again")

    def _gave_up(self, problem: Exception) -> None:
        self._exported("failure")
        if not self._failing:
            self._failing = True
            # Once, until it works again. The URL may hold a password.
            self.log.warn(
                "metrics could not be exported by OTLP (metrics.otlp.endpoint): {problem}; it is tried again every "
                "{interval:g} s",
                problem=str(problem) or type(problem).__name__,
                interval=self._config.export_interval,
            )

    def _post_over_http(self, url: str, headers: dict[str, str], body: bytes) -> "Deferred[tuple[int, str, bytes]]":
        return Deferred.fromCoroutine(self._request(url, headers, body))

    async def _request(self, url: str, headers: dict[str, str], body: bytes) -> tuple[int, str, bytes]:
        # Both install a reactor if there is none yet.
        from treq.client import HTTPClient
        from twisted.web.client import Agent

        fields = Headers({name: [value] for name, value in headers.items()})
        response = await HTTPClient(Agent(self._reactor)).post(
            url, data=body, headers=fields, allow_redirects=False, unbuffered=True
        )  # fmt: skip
        retry_after = response.headers.getRawHeaders("retry-after", [""])[0]
        answer = bytearray()
        # Beyond that it is read and thrown away, within the time limit.
        await response.collect(lambda data: answer.extend(data[: LONGEST_ANSWER - len(answer)]))
        return response.code, retry_after, bytes(answer)
