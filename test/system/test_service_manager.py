"""The running process and whoever supervises it: notifications, and sockets that outlive it."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import yaml
from twisted.trial.unittest import SynchronousTestCase

from test.support.proxy_process import ProxyProcess, clean_environment
from test.support.raw_client import RawClient
from test.support.waiting import poll
from test.system.stage import Stage

_CHECKOUT = Path(__file__).resolve().parents[2]
_RUN = "from twisted.scripts.twistd import run; run()"
# What systemd does: the variable has the number of the process that it becomes.
_AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


class NotifyTests(SynchronousTestCase):
    """A datagram socket in the place of systemd's."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="s3proxy-notify-")
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "notify")
        self.receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.receiver.close)
        self.receiver.bind(self.path)
        self.receiver.settimeout(30)

    def next(self) -> str:
        """The next message but signs of life."""
        while (message := self.receiver.recv(4096).decode()) == "WATCHDOG=1":
            pass
        return message

    def test_life(self) -> None:
        """Ready when it serves, not before; a reload begins and ends; the end is announced, and signs of life come all
        the time.
        """
        proxy = ProxyProcess()
        self.addCleanup(proxy.stop)
        proxy.spawn(environment={"NOTIFY_SOCKET": self.path, "WATCHDOG_USEC": "400000"})
        self.assertEqual(self.next(), "READY=1\nSTATUS=serving")
        RawClient("127.0.0.1", proxy.port).close()
        proxy.signal(signal.SIGHUP)
        self.assertTrue(self.next().startswith("RELOADING=1\nMONOTONIC_USEC="))
        self.assertEqual(self.next(), "READY=1")
        self.assertEqual([self.receiver.recv(100) for _ in range(3)], [b"WATCHDOG=1"] * 3)
        proxy.signal(signal.SIGTERM)
        self.assertEqual(self.next(), "STOPPING=1\nSTATUS=requests under way end")
        self.assertEqual(proxy.wait(), 0)


class ActivatedProxy(ProxyProcess):
    """Is given the socket of its port.

    :ivar socket: which listens all the time
    """

    socket: socket.socket

    def spawn(
        self,
        arguments: tuple[str, ...] = (),
        environment: "Mapping[str, str] | None" = None,
        *,
        options: tuple[str, ...] = (),
    ) -> None:
        """Start it as systemd would."""
        self.config_file.write_text(yaml.safe_dump(self.config))
        self._starts += 1
        number = str(self.socket.fileno())
        command = [sys.executable, "-c", _RUN, "-n", "--pidfile=", *options]
        command += ["s3proxy", "--config", str(self.config_file)]
        with self._output_file().open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _AS_SYSTEMD, number, *command, *arguments],
                cwd=self.folder,
                env={**clean_environment(), "PYTHONPATH": str(_CHECKOUT), **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(self.socket.fileno(),),
            )


class SocketTests(SynchronousTestCase):
    """The socket is bound by somebody else."""

    workers = 1

    def test_no_connection_is_refused_while_it_restarts(self) -> None:
        """Who connects between the end of one process and the start of the next is served by the next."""
        stage = Stage(start=False)
        stage.proxy.stop()
        proxy = ActivatedProxy(stage.proxy.config)
        proxy.folder.mkdir(parents=True, exist_ok=True)
        proxy.configure({
            "logging": {
                "access_log_dir": str(proxy.folder / "logs/access"), "app_log_dir": str(proxy.folder / "logs/app"),
            },
            "cache": {"cache_dir": str(proxy.folder / "cache")},
            "admin": {"socket": str(proxy.folder / "admin.sock")},
            "server": {"workers": self.workers},
        })  # fmt: skip
        stage.proxy = proxy
        self.addCleanup(stage.stop)
        proxy.socket = socket.create_server(("127.0.0.1", proxy.port), backlog=64)
        self.addCleanup(proxy.socket.close)
        stage.put(b"small", 2, 1000)
        proxy.start()
        self.assertEqual(stage.ask(b"GET", b"small").status, 200)
        self.assertEqual(proxy.terminate(), 0)
        with stage.connect() as client:
            client.send(stage.request(b"GET", b"small"))
            proxy.start()
            answer = client.read_response()
        self.assertEqual((answer.status, answer.header(b"x-cache")), (200, b"HIT"))
        poll(lambda: "ready: 127.0.0.1:" in proxy.app_log(), 5, "the log")
        self.assertNotIn("for no listener", proxy.app_log())


class SharedSocketTests(SocketTests):
    """The same for several workers, which accept connections from one socket."""

    workers = 2
