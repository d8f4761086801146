"""The whole scene, with names, addresses and ports as they are in life, in namespaces: see :mod:`test.system.scene`."""

import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

_CHECKOUT = Path(__file__).resolve().parents[2]
_NAMESPACES = ("unshare", "--user", "--map-root-user", "--net", "--mount")
_RESOLV_CONF = "nameserver 10.77.0.53\noptions timeout:2\n"
SECONDS = 300


def _can_have_namespaces() -> bool:
    """Whether this user may have a network, and mounts, of his own."""
    try:
        command = [*_NAMESPACES, "mount", "--bind", "/etc/hosts", "/etc/resolv.conf"]
        return subprocess.run(command, capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


class NamespaceTests(SynchronousTestCase):
    """Needs namespaces of the Linux kernel, as containers do."""

    timeout = SECONDS + 30

    def test_scene(self) -> None:
        """awscli and boto3, over http and https, by DNS and by HTTP_PROXY; a frontend dies and returns."""
        if not _can_have_namespaces():
            self.skipTest("this system gives no namespaces to its users")
        with tempfile.TemporaryDirectory(prefix="s3proxy-") as name:
            resolv = Path(name, "resolv.conf")
            resolv.write_text(_RESOLV_CONF)
            script = f'mount --bind "{resolv}" /etc/resolv.conf && exec "$@"'
            trial = [sys.executable, "-m", "twisted.trial", f"--temp-directory={name}/trial", "test.system.scene"]
            done = subprocess.run(
                [*_NAMESPACES, "sh", "-c", script, "sh", *trial], cwd=_CHECKOUT, capture_output=True, timeout=SECONDS
            )
        self.assertEqual(done.returncode, 0, (done.stdout + done.stderr).decode(errors="replace"))
