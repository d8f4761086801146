"""Tests for the private certificate authority."""

import ssl
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from test.support.certificates import CertificateAuthority, ServerCertificate
from test.support.fake_s3 import FakeS3
from test.support.raw_client import RawClient


class CertificateTests(TestCase):
    """A client that trusts the authority accepts its certificates for their names, and nothing else."""

    timeout = 20

    def setUp(self) -> None:
        """An authority with its folder."""
        folder = Path(self.mktemp())
        folder.mkdir()
        self.folder = folder
        self.authority = CertificateAuthority(folder)
        self.fake = FakeS3(reactor)
        self.addCleanup(self.fake.stop)

    async def connect(self, issued: ServerCertificate, name: str, ca_file: Path | None = None) -> None:
        """A handshake with a server that has this certificate."""
        port = self.fake.listen(tls=issued.options())

        def run() -> None:
            trusted = ca_file if ca_file is not None else self.authority.ca_file
            RawClient("127.0.0.1", port, ca_file=trusted, server_name=name).close()

        await deferToThread(run)

    async def test_names(self) -> None:
        """Host names, wild cards and addresses are matched."""
        issued = self.authority.issue(["s3.test", "*.s3.test", "127.0.0.1"])
        for name in ("s3.test", "bucket.s3.test", "127.0.0.1"):
            await self.connect(issued, name)

    async def test_other_name(self) -> None:
        """Another name is refused."""
        with self.assertRaises(ssl.SSLCertVerificationError):
            await self.connect(self.authority.issue(["s3.test"]), "other.test")

    async def test_expired(self) -> None:
        """An expired certificate is refused."""
        with self.assertRaises(ssl.SSLCertVerificationError):
            await self.connect(self.authority.issue(["s3.test"], expired=True), "s3.test")

    async def test_other_authority(self) -> None:
        """The certificate of another authority is refused."""
        (self.folder / "other").mkdir()
        other = CertificateAuthority(self.folder / "other")
        with self.assertRaises(ssl.SSLCertVerificationError):
            await self.connect(other.issue(["s3.test"]), "s3.test")
