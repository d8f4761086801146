"""The model's clients: what they get is judged as it comes."""

from collections.abc import Callable
from typing import Protocol, Union

import attrs

from s3proxy.gateway.interfaces import ClientGone
from test.support.gateway import FakeClient
from test.support.model import Content
from test.support.model_oracle import Reader
from test.support.model_s3 import Exchange
from test.support.streams import RecordingSink

__all__ = ["ModelClient", "Peer", "Witness", "Writer", "signed_names"]


class Witness(Protocol):
    """Whoever wants to know what clients get."""

    def answer_begins(self, peer: "Peer") -> None:
        """The head is there."""

    def answer_goes_on(self, peer: "Peer", before: int, data: bytes) -> None:
        """More of the body, behind so many bytes."""

    def answer_ends(self, peer: "Peer") -> None:
        """The answer was finished, or cut."""


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


@attrs.define(eq=False, kw_only=True)
class Writer:
    """One PUT or DELETE through the proxy.

    :ivar content: None: a deletion
    :ivar label: the metadata of what it writes
    :ivar sink: S3's end of the body
    :ivar index: of the version that it made, once S3 has acted
    """

    client: ModelClient
    key: bytes
    content: Content | None
    label: bytes
    exchange: Exchange | None = None
    sink: RecordingSink = attrs.field(factory=RecordingSink)
    sent: int = 0
    over: bool = False
    index: int = 0

    def upload(self) -> "Callable[[int], None] | None":
        """Sends so many bytes of the body, or its end; None: that is not possible now."""
        source, content = self.client.body, self.content
        if self.client.ended is not None or content is None or source.sink is None or source.aborted or source.paused:
            return None
        body = content.body

        def send(count: int) -> None:
            if self.sent < len(body):
                piece = body[self.sent : self.sent + count]
                self.sent += len(piece)
                source.sink.data_received(piece)
            else:
                self.over = True
                source.sink.stream_ended()

        return None if self.over else send


Peer = Union[Reader, Writer]


def signed_names(client: FakeClient) -> frozenset[bytes]:
    """The lower-case names of the fields that the client's signature covers."""
    authorization = client.headers.get(b"authorization") or b""
    listed = authorization.partition(b"SignedHeaders=")[2].partition(b",")[0]
    if not listed:
        listed = client.target.partition(b"X-Amz-SignedHeaders=")[2].partition(b"&")[0].replace(b"%3B", b";")
    return frozenset(listed.split(b";")) if listed else frozenset()
