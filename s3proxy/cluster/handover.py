"""What a worker is born with: descriptors with fixed numbers, and a description of everything else."""

import copyreg
import os
import pickle
import socket
from types import MappingProxyType
from typing import Any, Final

import attrs

__all__ = ["CHANNEL", "FIRST_SOCKET", "HOST_MEMORY", "SETUP", "Handover", "HandoverError", "read_setup", "write_setup"]

CHANNEL: Final = 3
"""Descriptor of the socket to the supervisor."""
SETUP: Final = 4
"""Descriptor of the file with the :class:`Handover`."""
HOST_MEMORY: Final = 5
"""Descriptor of the memory that all processes of the host share."""
FIRST_SOCKET: Final = 6
"""Descriptor of the first listening socket."""


def _read_only(values: dict[Any, Any]) -> "MappingProxyType[Any, Any]":
    return MappingProxyType(values)


# Part of configurations, and unknown to pickle.
copyreg.pickle(MappingProxyType, lambda proxy: (_read_only, (dict(proxy),)))


class HandoverError(Exception):
    """This process was not started by a supervisor."""


@attrs.frozen(kw_only=True)
class Handover:
    """:ivar number: of the worker, from 1
    :ivar seat: what no other living process of this supervisor has
    :ivar slot: which of the sockets of each listener are its own
    :ivar workers: how many workers there are
    :ivar sockets: by listener and slot, the descriptors that the worker has inherited
    :ivar settings: whatever those who run the worker need; opaque here
    """

    number: int
    seat: int
    slot: int
    workers: int
    sockets: dict[str, list[list[int]]]
    settings: Any

    def open_sockets(self) -> dict[str, list[list[socket.socket]]]:
        """The listening sockets, by listener and slot; none of them goes to the worker's own children."""
        return {
            name: [[_opened(fd) for fd in fds] for fds in slots] for name, slots in self.sockets.items()
        }  # fmt: skip


def _opened(fd: int) -> socket.socket:
    os.set_inheritable(fd, False)
    sock = socket.socket(fileno=fd)
    sock.setblocking(False)
    return sock


def write_setup(handover: Handover) -> int:
    """A file without a name that holds it. The caller closes it."""
    data = pickle.dumps(handover)
    fd = os.memfd_create("s3proxy-worker", os.MFD_CLOEXEC)
    try:
        while data:
            data = data[os.write(fd, data) :]
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd


def read_setup(fd: int = SETUP) -> Handover:
    """What the supervisor wrote; it alone can have written it, as the file has no name. Closes the file.

    :raises HandoverError: there is no such file
    """
    try:
        with open(fd, "rb") as file:
            found = pickle.loads(file.read())
    except (OSError, pickle.UnpicklingError, EOFError) as error:
        raise HandoverError(f"workers are started by twistd s3proxy only: {error}") from None
    assert isinstance(found, Handover)
    return found
