"""Which proxy is meant."""

import shutil
import socket
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.control.locate import directories, find_socket
from s3proxy.control.outcome import Unreachable, Usage


class LocateTests(SynchronousTestCase):
    def setUp(self) -> None:
        # Paths of sockets are short.
        self.folder = Path(tempfile.mkdtemp(prefix="s3proxy-"))
        self.addCleanup(shutil.rmtree, self.folder)

    def listen(self, name: str) -> str:
        path = str(self.folder / name)
        listening = socket.socket(socket.AF_UNIX)
        self.addCleanup(listening.close)
        listening.bind(path)
        listening.listen()
        return path

    def config(self, text: str) -> str:
        path = self.folder / "s3proxy.yaml"
        path.write_text(text)
        return str(path)

    def find(self, config: str | None = None) -> str:
        return find_socket(None, config, {}, [str(self.folder), str(self.folder / "none")])

    def test_given(self) -> None:
        """A path that is given is taken as it is."""
        self.assertEqual(find_socket("/x.sock", None, {}, []), "/x.sock")

    def test_places(self) -> None:
        """What systemd made for the service first; each user has places of his own."""
        environ = {"RUNTIME_DIRECTORY": "/run/one:/run/two", "XDG_RUNTIME_DIR": "/run/user/1000"}
        self.assertEqual(
            directories(environ, 1000),
            ["/run/one", "/run/two", "/run/s3proxy", "/run/user/1000/s3proxy", "/tmp/s3proxy-1000"],
        )
        self.assertEqual(directories({}, 1000), ["/run/s3proxy", "/tmp/s3proxy-1000"])

    def test_configured(self) -> None:
        """The configuration names it, or the port of its main listener does."""
        self.assertEqual(self.find(self.config("admin: {socket: /somewhere/x.sock}")), "/somewhere/x.sock")
        path = self.listen("8123.sock")
        self.assertEqual(self.find(self.config("server: {http_port: 8123}")), path)
        other = self.listen("3999.sock")
        self.assertEqual(self.find(self.config("server: {mode: proxy_only, proxy_port: 3999}")), other)

    def test_not_configured(self) -> None:
        """A proxy that has no socket, or none now; a configuration that can't be used."""
        self.assertRaises(Usage, self.find, self.config("admin: {enabled: false}"))
        self.assertRaises(Unreachable, self.find, self.config("server: {http_port: 8124}"))
        error = self.assertRaises(Usage, self.find, self.config("server: {http_port: x}"))
        self.assertIn("server.http_port", str(error))

    def test_the_only_one(self) -> None:
        """Without a hint it is the one that answers; what others left behind does not count."""
        self.assertRaises(Unreachable, self.find)
        dead = socket.socket(socket.AF_UNIX)
        dead.bind(str(self.folder / "1.sock"))
        dead.close()
        self.assertRaises(Unreachable, self.find)
        path = self.listen("80.sock")
        self.assertEqual(self.find(), path)

    def test_several(self) -> None:
        """Which one is then the user's to say; the message names all."""
        paths = [self.listen("80.sock"), self.listen("81.sock")]
        error = self.assertRaises(Usage, self.find)
        for path in paths:
            self.assertIn(path, str(error))

    def test_where_others_may_write(self) -> None:
        """A socket that anybody may have put there is not asked."""
        self.listen("8123.sock")
        self.folder.chmod(0o777)
        self.assertRaises(Unreachable, self.find, self.config("server: {http_port: 8123}"))
