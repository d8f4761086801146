"""Tests for :mod:`s3proxy.wire.tls`; whole exchanges are in :mod:`test.tunnel.test_connect`."""

import os
import shutil
import ssl
import tempfile
import time
import warnings
from pathlib import Path
from test.support.certificates import CertificateAuthority

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.wire.tls import CertificateProblem, ServerTLS, read_certificate


class ReadingTests(SynchronousTestCase):
    """read_certificate."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.authority = CertificateAuthority(self.folder)
        self.made = self.authority.issue(["proxy.example", "127.0.0.1"])
        self.cert, self.key = str(self.made.certificate), str(self.made.key)

    def problem(self) -> str:
        """What is wrong."""
        return str(self.assertRaises(CertificateProblem, read_certificate, self.cert, self.key))

    def test_good_files(self) -> None:
        """Whom it names, and until when."""
        certificate = read_certificate(self.cert, self.key)
        assert certificate is not None
        self.assertEqual(certificate.subject, "proxy.example")
        self.assertLess(abs(certificate.expires_at - time.time() - 30 * 86400), 100)

    def test_unchanged_files(self) -> None:
        """Files that were read before are not read again, until one of them changes."""
        certificate = read_certificate(self.cert, self.key)
        assert certificate is not None
        self.assertIsNone(read_certificate(self.cert, self.key, certificate.stamp))
        os.utime(self.key, (1, 1))
        self.assertIsNotNone(read_certificate(self.cert, self.key, certificate.stamp))

    def test_missing_file(self) -> None:
        """The file is named."""
        self.made.key.unlink()
        self.assertIn(f"{self.key} can't be read: No such file", self.problem())

    def test_no_certificate(self) -> None:
        """What is no PEM is told."""
        self.made.certificate.write_text("x")
        self.assertIn(f"{self.cert} holds no certificate chain", self.problem())

    def test_no_key(self) -> None:
        """So it is for the key."""
        self.made.key.write_text("x")
        self.assertIn(f"{self.key} holds no key", self.problem())

    def test_key_of_another_certificate(self) -> None:
        """A key that does not belong to the certificate is told apart from none."""
        os.replace(self.authority.issue(["other.example"]).key, self.key)
        self.assertIn("does not belong to", self.problem())

    def test_policy(self) -> None:
        """TLS 1.2 and 1.3, and HTTP/1.1 for those who ask what is spoken."""
        certificate = read_certificate(self.cert, self.key)
        assert certificate is not None
        tls = ServerTLS(certificate)
        for version, accepted in (
            (ssl.TLSVersion.TLSv1_1, False),
            (ssl.TLSVersion.TLSv1_2, True),
            (ssl.TLSVersion.TLSv1_3, True),
        ):
            for offered, chosen in ((["h2", "http/1.1"], "http/1.1"), (["h2"], None), ([], None)):
                found = self.handshake(tls, version, offered)
                self.assertEqual(found, (accepted, chosen if accepted else None), (version, offered))

    def handshake(self, tls: ServerTLS, version: ssl.TLSVersion, protocols: list[str]) -> tuple[bool, str | None]:
        """Whether it comes about, and what is to be spoken then."""
        from OpenSSL import SSL

        context = ssl.create_default_context(cafile=str(self.authority.ca_file))
        with warnings.catch_warnings():
            # Python warns of versions that are not to be used any more.
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = context.maximum_version = version
        if protocols:
            context.set_alpn_protocols(protocols)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(incoming, outgoing, server_hostname="proxy.example")
        server = tls.serverConnectionForTLS(None)  # type: ignore[arg-type]
        server.set_accept_state()
        for _ in range(6):
            try:
                client.do_handshake()
                return True, client.selected_alpn_protocol()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                return False, None
            if outgoing.pending:
                server.bio_write(outgoing.read())
            try:
                server.do_handshake()
            except SSL.WantReadError:
                pass
            except SSL.Error:
                return False, None
            try:
                incoming.write(server.bio_read(65536))
            except SSL.WantReadError:
                pass
        return False, None
