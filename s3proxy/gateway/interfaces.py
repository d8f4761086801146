"""What the gateway asks of a listener: one client request, its body, and the means to answer it."""

from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from s3proxy.s3.headers import Headers
from s3proxy.util.streams import IByteSource

__all__ = ["ClientGone", "IClientRequest"]


class ClientGone(Exception):
    """The client closed or lost its connection: nobody is left to answer."""


class IClientRequest(Interface):
    """One request of one client, and the one place through which it is answered."""

    method: bytes = Attribute("The method as received.")
    target: bytes = Attribute("The raw request target as received: origin-form, absolute-form or ``*``.")
    version: bytes = Attribute("``HTTP/1.1`` or ``HTTP/1.0``.")
    headers: Headers = Attribute("Names, order and values as received; blanks around values removed.")
    body_length: int | None = Attribute("Bytes of the body; 0 without one, None when it is chunked.")
    body: IByteSource = Attribute(
        "The request's body, decoded from HTTP chunking. Starting it sends ``100 Continue`` to a client that waits."
    )
    client_address: str = Attribute("The peer's IP address.")
    listener: str = Attribute("Name of the listener: http, proxy or tls.")
    tls: str = Attribute("Protocol version between client and proxy, such as ``TLSv1.3``; empty without TLS.")
    cipher_suite: str = Attribute("Cipher suite between client and proxy; empty without TLS.")
    received_at: float = Attribute("The reactor's seconds at the end of the request's head.")
    body_bytes_sent: int = Attribute("Body bytes of the answer that were handed to the kernel or to TLS so far.")
    status: int | None = Attribute("The status that was answered; None before the answer began.")
    first_byte_at: float | None = Attribute("The reactor's seconds when the answer's head was written.")

    def when_gone() -> Deferred[None]:
        """A Deferred of the caller's own that fires when the client's connection is lost before the answer ended.

        It never fails and may never fire.
        """

    def start_response(status: int, reason: bytes, headers: list[tuple[bytes, bytes]], length: int | None) -> None:
        """Write the answer's head. Content-Length or Transfer-Encoding, Connection and Keep-Alive are the wire's to
        add.

        :param headers: without the four named above, spelled as they are to appear
        :param length: of the body, or what HEAD is to claim; None when unknown (chunked, or ended by closing the
            connection)
        """

    def write(data: bytes) -> Deferred[None] | None:
        """Send body bytes. None: go on at once. A Deferred: fires when there is room again, fails with
        :class:`ClientGone`.
        """

    def send_file(fd: int, offset: int, count: int, hot: bool = False) -> Deferred[None]:
        """Send bytes of a file as body. The descriptor must stay open until the Deferred fires.

        :param hot: the bytes are known to be in memory: the reactor won't wait for a disk
        :raises ClientGone: (the Deferred) the client left
        :raises OSError: (the Deferred) the file can't be read or is too short; the connection is cut
        """

    def finish() -> None:
        """The answer is complete. Fewer bytes than promised is a programming error and aborts the connection."""

    def abort() -> None:
        """Cut the connection so that the client can't take what it got for a complete answer. Idempotent."""
