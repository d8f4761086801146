"""Ports that several processes serve."""

import socket
from typing import Any

from twisted.internet.error import CannotListenError
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.services.errors import StartError
from s3proxy.services.listeners import BoundPort, _Accepting

LOOPBACK = ("127.0.0.1", "127.0.0.2")


class SlotTests(SynchronousTestCase):
    """BoundPort with slots."""

    def bind(self, slots: int = 3, port: int = 0) -> BoundPort:
        """A port on two addresses."""
        bound = BoundPort("server.http_port", port, LOOPBACK, slots)
        self.addCleanup(bound.close)
        bound.bind()
        return bound

    def test_a_socket_for_each(self) -> None:
        """Each slot has a socket on each address; those of one address have the same port."""
        bound = self.bind()
        names = [[sock.getsockname() for sock in sockets] for sockets in bound.slots]
        self.assertEqual(names, [names[0]] * 3)
        self.assertEqual([name[0] for name in names[0]], list(LOOPBACK))
        self.assertEqual(bound.names(), frozenset(names[0]))

    def test_one_slot_is_not_shared(self) -> None:
        """With one process nobody else can bind the port."""
        sock, _ = self.bind(1).sockets
        self.assertEqual(sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT), 0)

    def test_taken(self) -> None:
        """A port whose sockets other processes share is taken, for one process and for several."""
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            other.bind(("127.0.0.1", 0))
            other.listen()
            for slots in (1, 2):
                bound = BoundPort("server.http_port", other.getsockname()[1], LOOPBACK, slots)
                self.assertIn("another program listens", str(self.assertRaises(StartError, bound.bind)))
                self.assertEqual(bound.slots, [[]] * slots)

    def test_inherited(self) -> None:
        """A socket that a service manager has bound is served by all."""
        with socket.create_server(("127.0.0.1", 0)) as given:
            bound = BoundPort("server.http_port", given.getsockname()[1], (), 2)
            bound.bind([given])
            self.assertEqual(bound.slots, [[given], [given]])

    def test_close(self) -> None:
        """All sockets are closed."""
        bound = self.bind()
        sockets = [sock for each in bound.slots for sock in each]
        bound.close()
        self.assertEqual({sock.fileno() for sock in sockets}, {-1})

    def test_adopted(self) -> None:
        """What a worker inherits: its own sockets are those of its slot."""
        bound = self.bind()
        adopted = BoundPort.adopted("server.http_port", 80, bound.slots, 2)
        self.assertEqual(adopted.sockets, bound.slots[2])


class FakePort:
    """A port that is none."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.stopped = False

    def stopListening(self) -> None:
        """Note it."""
        self.stopped = True


class AcceptingTests(SynchronousTestCase):
    """Which slots a process serves."""

    def setUp(self) -> None:
        """Two slots of one socket each."""
        self.sockets = [socket.socket() for _ in range(2)]
        for each in self.sockets:
            self.addCleanup(each.close)
        self.bound = BoundPort.adopted("server.http_port", 80, [[each] for each in self.sockets], 0)
        self.ports: list[FakePort] = []
        self.accepting = _Accepting(self.bound, self.adopt)

    def adopt(self, sock: socket.socket) -> Any:
        """A port."""
        self.ports.append(FakePort(sock))
        return self.ports[-1]

    def test_own(self) -> None:
        """Its own, once."""
        self.accepting.begin(0)
        self.accepting.begin(0)
        self.assertEqual([port.sock for port in self.ports], self.sockets[:1])

    def test_stand_in(self) -> None:
        """Another one's for a while; its socket stays open."""
        self.accepting.begin(0)
        self.accepting.begin(1)
        self.accepting.stop(1)
        self.assertEqual([port.stopped for port in self.ports], [False, True])
        self.assertNotEqual(self.sockets[1].fileno(), -1)
        self.accepting.begin(1)
        self.assertEqual(len(self.ports), 3)

    def test_stop_of_nothing(self) -> None:
        """What is not served need not be stopped."""
        self.accepting.stop(1)
        self.assertEqual(self.ports, [])

    def test_end(self) -> None:
        """In the end nothing is accepted, and all sockets are closed."""
        self.accepting.begin(0)
        self.accepting.begin(1)
        coroutine = self.accepting.end()
        self.assertRaises(StopIteration, coroutine.send, None)
        self.assertEqual([port.stopped for port in self.ports], [True, True])
        self.assertEqual([sock.fileno() for sock in self.sockets], [-1, -1])

    def test_refused(self) -> None:
        """A socket that can't be listened on is told with the remedy."""

        def refuse(sock: socket.socket) -> Any:
            raise CannotListenError("", 80, OSError(98, "Address already in use"))

        accepting = _Accepting(self.bound, refuse)
        self.assertIn("server.http_port", str(self.assertRaises(StartError, accepting.begin, 0)))
