"""Notifications to a service manager, and sockets from it."""

import os
import socket
import tempfile

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.services.service_manager import ServiceManager, inherited_sockets


class NotifyTests(SynchronousTestCase):
    def setUp(self) -> None:
        # Names of such sockets are short.
        folder = tempfile.TemporaryDirectory(prefix="s3proxy-notify-")
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "notify")
        self.receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.receiver.close)
        self.receiver.bind(self.path)
        self.receiver.setblocking(False)
        self.clock = Clock()

    def make(self, **environ: str) -> ServiceManager:
        """Whom this environment names."""
        return ServiceManager(self.clock, {"NOTIFY_SOCKET": self.path, **environ})

    def told(self) -> list[str]:
        """What came since the last look."""
        found = []
        while True:
            try:
                found.append(self.receiver.recv(4096).decode())
            except BlockingIOError:
                return found

    def test_life(self) -> None:
        """Ready, a reload, and the end, one datagram each."""
        manager = self.make()
        manager.ready("serving\non port 80")
        manager.reloading()
        manager.ready()
        manager.stopping("requests under way end")
        first, second, third, fourth = self.told()
        self.assertEqual(first, "READY=1\nSTATUS=serving on port 80")
        self.assertRegex(second, r"^RELOADING=1\nMONOTONIC_USEC=\d+$")
        self.assertEqual((third, fourth), ("READY=1", "STOPPING=1\nSTATUS=requests under way end"))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_watchdog(self) -> None:
        """A sign of life twice in the time allowed, from the start to the end, as long as there is life."""
        alive = [True]
        manager = self.make(WATCHDOG_USEC="20000000", WATCHDOG_PID=str(os.getpid()))
        self.clock.advance(30)
        self.assertEqual(self.told(), [])
        manager.ready(alive=lambda: alive[0])
        self.assertEqual(self.told(), ["READY=1", "WATCHDOG=1"])
        self.clock.advance(10)
        self.assertEqual(self.told(), ["WATCHDOG=1"])
        alive[0] = False
        self.clock.advance(10)
        self.assertEqual(self.told(), [])
        manager.stopping()
        self.clock.advance(10)
        self.assertEqual(self.told(), ["STOPPING=1", "WATCHDOG=1"])
        manager.stop()
        self.clock.advance(100)
        self.assertEqual((self.told(), self.clock.getDelayedCalls()), ([], []))

    def test_reload_keeps_the_watchdog(self) -> None:
        """A second ready starts no second timer."""
        manager = self.make(WATCHDOG_USEC="20000000")
        manager.ready()
        manager.ready()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_watchdog_of_another_process(self) -> None:
        """Signs of life that are wanted of another process, or not at all, are not given."""
        for environ in ({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "x"}, {}):
            self.make(**environ).ready()
            self.assertEqual(self.clock.getDelayedCalls(), [], environ)

    def test_abstract_name(self) -> None:
        """A name that begins with @ is one of the abstract namespace."""
        name = f"s3proxy-test-{os.getpid()}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
            receiver.bind(f"\0{name}")
            receiver.setblocking(False)
            ServiceManager(self.clock, {"NOTIFY_SOCKET": f"@{name}"}).ready()
            self.assertEqual(receiver.recv(100), b"READY=1")

    def test_nobody(self) -> None:
        """Without a service manager nothing happens; one that is gone does no harm."""
        ServiceManager(self.clock, {"WATCHDOG_USEC": "1000000"}).ready()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        ServiceManager(self.clock, {"NOTIFY_SOCKET": "/nonexistent/notify"}).ready()


class InheritTests(SynchronousTestCase):
    def environ(self, count: int, pid: int | None = None) -> dict[str, str]:
        """What tells of so many descriptors."""
        return {
            "LISTEN_PID": str(os.getpid() if pid is None else pid), "LISTEN_FDS": str(count), "LISTEN_FDNAMES": "x",
            "PATH": "/bin",
        }  # fmt: skip

    def descriptors(self, *originals: socket.socket) -> int:
        """Copies of these, side by side. :returns: the number of the first"""
        first = 200
        for number, original in enumerate(originals, first):
            os.dup2(original.fileno(), number)
            self.addCleanup(self.close, number)
        return first

    @staticmethod
    def close(number: int) -> None:
        try:
            os.close(number)
        except OSError:
            pass

    def test_sockets(self) -> None:
        """Bound sockets of both families are taken over, and children are told nothing of them."""
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
            environ = self.environ(2)
            found = inherited_sockets(environ, self.descriptors(one, two))
            for each in found:
                self.addCleanup(each.close)
            self.assertEqual([s.getsockname() for s in found], [one.getsockname(), two.getsockname()])
            self.assertFalse(any(each.get_inheritable() or each.getblocking() for each in found))
        self.assertEqual(environ, {"PATH": "/bin"})
        self.assertEqual(inherited_sockets(environ), [])

    def test_for_another_process(self) -> None:
        """What was meant for a parent is not ours."""
        environ = self.environ(1, pid=1)
        self.assertEqual(inherited_sockets(environ, 200), [])
        self.assertEqual(environ, {"PATH": "/bin"})
        self.assertEqual(inherited_sockets({}), [])

    def test_other_descriptors(self) -> None:
        """What is no TCP socket, or no socket, is left out."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, open(os.devnull, "rb") as file:
            first = self.descriptors(udp)
            os.dup2(file.fileno(), first + 1)
            self.addCleanup(self.close, first + 1)
            self.assertEqual(inherited_sockets(self.environ(2), first), [])
