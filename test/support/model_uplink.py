"""Writes on their way to S3, and everything that can become of them there.

S3 acts at one moment, or never; whoever writes is told in time, too late, wrongly, or not at all. What S3 got in full
it may still act on when nobody waits any more: such a write is :attr:`Uplink.late`.
"""

from typing import TYPE_CHECKING, Any

import attrs

from s3proxy.gateway.forward import LATE
from s3proxy.s3.headers import HOP_BY_HOP
from s3proxy.upstream.interfaces import UpstreamError, UpstreamTimeout, UpstreamUnreachable
from test.support.model_clients import Intake, Writer
from test.support.model_multipart import Abort, Complete
from test.support.model_orders import Told, refusal
from test.support.model_s3 import Exchange, S3Response, WriteFault

if TYPE_CHECKING:
    from test.support.model_world import World

__all__ = ["Uplink"]

AMID_THE_BODY = ("reset", "stuck", "early", "early-200")


class Uplink:
    """See the module.

    :ivar late: writes that S3 has in full, and that nobody waits for any more
    :ivar problems: what must not have happened
    """

    def __init__(self, world: "World", problems: list[str]) -> None:
        self._world = world
        self.problems = problems
        self.late: list[Exchange] = []

    # The request.

    def begin(self, exchange: Exchange) -> None:
        """A write was sent."""
        writer: Writer = exchange.owner
        if writer.exchange is not None:
            self.problems.append(f"sent twice: {writer}")
        writer.exchange = exchange
        writer.fault = self._world.s3.next_write_fault(writer.key)
        self._compare_heads(writer)
        body, fault = exchange.asked.request.body, writer.fault
        if body is None:
            writer.intake = Intake(None)
            writer.intake.ended = True
            return
        if fault is not None and (fault.kind == "refused" or (fault.kind in AMID_THE_BODY and fault.place == 0)):
            return
        writer.intake = Intake(body, self._place(writer, 400) if writer.key == b"b" else None)
        body.start(writer.intake)

    @staticmethod
    def _place(writer: Writer, place: int) -> int:
        return len(writer.wire) * place // 1000

    def _compare_heads(self, writer: Writer) -> None:
        assert writer.exchange is not None
        client, request = writer.client, writer.exchange.asked.request
        if (request.method, request.target) != (client.method, client.target):
            self.problems.append(f"{request.method!r} {request.target!r} sent for {writer}")
        before = [pair for pair in client.headers if pair[0].lower() not in HOP_BY_HOP]
        if list(request.headers) != before:
            self.problems.append(f"sent with {list(request.headers)}: {writer}")

    def _compare_bodies(self, writer: Writer, intake: Intake) -> None:
        data = intake.data
        if data != writer.wire[: len(data)] or (intake.ended is True and len(data) != len(writer.wire)):
            self.problems.append(f"{len(data)} bytes came, ended: {intake.ended}: {writer}")

    def may_process(self, exchange: Exchange) -> bool:
        """Whether S3 could do something about this write now."""
        writer: Writer = exchange.owner
        intake, fault = writer.intake, writer.fault
        if intake is None or intake.ended is not None:
            return True
        return fault is not None and fault.kind in AMID_THE_BODY and intake.size >= self._place(writer, fault.place)

    def moves(self) -> list[Any]:
        """What could happen to bodies now."""
        moves: list[Any] = []
        for writer in self._world.writers:
            upload = writer.upload()
            if upload is not None:
                moves.append(upload)
            intake = writer.intake
            if intake is not None and intake.paused and intake.ended is None:
                moves.append(lambda count, intake=intake: intake.go_on())
        return moves

    # What becomes of it.

    def process(self, exchange: Exchange) -> S3Response | UpstreamError:
        """S3 acts, or does not; and what comes back."""
        writer: Writer = exchange.owner
        intake, fault = writer.intake, writer.fault or WriteFault("none", acts="before")
        if intake is not None:
            self._compare_bodies(writer, intake)
            if intake.ended not in (None, True):
                exchange.broken = True
                return UpstreamError("the body broke off", sent=True)
        whole = intake is not None and intake.ended is True
        if fault.kind == "refused" or (fault.kind in AMID_THE_BODY and not whole):
            return self._amid_the_body(exchange, fault)
        return self._behind_the_body(exchange, fault)

    def _amid_the_body(self, exchange: Exchange, fault: WriteFault) -> S3Response | UpstreamError:
        exchange.broken = True
        if fault.kind == "refused":
            return UpstreamUnreachable("refused")
        if fault.kind == "reset":
            return UpstreamUnreachable("reset", sent=True)
        if fault.kind == "stuck":
            return UpstreamTimeout("stuck", sent=True)
        if fault.kind == "early-200":
            return self._world.s3.answer(exchange, Told(200, {b"ETag": b'"never-made"'}))
        return self._world.s3.answer(exchange, refusal(fault.status))

    def _behind_the_body(self, exchange: Exchange, fault: WriteFault) -> S3Response | UpstreamError:
        writer: Writer = exchange.owner
        told: Told | None = None
        kind, s3 = fault.kind, self._world.s3
        if kind == "error-in-200" and writer.order.decided_by_body:
            return s3.answer(exchange, Told(200, {}, b'<?xml version="1.0"?>\n   <Error><Code>Slow</Code></Error>'))
        hides = kind in ("silent", "lost", "status")
        if not hides or fault.acts == "before":
            told = self._act(exchange)
        elif fault.acts == "after":
            self.late.append(exchange)
        exchange.broken = kind in ("silent", "lost", "cut", "stall")
        if kind == "silent":
            return UpstreamTimeout("silent", sent=True)
        if kind == "lost":
            return UpstreamUnreachable("lost", sent=True)
        if kind == "status" or told is None:
            return s3.answer(exchange, refusal(fault.status))
        if kind == "no-etag":
            told = attrs.evolve(told, headers={k: v for k, v in told.headers.items() if k != b"ETag"})
        response = s3.answer(exchange, told)
        if kind in ("cut", "stall"):
            if not told.body:
                response.length = None
            response.rest = told.body[: len(told.body) * fault.place // 1000]
            response.fails = UpstreamError("cut", sent=True) if kind == "cut" else UpstreamTimeout("silent", sent=True)
        return response

    def _act(self, exchange: Exchange) -> Told:
        writer: Writer = exchange.owner
        world = self._world
        told = writer.order.act(world.s3, (world.moment, world.harness.now()))
        writer.versions = told.versions
        return told

    # Afterwards.

    def cancelled(self, exchange: Exchange) -> None:
        """Nobody waits any more. S3 does what it was told if it was told in full."""
        writer: Writer = exchange.owner
        fault = writer.fault
        whole = writer.intake is not None and writer.intake.ended is True
        if whole and (fault is None or fault.acts != "never"):
            self.late.append(exchange)

    def act_late(self, which: int, acts: bool) -> None:
        """S3 does what nobody waits for any more, or does not."""
        exchange = self.late.pop(which % len(self.late))
        if acts:
            self._world.moment += 1
            self._act(exchange)

    # What the client gets.

    def judge_head(self, writer: Writer) -> None:
        """The status line and the header fields are there."""
        client, exchange = writer.client, writer.exchange
        response = None if exchange is None or not exchange.answered else exchange.response
        if response is None:
            if client.status not in (502, 504) or exchange is None or not exchange.broken:
                self.problems.append(f"{client.status} without an answer of S3: {writer}")
            return
        if client.status != response.status:
            self.problems.append(f"{client.status} instead of {response.status}: {writer}")
        for name in response.headers.names() - {b"content-length"}:
            if client.answer_headers.get_all(name) != response.headers.get_all(name):
                self.problems.append(f"{name!r} {client.answer_headers.get_all(name)} came from S3: {writer}")
        if not writer.order.decided_by_body and 200 <= response.status < 300:
            self.settled(writer)

    def judge_bytes(self, writer: Writer, before: int, data: bytes) -> None:
        """More of the body has come, behind as many bytes as ``before`` says."""
        response = self._response(writer)
        if response is not None and response.sent[before : before + len(data)] != data:
            self.problems.append(f"wrong bytes at {before}: {data[:40]!r}: {writer}")

    def judge_end(self, writer: Writer) -> None:
        """The answer is over, one way or the other."""
        client, response = writer.client, self._response(writer)
        if client.ended == "finished" and response is not None and client.answer != response.sent:
            self.problems.append(f"{len(client.answer)} of {len(response.sent)} bytes of the answer: {writer}")
        if client.ended == "aborted" and (writer.exchange is None or not writer.exchange.broken):
            self.problems.append(f"cut without a reason: {writer}")
        self.settled(writer)
        self._wait_for_the_end(writer)
        if response is not None and response.status < 300 and b"<Error>" not in response.sent:
            self._judge_leftovers(writer)

    def _judge_leftovers(self, writer: Writer) -> None:
        """Of an upload that is over nothing is kept for later, unless somebody is still at it."""
        world, order = self._world, writer.order
        if not isinstance(order, (Abort, Complete)) or world.threads.waiting or world.threads.refused or world.damaged:
            return
        others = [each for each in world.writers if each is not writer and each.client.ended is None]
        if any(getattr(each.order, "id", None) == order.id for each in others):
            return
        left = world.harness.staged_parts(order.key, order.id)
        if left and writer.client.ended == "finished":
            self.problems.append(f"{left} left behind {writer}")

    def _wait_for_the_end(self, writer: Writer) -> None:
        """Nobody knows whether S3 will act: if it does so soon, nobody sees less a while later."""
        world = self._world
        life = world.harness.cache

        def at_last() -> None:
            if world.harness.cache is life:
                self.settled(writer)

        response = self._response(writer)
        if response is None or response.status >= 500 or writer.client.ended != "finished":
            world.harness.clock.callLater(LATE + 0.001, at_last)

    @staticmethod
    def _response(writer: Writer) -> S3Response | None:
        exchange = writer.exchange
        return None if exchange is None or not exchange.answered else exchange.response

    def settled(self, writer: Writer) -> None:
        """The client knows that it was done, or that it will never know: nobody who comes from now on sees less."""
        floors = self._world.floors
        self._world.moment += 1
        for version in writer.versions:
            floors[version.key] = max(floors[version.key], version.index)

    def left(self, writer: Writer) -> None:
        """The client did not wait for the answer."""
        if not writer.order.many_keys:
            self.settled(writer)
            self._wait_for_the_end(writer)
