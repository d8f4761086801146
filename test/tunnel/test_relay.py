"""Tests for :mod:`s3proxy.tunnel.relay`, on real sockets, with and without the kernel's help."""

import os
import random
import socket
from test.tunnel.stage import LARGE_TESTS, RelayCase, descriptors, disturb, read_all, reset, send_all
from typing import Any

from twisted.internet.defer import gatherResults

from s3proxy.tunnel import pipes
from s3proxy.tunnel.pipes import CAN_SPLICE, PipePool

MIB = 1 << 20


class _Relay:
    """What holds for both ways of moving bytes."""

    splice: bool

    async def test_both_directions_at_once(self: Any) -> None:
        """Every byte arrives, in order, whatever goes the other way; the end of each direction is passed on."""
        client, upstream = self.open()
        up, down = os.urandom(5 * MIB), os.urandom(7 * MIB)
        _, _, got_up, got_down = await gatherResults(
            [
                self.work(send_all, client, up, True),
                self.work(send_all, upstream, down, True),
                self.work(read_all, upstream),
                self.work(read_all, client),
            ]
        )
        self.assertTrue(got_up == up)
        self.assertTrue(got_down == down)
        await self.until(lambda: not len(self.tunnels))
        (record,) = self.records
        self.assertEqual((record.reason, record.ending), ("finished", "ok"))
        self.assertEqual((record.body_bytes_received, record.bytes_sent), (len(up), len(down)))

    async def test_half_closed(self: Any) -> None:
        """A side that has finished sending still gets what the other sends afterwards."""
        client, upstream = self.open()
        await self.work(send_all, client, b"question", True)
        self.assertEqual(await self.work(read_all, upstream), b"question")
        self.assertEqual(len(self.tunnels), 1)
        await self.work(send_all, upstream, b"answer" * 100000, True)
        self.assertEqual(await self.work(read_all, client), b"answer" * 100000)
        await self.until(lambda: self.reasons() == ["finished"])

    async def test_far_side_that_ends_first(self: Any) -> None:
        """The same the other way round."""
        client, upstream = self.open()
        await self.work(send_all, upstream, b"hello", True)
        self.assertEqual(await self.work(read_all, client), b"hello")
        await self.work(send_all, client, b"more", True)
        self.assertEqual(await self.work(read_all, upstream), b"more")
        await self.until(lambda: self.reasons() == ["finished"])

    async def test_first_bytes(self: Any) -> None:
        """What was read before, and what is to be said first, goes in front."""
        client, upstream = self.open(for_upstream=b"one ", for_client=b"200 ")
        await self.work(send_all, client, b"two", True)
        await self.work(send_all, upstream, b"three", True)
        self.assertEqual(await self.work(read_all, upstream), b"one two")
        self.assertEqual(await self.work(read_all, client), b"200 three")

    async def test_stalled_side(self: Any) -> None:
        """A side that does not read holds up the other: what is held in between is bounded, and nothing is lost."""
        client, upstream = self.open()
        data = os.urandom(4 * MIB) * 10
        client.setblocking(False)
        sent = 0
        for _ in range(100):
            try:
                while True:
                    sent += client.send(data[sent : sent + 65536])
            except BlockingIOError:
                pass
            held = self.tunnel._client.outgoing.waiting
            self.assertLessEqual(held, pipes.LARGE)
            await self.until(lambda: True)
            await self.work(lambda: None)
        self.assertLess(sent, 32 * MIB)
        self.assertTrue(self.tunnel._client.outgoing.blocked)
        client.setblocking(True)
        _, got = await gatherResults([self.work(send_all, client, data[sent:], True), self.work(read_all, upstream)])
        self.assertTrue(got == data)

    async def test_reset_by_the_client(self: Any) -> None:
        """A reset is passed on as one."""
        client, upstream = self.open()
        await self.work(send_all, client, b"x")
        await self.work(read_all, upstream, 1)
        reset(client)
        with self.assertRaises(ConnectionResetError):
            await self.work(read_all, upstream)
        self.assertEqual(self.reasons(), ["client_reset"])
        self.assertEqual(self.records[0].ending, "client_abort")

    async def test_reset_by_the_far_side(self: Any) -> None:
        """The same the other way round."""
        client, upstream = self.open()
        reset(upstream)
        with self.assertRaises(ConnectionResetError):
            await self.work(read_all, client)
        self.assertEqual(self.reasons(), ["upstream_reset"])
        self.assertEqual(self.records[0].ending, "upstream_abort")

    async def test_reset_while_the_other_side_stalls(self: Any) -> None:
        """A side that is not read, because the other takes nothing, is noticed when it resets."""
        before = len(descriptors())
        client, upstream = self.open()
        client.setblocking(False)
        data = b"x" * MIB
        for _ in range(60):
            try:
                while True:
                    client.send(data)
            except BlockingIOError:
                await self.work(lambda: None)
        self.assertTrue(self.tunnel._client.outgoing.blocked)
        reset(client)
        await self.until(lambda: self.reasons() == ["client_reset"])
        upstream.close()
        self.tunnels.mover.pipes.close()
        self.assertEqual(len(descriptors()), before)

    async def test_silence(self: Any) -> None:
        """A tunnel that carries nothing for too long ends, in good order for both sides."""
        self.tunnels = self.make_tunnels(idle_time=0.3)
        client, upstream = self.open()
        self.assertEqual(await self.work(read_all, client), b"")
        self.assertEqual(await self.work(read_all, upstream), b"")
        self.assertEqual(self.reasons(), ["idle"])

    async def test_silence_of_one_direction(self: Any) -> None:
        """One that carries something is not idle, and one that has half ended may be silent for a shorter time."""
        self.tunnels = self.make_tunnels(idle_time=0.5, half_closed_time=0.2)
        client, upstream = self.open()
        for _ in range(8):
            await self.work(send_all, client, b"x")
            await self.work(read_all, upstream, 1)
            await self.until_later(0.1)
        self.assertEqual(self.reasons(), [])
        await self.work(send_all, client, b"", True)
        await self.until(lambda: self.reasons() == ["idle"])

    async def until_later(self: Any, seconds: float) -> None:
        limit = self.reactor.seconds() + seconds
        await self.until(lambda: self.reactor.seconds() >= limit)

    async def test_stall(self: Any) -> None:
        """A side that takes nothing of what waits for it for too long is cut off."""
        self.tunnels = self.make_tunnels(stall_time=0.3)
        client, upstream = self.open()
        upstream.setblocking(False)
        for _ in range(60):
            try:
                while True:
                    upstream.send(b"x" * MIB)
            except (BlockingIOError, ConnectionError):
                await self.work(lambda: None)
        await self.until(lambda: self.reasons() == ["client_stalled"])

    async def test_shutdown(self: Any) -> None:
        """While the proxy stops, silent tunnels end at once, and busy ones when they are silent or cut."""
        self.tunnels = self.make_tunnels(drain_idle_time=0.2)
        client, upstream = self.open()
        done = self.tunnels.drain()
        self.assertEqual(await self.work(read_all, client), b"")
        await done
        self.assertEqual(self.reasons(), ["shutdown"])
        self.tunnels = self.make_tunnels()
        client, upstream = self.open()
        done = self.tunnels.drain()
        self.tunnels.abort_all()
        await done
        self.assertEqual(self.reasons(), ["shutdown"] * 2)
        with self.assertRaises(ConnectionResetError):
            await self.work(read_all, client)

    async def test_figures(self: Any) -> None:
        """Open tunnels are listed, and counted."""
        client, upstream = self.open()
        await self.work(send_all, client, b"12345")
        await self.work(read_all, upstream, 5)
        (found,) = self.tunnels.snapshot()
        self.assertEqual(
            (found["host"], found["upstream"], found["bytes_received"], found["bytes_sent"]),
            ("s3.test", "192.0.2.9:443", 5, 0),
        )
        readings = {(reading.name, *reading.labels): reading.value for reading in self.tunnels.readings()}
        self.assertEqual(readings["s3proxy_tunnels", "https"], 1)
        self.assertEqual(readings["s3proxy_tunnel_bytes_total", "https", "received"], 5)
        client.close()
        upstream.close()
        await self.until(lambda: not len(self.tunnels))
        readings = {(reading.name, *reading.labels): reading.value for reading in self.tunnels.readings()}
        self.assertEqual(readings["s3proxy_tunnels", "https"], 0)
        self.assertEqual(readings["s3proxy_tunnel_bytes_total", "https", "received"], 5)
        self.assertEqual(readings["s3proxy_tunnels_ended_total", "https", "finished"], 1)

    async def test_random_sessions(self: Any) -> None:
        """Whatever both sides do, and in whatever order, nothing stays open: 200 sessions, or ten thousand."""
        before = len(descriptors())
        chance = random.Random(7)
        rounds = 2000 if LARGE_TESTS else 40
        for _ in range(rounds):
            ends = [self.open() for _ in range(5)]
            for _ in range(12):
                pair = ends[chance.randrange(len(ends))]
                end = pair[chance.randrange(2)]
                disturb(end, chance)
            await self.work(lambda: None)
            for pair in ends:
                for end in pair:
                    if end.fileno() < 0:
                        continue
                    (reset if chance.random() < 0.5 else socket.socket.close)(end)
            await self.until(lambda: not len(self.tunnels))
        self.assertEqual(len(self.records), 5 * rounds)
        self.assertEqual(self.tunnels.mover.pipes.lent, 0)
        self.tunnels.mover.pipes.close()
        self.assertEqual(len(descriptors()), before)

    test_random_sessions.timeout = 1800  # type: ignore[attr-defined]


