"""The certificate of the TLS listener: read at the start, and again when its files change."""

import time
from collections.abc import Callable, Iterable
from typing import Any

from twisted.application.service import Service
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from s3proxy.admin.board import ComponentStatus, HealthState
from s3proxy.cache.background import RunInThread
from s3proxy.services.errors import StartError
from s3proxy.storage.diskio import DiskBusy
from s3proxy.telemetry.instruments import Reading
from s3proxy.wire.tls import Certificate, CertificateProblem, ServerTLS, read_certificate

__all__ = ["CertificateService"]

INTERVAL = 10.0
"""Seconds between two looks at the files."""
WARNING_TIME = 14 * 86400.0
"""Seconds before the end of the certificate's life from which on health is degraded."""


class CertificateService(Service):
    """Keeps the listener's certificate up to date.

    Files that can't be used change nothing: what was read before stays in use. That a certificate is replaced before
    its key, or the key before the certificate, makes no difference: they are looked at again.

    :param run: calls a function in a thread for disk work
    :ivar tls: what the listener makes connections with
    """

    log = Logger()

    def __init__(
        self, reactor: Any, cert_path: str, key_path: str, run: RunInThread, now: Callable[[], float] = time.time
    ) -> None:
        self._cert_path = cert_path
        self._key_path = key_path
        self._run = run
        self._now = now
        self._problem: str | None = None
        self._looking = False
        self._loop = LoopingCall(self._look)
        self._loop.clock = reactor
        self.tls: ServerTLS

    def load(self) -> ServerTLS:
        """Read the files now, before the listener starts.

        :raises StartError: they can't be used
        """
        try:
            certificate = read_certificate(self._cert_path, self._key_path)
        except CertificateProblem as problem:
            raise StartError(f"server.tls: {problem}") from None
        assert certificate is not None
        self.tls = ServerTLS(certificate)
        return self.tls

    def startService(self) -> None:
        """Begin to look at the files."""
        super().startService()
        self._tell(self.tls.certificate)
        self._loop.start(INTERVAL, now=False).addErrback(self._failed)

    def stopService(self) -> None:
        """Look no more."""
        super().stopService()
        if self._loop.running:
            self._loop.stop()

    def reload(self) -> None:
        """Look at the files now, and say again what is wrong with them."""
        self._problem = None
        self._look()

    def _look(self) -> None:
        if not self._looking:
            self._looking = True
            looking = self._run(self._read, self.tls.certificate.stamp)
            looking.addCallbacks(self._found, self._failed).addErrback(self._failed)

    def _read(self, stamp: tuple[object, ...]) -> "Certificate | str | None":
        """In a thread: the new certificate, None without a change, or what is wrong."""
        try:
            return read_certificate(self._cert_path, self._key_path, stamp)
        except CertificateProblem as problem:
            return str(problem)

    def _found(self, found: "Certificate | str | None") -> None:
        self._looking = False
        if isinstance(found, str):
            if found != self._problem:
                self._problem = found
                self.log.error("server.tls: {problem}; the certificate read before stays in use", problem=found)
            return
        self._problem = None
        if found is not None:
            self.tls.certificate = found
            self._tell(found)

    def _failed(self, reason: Failure) -> None:
        self._looking = False
        if not reason.check(DiskBusy):
            self.log.failure("looking at {path}", reason, path=self._cert_path)

    def _tell(self, certificate: Certificate) -> None:
        self.log.info(
            "TLS listener: certificate of {subject}, valid until {until}",
            subject=certificate.subject or self._cert_path,
            until=_date(certificate.expires_at),
        )

    # For operators.

    def health(self) -> ComponentStatus:
        """Whether the certificate holds, for how long, and whether its files can be used."""
        certificate = self.tls.certificate
        left = certificate.expires_at - self._now()
        data: dict[str, object] = {
            "subject": certificate.subject,
            "expires_at": certificate.expires_at,
            "days_left": round(left / 86400, 1),
            "file": self._cert_path,
        }
        messages = []
        if left <= 0:
            messages.append(f"The certificate in {self._cert_path} has expired; clients refuse it.")
        elif left < WARNING_TIME:
            messages.append(f"The certificate in {self._cert_path} expires on {_date(certificate.expires_at)}.")
        if self._problem is not None:
            messages.append(f"A newer certificate can't be used: {self._problem}.")
        if left <= 0:
            state = HealthState.UNHEALTHY
        else:
            state = HealthState.DEGRADED if messages else HealthState.HEALTHY
        return ComponentStatus("tls", state, " ".join(messages), data=data)

    def readings(self) -> Iterable[Reading]:
        """For :meth:`s3proxy.telemetry.metrics.Metrics.observe_source`."""
        at = self.tls.certificate.expires_at
        yield Reading("s3proxy_tls_certificate_not_after_timestamp_seconds", at, ("tls",))


def _date(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))
