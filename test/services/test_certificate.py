"""The certificate of the TLS listener, in the course of time."""

import os
import shutil
import tempfile
from pathlib import Path
from test.support.certificates import CertificateAuthority
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.admin.board import HealthState
from s3proxy.services.certificate import INTERVAL, WARNING_TIME, CertificateService
from s3proxy.services.errors import StartError


class CertificateServiceTests(SynchronousTestCase):
    """CertificateService."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.authority = CertificateAuthority(self.folder)
        self.made = self.authority.issue(["proxy.example"])
        self.clock = Clock()
        self.time: float | None = None
        self.reads = 0
        self.service = CertificateService(
            self.clock, str(self.made.certificate), str(self.made.key), self.run_here, self.now
        )

    def run_here(self, call: Any, *args: Any) -> "Deferred[Any]":
        self.reads += 1
        return maybeDeferred(call, *args)

    def now(self) -> float:
        expires: float = self.service.tls.certificate.expires_at
        return expires - 20 * 86400 if self.time is None else expires + self.time

    def start(self) -> None:
        self.service.load()
        self.service.startService()
        self.addCleanup(self.service.stopService)

    def put(self, **options: bool) -> None:
        new = self.authority.issue(["other.example"], **options)
        os.replace(new.certificate, self.made.certificate)
        os.replace(new.key, self.made.key)

    def test_wrong_at_the_start(self) -> None:
        """A certificate that can't be used keeps the proxy from starting."""
        self.made.key.write_text("x")
        error = self.assertRaises(StartError, self.service.load)
        self.assertIn("server.tls", str(error))

    def test_change(self) -> None:
        """New files are in use from the next look on."""
        self.start()
        first = self.service.tls.certificate
        self.clock.advance(INTERVAL)
        self.assertIs(self.service.tls.certificate, first)
        self.put()
        self.clock.advance(INTERVAL)
        self.assertEqual(self.service.tls.certificate.subject, "other.example")
        self.assertIs(self.service.health().state, HealthState.HEALTHY)

    def test_half_a_change(self) -> None:
        """Files that do not belong together change nothing, until they do."""
        self.start()
        first = self.service.tls.certificate
        new = self.authority.issue(["other.example"])
        os.replace(new.certificate, self.made.certificate)
        for _ in range(3):
            self.clock.advance(INTERVAL)
        self.assertIs(self.service.tls.certificate, first)
        self.assertIs(self.service.health().state, HealthState.DEGRADED)
        self.assertIn("does not belong", self.service.health().message)
        os.replace(new.key, self.made.key)
        self.clock.advance(INTERVAL)
        self.assertEqual(self.service.tls.certificate.subject, "other.example")
        self.assertIs(self.service.health().state, HealthState.HEALTHY)

    def test_reload(self) -> None:
        """Nobody has to wait who asks for it."""
        self.start()
        self.put()
        self.service.reload()
        self.assertEqual(self.service.tls.certificate.subject, "other.example")

    def test_slow_disk(self) -> None:
        """One look at a time."""
        self.start()
        waiting: Deferred[Any] = Deferred()
        self.patch(self.service, "_run", lambda *_: waiting)
        self.clock.pump([INTERVAL] * 3)
        waiting.callback(None)
        self.patch(self.service, "_run", self.run_here)
        self.put()
        self.clock.advance(INTERVAL)
        self.assertEqual(self.service.tls.certificate.subject, "other.example")
        self.assertEqual(self.reads, 1)

    def test_end_of_its_life(self) -> None:
        """Health is degraded for the last days, and unhealthy from then on."""
        self.start()
        self.assertIs(self.service.health().state, HealthState.HEALTHY)
        self.assertEqual(self.service.health().data["days_left"], 20.0)
        self.time = -WARNING_TIME + 60
        self.assertIn("expires on", self.service.health().message)
        self.assertIs(self.service.health().state, HealthState.DEGRADED)
        self.time = 1
        self.assertIn("has expired", self.service.health().message)
        self.assertIs(self.service.health().state, HealthState.UNHEALTHY)
        (reading,) = self.service.readings()
        self.assertEqual(reading.value, self.service.tls.certificate.expires_at)