class SplicedTests(_Relay, RelayCase):
    """Tunnels whose bytes the kernel moves."""

    splice = True
    if not CAN_SPLICE:
        skip = "this system has no splice()"

    async def test_no_pipe_without_bytes(self) -> None:
        """Idle tunnels hold two descriptors, their sockets, and no pipe."""
        before = len(descriptors())
        ends = [self.open() for _ in range(20)]
        for client, upstream in ends:
            await self.work(send_all, client, b"x" * 100000)
            await self.work(read_all, upstream, 100000)
        self.assertEqual(self.tunnels.mover.pipes.lent, 0)
        self.assertLessEqual(len(descriptors()), before + 20 * 4 + 2 * pipes.MOST_IDLE)

    async def test_without_pipes(self) -> None:
        """Where there are no pipes left, bytes are copied."""
        self.patch(PipePool, "take", lambda pool: None)
        client, upstream = self.open()
        data = os.urandom(3 * MIB)
        got = await self.carry(client, upstream, data)
        self.assertTrue(got == data)

    async def test_pipes_come_and_go(self) -> None:
        """Within one tunnel both ways may take turns."""
        chance = random.Random(3)
        take = PipePool.take
        self.patch(PipePool, "take", lambda pool: take(pool) if chance.random() < 0.5 else None)
        client, upstream = self.open()
        data = os.urandom(8 * MIB)
        got = await self.carry(client, upstream, data)
        self.assertTrue(got == data)

    async def test_small_pipes(self) -> None:
        """A kernel that grants no large pipes makes no difference."""
        self.patch(pipes, "MOST_LARGE", 0)
        client, upstream = self.open()
        data = os.urandom(8 * MIB)
        got = await self.carry(client, upstream, data)
        self.assertTrue(got == data)

    async def test_system_without_splice_for_these_sockets(self) -> None:
        """A system call that is refused is no reason to lose the connection: bytes are copied from then on."""

        def refuse(*args: object, **options: object) -> int:
            raise OSError(22, "Invalid argument")

        self.patch(os, "splice", refuse)
        client, upstream = self.open()
        data = os.urandom(3 * MIB)
        got = await self.carry(client, upstream, data)
        self.assertTrue(got == data)


class CopiedTests(_Relay, RelayCase):
    """Tunnels whose bytes are copied."""

    splice = False
