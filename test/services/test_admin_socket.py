"""The socket for s3proxyctl: where it is, who may use it, and what is in its way."""

import os
import shutil
import socket
import stat
import tempfile
from pathlib import Path

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase, TestCase

from s3proxy.config.model import Admin, Config, Server
from s3proxy.services.admin_socket import LONGEST, AdminSocket, socket_path


class FolderCase:
    """A folder with a short path."""

    def make_folder(self) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="s3proxy-"))
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)  # type: ignore[attr-defined]
        return folder


class PathTests(FolderCase, SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = self.make_folder()
        self.environ = {"RUNTIME_DIRECTORY": str(self.folder / "run"), "XDG_RUNTIME_DIR": str(self.folder)}

    def path(self, admin: Admin = Admin(), owner: tuple[int, int] | None = None) -> str | None:
        config = Config(server=Server(mode="proxy_only", proxy_port=3999), admin=admin)
        return socket_path(config, self.environ, owner)

    def test_configured(self) -> None:
        """The path of the configuration, or none; nothing is made."""
        self.assertEqual(self.path(Admin(socket="/none/x.sock")), "/none/x.sock")
        self.assertIsNone(self.path(Admin(enabled=False)))
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_made(self) -> None:
        """A directory that only this user can enter; the port tells proxies apart."""
        self.assertEqual(self.path(), str(self.folder / "run" / "3999.sock"))
        self.assertEqual(stat.S_IMODE((self.folder / "run").stat().st_mode), 0o700)

    def test_a_directory_of_others(self) -> None:
        """Where others could put something in the way, the next place is taken."""
        (self.folder / "run").mkdir()
        (self.folder / "run").chmod(0o777)
        self.environ["RUNTIME_DIRECTORY"] = f"{self.folder / 'run'}:{self.folder / 'other'}"
        self.assertEqual(self.path(), str(self.folder / "other" / "3999.sock"))
        (self.folder / "link").symlink_to(self.folder / "other")
        self.environ["RUNTIME_DIRECTORY"] = f"{self.folder / 'link'}:{self.folder / 'third'}"
        self.assertEqual(self.path(), str(self.folder / "third" / "3999.sock"))

    def test_for_another_user(self) -> None:
        """Made with privileges, it is given to who will use it."""
        if os.geteuid() != 0:
            self.skipTest("only root can give files away")
        self.assertEqual(self.path(owner=(12345, 12345)), str(self.folder / "run" / "3999.sock"))
        self.assertEqual((self.folder / "run").stat().st_uid, 12345)


class ListenTests(FolderCase, TestCase):
    def setUp(self) -> None:
        self.folder = self.make_folder()
        self.path = str(self.folder / "x.sock")

    def listen(self, path: str | None = None) -> AdminSocket:
        from twisted.internet import reactor

        service = AdminSocket(reactor, path or self.path, Factory())
        service.startService()
        self.addCleanup(lambda: service.stopService() if service.running else None)
        return service

    def test_mode(self) -> "Deferred[None]":
        """Nobody but the user and root can connect; it is gone when the service stops."""

        async def work() -> None:
            service = self.listen()
            self.assertIsNone(service.error)
            status = os.lstat(self.path)
            self.assertTrue(stat.S_ISSOCK(status.st_mode))
            self.assertEqual(stat.S_IMODE(status.st_mode), 0o600)
            stopped = service.stopService()
            assert stopped is not None
            await stopped
            self.assertFalse(os.path.lexists(self.path))

        return ensureDeferred(work())

    def test_left_behind(self) -> None:
        """The socket of a proxy that died is replaced."""
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(self.path)
        self.assertIsNone(self.listen().error)

    def test_in_use(self) -> None:
        """That of one that lives is not, nor is a file; the message has a remedy, and the proxy goes on."""
        self.listen()
        second = self.listen()
        self.assertIn("another proxy listens there; set admin.socket", second.error or "")
        (self.folder / "file").write_text("precious")
        self.assertIn("no socket", self.listen(str(self.folder / "file")).error or "")
        self.assertEqual((self.folder / "file").read_text(), "precious")

    def test_impossible(self) -> None:
        """A path that is too long, or leads nowhere."""
        long = str(self.folder / ("x" * LONGEST))
        self.assertIn(f"more than {LONGEST} bytes", self.listen(long).error or "")
        self.assertIn("admin.socket", self.listen(str(self.folder / "none" / "x.sock")).error or "")

    def test_removed_meanwhile(self) -> "Deferred[None]":
        """That somebody has removed it, or its directory, is no fault at the end."""

        async def work() -> None:
            service = self.listen()
            os.unlink(self.path)
            stopped = service.stopService()
            assert stopped is not None
            await stopped

        return ensureDeferred(work())
