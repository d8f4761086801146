"""Clients, the proxy's gateway, S3, threads and time in one hand: nothing moves unless the test says what.

:meth:`World.moves` lists what could happen next; the test picks. :meth:`World.settle` lets everything come to its end,
and :meth:`World.check_idle` tells whether anything was left over.
"""

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, LogLevel, globalLogPublisher

from s3proxy.upstream.interfaces import UpstreamError
from test.support.model import Content
from test.support.model_clients import ModelClient, Peer, Writer
from test.support.model_harness import Limits, ModelHarness, Threads, small_steps
from test.support.model_oracle import Oracle, Reader
from test.support.model_orders import Delete, Order, Put
from test.support.model_s3 import Exchange, ModelS3, S3Response
from test.support.model_uplink import Uplink

__all__ = ["KEYS", "World"]

Move = Callable[[int], None]

KEYS = (b"a", b"b", b"c")
SILENCE = 30.0
"""Seconds after which the upstream side gives up."""
PATIENCE = 20
"""How often that may pass until everything has come to its end."""
PIECES = (100_000, 1, 700, 3000, 9000)
"""Bytes that come at once."""


class World:
    """See the module.

    :param cache: settings of the configuration's section ``cache``
    :ivar moment: counts everything that clients or S3 can tell apart
    :ivar crashed: the proxy was killed
    :ivar damaged: somebody removed files of the cache directory
    :ivar floors: by key, the version that was written through the proxy last, by somebody who knows that, or knows that
        he will never know
    """

    def __init__(self, limits: Limits = Limits(), **cache: Any) -> None:
        self._small = small_steps(limits)
        self._small.__enter__()
        self._logged: list[str] = []
        globalLogPublisher.addObserver(self._log)  # type: ignore[arg-type]
        self.threads = Threads()
        self.harness = ModelHarness(limits, run=self._run, **cache)
        self.moment = 1
        self.s3 = ModelS3(KEYS)
        self.oracle = Oracle(self.s3)
        self.uplink = Uplink(self, self.oracle.problems)
        self.readers: list[Reader] = []
        self.writers: list[Writer] = []
        self.floors = dict.fromkeys(KEYS, 0)
        self.pending: list[Exchange] = []
        self.ready: list[tuple[Exchange, S3Response | UpstreamError]] = []
        self.flowing: list[S3Response] = []
        self.responses: list[S3Response] = []
        self.crashed = self.damaged = False
        self._known = 0
        self._exchanges = 0
        self._by_lane = 0

    def _run(self, function: Callable[..., Any], *args: Any) -> "Deferred[Any]":
        return self.threads(function, *args)

    def _log(self, event: LogEvent) -> None:
        if event["log_level"] >= LogLevel.error:
            failure = event.get("log_failure")
            text = "" if failure is None else failure.getTraceback()
            self._logged.append(f"{event.get('log_format')} {text}")

    def close(self) -> None:
        """Remove the directory."""
        globalLogPublisher.removeObserver(self._log)  # type: ignore[arg-type]
        self._small.__exit__(None, None, None)
        for peer in self.live:
            peer.client.leave()
        if self.harness.cache.ram is not None:
            self.harness.cache.ram.close()
        self.harness.close()

    def verify(self) -> None:
        """Nothing has happened that must not."""
        problems = self.oracle.problems + self._logged
        assert not problems, "\n".join(problems)

    # Clients.

    @property
    def live(self) -> list[Peer]:
        """Whose answer is not over."""
        peers: list[Peer] = [*self.readers, *self.writers]
        return [each for each in peers if each.client.ended is None]

    def read(
        self,
        method: bytes,
        key: bytes,
        headers: dict[bytes, bytes],
        *,
        query: bytes = b"",
        part: int | None = None,
        always_ask: bool = False,
        stalled: bool = False,
        lane: bool = False,
    ) -> Reader:
        """A client sends a GET or HEAD.

        :param always_ask: only S3 can answer it
        :param stalled: the client takes nothing at first
        :param lane: the fast lane may answer it
        """
        target = b"/" + key + (b"?" + query if query else b"")
        client = ModelClient(method, target, {**headers, b"User-Agent": b"reader-%d" % len(self.readers)})
        client.stalled = stalled
        settings = self.harness.config.cache
        lifetime = settings.head_ttl if method == b"HEAD" else settings.get_ttl
        self.moment += 1
        reader = Reader(
            client=client,
            key=key,
            part=part,
            fields={name.lower(): value for name, value in headers.items()},
            started=(self.moment, self.harness.now()),
            floor=self.floors[key],
            lifetime=0.0 if always_ask else lifetime,
            stale=0.0 if always_ask or lifetime <= 0 else settings.stale_if_error,
        )
        self._add(reader, self.readers)
        fields = reader.fields
        accounted = None
        if lane:
            checksums = fields.get(b"x-amz-checksum-mode") == b"ENABLED"
            accounted = self.harness.through_lane(client, fields.get(b"range"), checksums)
        if accounted is None:
            self.harness.gateway.handle(client)
        self._by_lane += accounted is True
        self.collect()
        return reader

    def write(self, key: bytes, content: Content | None) -> Writer:
        """A client sends a PUT, or, with None, a DELETE."""
        if content is None:
            return self.order(Delete(key=key))
        return self.order(Put(key=key, label=self.label(), bytes_of=content))

    def label(self) -> bytes:
        """The metadata of what is written next."""
        return b"w%d" % len(self.writers)

    def order(self, order: Order) -> Writer:
        """A client sends a write."""
        coded = order.coded
        headers = {**order.headers, b"User-Agent": b"writer-%d" % len(self.writers)}
        wire = None
        if coded is not None:
            headers.update(coded.headers)
            wire = coded.wire
        client = ModelClient(order.method, order.target, headers, wire)
        if coded is not None and not coded.announced:
            client.body_length = None
        writer = Writer(client=client, order=order, wire=wire or b"")
        self._add(writer, self.writers)
        self.harness.gateway.handle(client)
        self.collect()
        return writer

    def _add(self, peer: Any, peers: list[Any]) -> None:
        peer.client.witness, peer.client.peer = self, peer
        peers.append(peer)

    def answer_begins(self, peer: Peer) -> None:
        """A client has got a status."""
        if isinstance(peer, Reader):
            self.oracle.judge_head(peer)
        else:
            self.uplink.judge_head(peer)

    def answer_goes_on(self, peer: Peer, before: int, data: bytes) -> None:
        """A client has got bytes."""
        if isinstance(peer, Reader):
            self.oracle.judge_bytes(peer, before, data)
        else:
            self.uplink.judge_bytes(peer, before, data)

    def answer_ends(self, peer: Peer) -> None:
        """A client has got everything, or its connection was cut."""
        if isinstance(peer, Reader):
            self.oracle.judge_end(peer)
        else:
            self.uplink.judge_end(peer)

    def client_left(self, peer: Peer) -> None:
        """A client did not wait for the end."""
        if isinstance(peer, Writer):
            self.uplink.left(peer)

    def overwrite(self, key: bytes, content: Content | None, same_second: bool = False) -> int:
        """Somebody writes to S3 without the proxy. The index of the new version."""
        self.moment += 1
        return self.s3.histories[key].write(content, self.moment, self.harness.now(), same_second).index

    # S3.

    def collect(self) -> None:
        """What has been sent to S3 since the last time."""
        asked_of = self.harness.upstream.asked
        new, self._known = asked_of[self._known :], len(asked_of)
        for asked in new:
            kind, _, number = (asked.header(b"user-agent") or b"").partition(b"-")
            owner: Peer = self.readers[int(number)] if kind == b"reader" else self.writers[int(number)]
            self._exchanges += 1
            exchange = Exchange(
                number=self._exchanges,
                asked=asked,
                owner=owner,
                key=owner.key,
                part=owner.part if isinstance(owner, Reader) else None,
                fields={name.lower(): value for name, value in asked.request.headers},
                sent=(self.moment, self.harness.now()),
            )
            self.pending.append(exchange)
            if isinstance(owner, Reader):
                owner.exchanges.append(exchange)
                self.oracle.asked(exchange)
            else:
                self.uplink.begin(exchange)

    def _process(self, exchange: Exchange) -> None:
        """S3 takes a request: a write happens now, a read sees what there is now."""
        self.pending.remove(exchange)
        self.moment += 1
        reads = isinstance(exchange.owner, Reader)
        answer = self.s3.take(exchange) if reads else self.uplink.process(exchange)
        if isinstance(answer, UpstreamError) and self.s3.is_silent(answer):
            self.harness.clock.callLater(SILENCE, self._fail_silent, exchange, answer)
        else:
            self.ready.append((exchange, answer))

    def _fail_silent(self, exchange: Exchange, error: UpstreamError) -> None:
        if not exchange.asked.cancelled:
            exchange.asked.fail(error)
            self.collect()

    def _respond(self, item: tuple[Exchange, S3Response | UpstreamError]) -> None:
        """The head of an answer arrives, or the news that none will."""
        self.ready.remove(item)
        exchange, answer = item
        if exchange.asked.cancelled:
            return
        if isinstance(answer, UpstreamError):
            exchange.asked.fail(answer)
            return
        exchange.answered = True
        if isinstance(exchange.owner, Reader):
            self.oracle.approved(exchange)
        elif exchange.asked.request.body is not None and answer.status >= 300:
            # The upstream side stops an upload that was refused.
            exchange.asked.request.body.abort()
        self.responses.append(answer)
        self.flowing.append(answer)
        exchange.asked.respond(answer)

    def _flow(self, response: S3Response, count: int) -> None:
        """Some bytes of a body arrive, or its end, or it breaks off."""
        if response.flow(count):
            self.flowing.remove(response)
        elif response.stalled:
            self.flowing.remove(response)
            self.harness.clock.callLater(SILENCE, self._stop_waiting, response)

    def _stop_waiting(self, response: S3Response) -> None:
        if not response.aborted:
            response.give_up()
            self.collect()

    # What can happen.

    def moves(self, reads: bool = True) -> list[Move]:
        """Everything that could happen now, each for a number of bytes.

        :param reads: also to requests that read
        """
        self.flowing = [response for response in self.flowing if not response.aborted]
        for each in self.pending:
            if each.asked.cancelled and isinstance(each.owner, Writer):
                self.uplink.cancelled(each)
        self.pending = [each for each in self.pending if not each.asked.cancelled]
        moves: list[Move] = []

        def add(act: Callable[..., Any], *args: Any) -> None:
            moves.append(lambda count: act(*args))

        for exchange in self.pending:
            if reads if isinstance(exchange.owner, Reader) else self.uplink.may_process(exchange):
                add(self._process, exchange)
        for item in self.ready:
            if reads or isinstance(item[0].owner, Writer):
                add(self._respond, item)
        for response in self.flowing:
            if response.sink is not None and not response.paused and (reads or response.about_a_write):
                moves.append(lambda count, response=response: self._flow(response, count))  # type: ignore[misc]
        for index in range(self.threads.waiting):
            add(self.threads.step_at, index)
        moves += self.uplink.moves()
        for peer in self.live:
            if peer.client.is_behind:
                add(peer.client.take_one)
        clock = self.harness.clock
        if any(call.getTime() - clock.seconds() < 1 for call in clock.getDelayedCalls()):
            add(clock.advance, 0.01)
        return moves

    def move(self, choice: int) -> bool:
        """One of the moves happens; False if there is none."""
        moves = self.moves()
        if not moves:
            return False
        moves[choice % len(moves)](PIECES[choice // len(moves) % len(PIECES)])
        self.collect()
        return True

    def hold(self, steps: int) -> None:
        """The latest read gets so far: S3 takes it, answers it, and sends some of the body."""
        reader = self.readers[-1]
        for exchange in reader.exchanges[:steps]:
            self._process(exchange)
        for item in [each for each in self.ready if each[0].owner is reader][: steps - 1]:
            self._respond(item)
        for response in self.flowing[: max(0, steps - 2)]:
            if response.sink is not None and not response.paused:
                self._flow(response, 1)
        self.collect()

    def move_writes(self) -> bool:
        """Something happens that concerns no read; False if there is nothing."""
        moves = self.moves(reads=False)
        if moves:
            moves[0](PIECES[0])
            self.collect()
        return bool(moves)

    def settle(self) -> None:
        """Everything that can happen without anybody's doing happens, until nothing is under way."""
        silences = 0
        for peer in self.live:
            peer.client.stalled = False
        self.collect()
        while True:
            if self.move(0):
                continue
            under_way = self.live or self.harness.cache.fills_in_flight or self.flowing
            if not under_way:
                return
            silences += 1
            assert silences <= PATIENCE, f"it does not come to its end: {self.live} {self.flowing}"
            self.harness.clock.advance(SILENCE + 1)
            self.collect()

    def restart(self, crash: bool, scan: bool) -> None:
        """The proxy ends, one way or the other, and a new one starts on its directory.

        :param scan: which is walked through at once
        """
        harness = self.harness
        copy = harness.snapshot() if crash else None
        self.crashed = self.crashed or crash
        for peer in self.live:
            peer.client.leave()
        harness.cache.break_off()
        self.threads.refusals = 0
        self.settle()
        self.check_idle()
        harness.shut()
        if copy is None:
            harness.open()
        else:
            harness.revive(copy)
        if scan:
            harness.scan()

    def check_idle(self) -> None:
        """Nothing is left of anything that was under way, and everything was accounted for."""
        self.verify()
        self.harness.check_idle()
        untouched = [response for response in self.responses if not response.calls]
        assert not untouched, f"answers that nobody took: {untouched}"
        requests = len(self.readers) + len(self.writers) - self._by_lane
        assert len(self.harness.records) == requests, f"{len(self.harness.records)} records of {requests} requests"

    def check_uploads(self) -> None:
        """Nothing is left of uploads, and what was counted is what is there."""
        if not self.damaged:
            self.harness.check_uploads(self.crashed)
