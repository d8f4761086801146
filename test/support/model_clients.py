"""The model's clients: what they get is judged as it comes."""

from collections.abc import Callable
from typing import Protocol, Union

import attrs
from twisted.python.failure import Failure

from s3proxy.gateway.interfaces import ClientGone
from s3proxy.util.streams import IByteSource
from test.support.gateway import FakeClient
from test.support.model import Version
from test.support.model_oracle import Reader
from test.support.model_orders import Order
from test.support.model_s3 import Exchange, WriteFault
from test.support.streams import RecordingSink

__all__ = ["Intake", "ModelClient", "Peer", "Witness", "Writer"]


class Witness(Protocol):
    """Whoever wants to know what clients get."""

    def answer_begins(self, peer: "Peer") -> None:
        """The head is there."""

    def answer_goes_on(self, peer: "Peer", before: int, data: bytes) -> None:
        """More of the body, behind so many bytes."""

    def answer_ends(self, peer: "Peer") -> None:
        """The answer was finished, or cut."""

    def client_left(self, peer: "Peer") -> None:
        """It did not wait for that."""


class ModelClient(FakeClient):
    """Tells what it gets, and takes it as slowly as the test likes.

    :ivar witness: is told
    :ivar peer: whose connection this is
    """

    witness: Witness
    peer: "Peer"

    def start_response(
        self, status: int, reason: bytes, headers: list[tuple[bytes, bytes]], length: int | None
    ) -> None:
        """See :class:`IClientRequest`."""
        if self.ended is not None:
            raise ClientGone("gone")
        super().start_response(status, reason, headers, length)
        self.witness.answer_begins(self.peer)

    def _take(self, data: bytes) -> None:
        self.witness.answer_goes_on(self.peer, len(self.answer), data)
        super()._take(data)

    def finish(self) -> None:
        """See :class:`IClientRequest`."""
        super().finish()
        self.witness.answer_ends(self.peer)

    def abort(self) -> None:
        """See :class:`IClientRequest`."""
        cut = self.ended is None
        super().abort()
        if cut:
            self.witness.answer_ends(self.peer)

    def leave(self) -> None:
        """The connection is closed: whoever serves the request hears of it first, then whoever gets its body."""
        super().leave()
        if isinstance(self.peer, Writer) and not self.peer.over:
            self.peer.over = True
            if self.body.sink is not None and not self.body.aborted:
                self.body.sink.stream_failed(Failure(ClientGone("gone")))
        self.witness.client_left(self.peer)

    def get_head(self, head: bytes, length: int | None = None) -> None:
        """A status line and fields are here, as they are on the wire.

        :param length: of the body, where no field says it
        """
        first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
        fields = [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]
        others = [pair for pair in fields if pair[0] != b"Content-Length"]
        stated = [int(value) for name, value in fields if name == b"Content-Length"]
        assert len(stated) == 1 and length in (None, *stated), (stated, length)
        self.start_response(int(first.split()[1]), b"", others, stated[0])

    @property
    def is_behind(self) -> bool:
        """Whether something waits until it reads on."""
        return bool(self._waiting)

    def take_one(self) -> None:
        """It reads on a little."""
        done, act = self._waiting.pop(0)
        act()
        done.callback(None)


class Intake(RecordingSink):
    """S3's end of a request's body.

    :param source: where it comes from
    :param pauses_at: after so many bytes S3 reads no more for a while; None: it never pauses
    :ivar size: how many bytes have come
    :ivar paused: nothing more should come
    """

    def __init__(self, source: IByteSource | None, pauses_at: int | None = None) -> None:
        super().__init__()
        self.size = 0
        self.paused = False
        self._source = source
        self._pauses_at = pauses_at

    def data_received(self, data: bytes) -> None:
        """See :class:`IByteSink`."""
        super().data_received(data)
        self.size += len(data)
        if self._pauses_at is not None and self.size >= self._pauses_at and self._source is not None:
            self._pauses_at, self.paused = None, True
            self._source.pause()

    def go_on(self) -> None:
        """S3 reads on."""
        assert self._source is not None
        self.paused = False
        self._source.resume()


@attrs.define(eq=False, kw_only=True)
class Writer:
    """One write through the proxy.

    :ivar wire: the body as it is sent
    :ivar intake: S3's end of it; None: S3 has not asked for it
    :ivar versions: what S3 has made of it
    """

    client: ModelClient
    order: Order
    wire: bytes
    exchange: Exchange | None = None
    fault: WriteFault | None = None
    intake: Intake | None = None
    sent: int = 0
    over: bool = False
    versions: tuple[Version, ...] = ()

    @property
    def key(self) -> bytes:
        """Whose it is, for faults that are planned."""
        return self.order.key

    def __repr__(self) -> str:
        fault = "" if self.fault is None else f" {self.fault}"
        return f"<{self.client.method.decode()} {self.client.target.decode()} {self.order}{fault}>"

    def upload(self) -> "Callable[[int], None] | None":
        """Sends so many bytes of the body, but no more than a quarter, or its end; None: that is not possible now."""
        source = self.client.body
        if self.over or source.sink is None or source.aborted or source.paused:
            return None

        def send(count: int) -> None:
            if self.sent < len(self.wire):
                piece = self.wire[self.sent : self.sent + min(count, len(self.wire) // 4 + 1)]
                self.sent += len(piece)
                source.sink.data_received(piece)
            else:
                self.over = True
                source.sink.stream_ended()

        return send


Peer = Union[Reader, Writer]
