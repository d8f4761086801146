"""One end of the connection between a supervisor and a worker."""

import socket
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.protocols.amp import BinaryBoxProtocol, BoxDispatcher, Command, CommandLocator
from twisted.python.failure import Failure
from zope.interface import implementer

__all__ = ["Channel"]


@implementer(IPushProducer)
class Channel(BoxDispatcher, CommandLocator):
    """Sends commands, and has those that come answered by the responders of the subclass.

    ``twisted.protocols.amp.AMP`` without its lines in the log about every connection.

    :ivar congested: the other end does not read; what it can do without should not be sent now
    """

    _log = Logger()

    def __init__(self) -> None:
        BoxDispatcher.__init__(self, self)
        self._protocol: Any = BinaryBoxProtocol(self)
        self._connected = True
        self.congested = False

    def connect(self, reactor: Any, sock: socket.socket) -> None:
        """Use a connected socket; a duplicate of it: the caller closes its own."""
        sock.setblocking(False)
        reactor.adoptStreamConnection(sock.fileno(), socket.AF_UNIX, _Single(self._protocol))

    def startReceivingBoxes(self, sender: Any) -> None:  # noqa: N802
        """The connection is there."""
        super().startReceivingBoxes(sender)
        self._protocol.transport.registerProducer(self, True)

    def pauseProducing(self) -> None:  # noqa: N802
        """See :class:`IPushProducer`."""
        self.congested = True

    def resumeProducing(self) -> None:  # noqa: N802
        """See :class:`IPushProducer`."""
        self.congested = False

    def stopProducing(self) -> None:  # noqa: N802
        """See :class:`IPushProducer`."""
        self.congested = True

    def tell(self, command: type[Command], **arguments: Any) -> "Deferred[Any]":
        """Send a command; fires with its answer, or at once with None if none is wanted; fails when there is no
        connection any more.
        """
        if not self._connected or self._protocol.transport is None:
            return fail(ConnectionError("there is no connection"))
        try:
            answer: Deferred[Any] | None = self.callRemote(command, **arguments)
        except Exception:
            return fail(Failure())
        return succeed(None) if answer is None else answer

    def close(self) -> None:
        """End the connection."""
        transport = self._protocol.transport
        if transport is not None:
            # One that has a producer is closed when that is gone.
            transport.unregisterProducer()
            transport.loseConnection()

    def stopReceivingBoxes(self, reason: Failure) -> None:  # noqa: N802
        """The connection has ended."""
        super().stopReceivingBoxes(reason)
        self._connected = False
        self.lost()

    def lost(self) -> None:
        """For subclasses: the connection has ended."""


class _Single(Factory):
    """Gives the one connection its protocol."""

    noisy = False

    def __init__(self, protocol: BinaryBoxProtocol) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: Any) -> BinaryBoxProtocol:
        """See :class:`twisted.internet.interfaces.IProtocolFactory`."""
        return self._protocol
