"""What a worker is born with."""

import os
import socket
from types import MappingProxyType

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.cluster.handover import Handover, HandoverError, read_setup, write_setup
from s3proxy.config.load import load_config


def handover(**changes: object) -> Handover:
    """One, with these changes."""
    values: dict[str, object] = {
        "number": 2, "seat": 5, "slot": 1, "workers": 4, "sockets": {"http": [[6], [7, 8]]}, "settings": None,
    }  # fmt: skip
    return Handover(**{**values, **changes})  # type: ignore[arg-type]


class HandoverTests(SynchronousTestCase):
    """Written by the supervisor, read by the worker."""

    def test_round_trip(self) -> None:
        """The worker reads what the supervisor wrote, whole configurations included; the file is closed then."""
        config = load_config(None, environ={}, options={"server.workers": 3}).config
        wanted = handover(settings={"config": config, "map": MappingProxyType({"a": 1})})
        fd = write_setup(wanted)
        self.assertEqual(read_setup(fd), wanted)
        self.assertRaises(OSError, os.fstat, fd)

    def test_no_supervisor(self) -> None:
        """A worker that nobody started says so."""
        read, write = os.pipe()
        os.close(write)
        self.assertRaises(HandoverError, read_setup, read)
        with open(self.mktemp(), "w+b") as file:
            file.write(b"nonsense")
            file.flush()
            file.seek(0)
            self.assertRaises(HandoverError, read_setup, os.dup(file.fileno()))

    def test_sockets(self) -> None:
        """The inherited descriptors become sockets, by listener and slot, which the worker's children don't inherit."""
        with socket.socket() as one, socket.socket() as other:
            numbers = [os.dup(one.fileno()), os.dup(other.fileno())]
            for number in numbers:
                os.set_inheritable(number, True)
            found = handover(sockets={"http": [[numbers[0]], [numbers[1]]]}).open_sockets()
            sockets = [sock for slots in found["http"] for sock in slots]
            self.assertEqual([sock.fileno() for sock in sockets], numbers)
            self.assertEqual([os.get_inheritable(number) for number in numbers], [False, False])
            self.assertEqual([sock.getblocking() for sock in sockets], [False, False])
            for sock in sockets:
                sock.close()
