"""The factory: counting, draining, aborting."""

from twisted.trial.unittest import SynchronousTestCase

from test.wire.harness import Connected, FakeTransport, reply, split_answers

GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"


class CachingSiteTests(SynchronousTestCase):
    """CachingSite"""

    def second_connection(self, wire: Connected) -> tuple[object, FakeTransport]:
        transport = FakeTransport()
        channel = wire.site.buildProtocol(None)
        channel.makeConnection(transport)
        return channel, transport

    def test_counters(self) -> None:
        """Connections and requests are counted as they come and go."""
        wire = Connected()
        self.second_connection(wire)
        wire.receive(GET)
        self.assertEqual((wire.site.connections_open, wire.site.requests_in_flight), (2, 1))
        reply(wire.requests[0])
        wire.lose()
        self.assertEqual((wire.site.connections_open, wire.site.requests_in_flight), (1, 0))
        self.assertEqual((wire.site.counters.connections, wire.site.counters.requests), (2, 1))

    def test_drain(self) -> None:
        """Idle connections end at once, busy ones after their answer, and then everybody is told."""
        wire = Connected()
        wire.receive(GET)
        idle, idle_transport = self.second_connection(wire)
        first, second = wire.site.drain(), wire.site.drain()
        second.addErrback(lambda _: None)
        second.cancel()
        self.assertTrue(idle_transport.disconnecting)
        idle.connectionLost()
        self.assertFalse(wire.transport.disconnecting)
        self.assertIsNone(wire.site.buildProtocol(None))
        reply(wire.requests[0])
        self.assertEqual(split_answers(wire.sent)[0][1][b"connection"], b"close")
        self.assertTrue(wire.transport.disconnecting)
        self.assertNoResult(first)
        wire.lose()
        self.successResultOf(first)
        self.successResultOf(wire.site.drain())

    def test_patient_drain(self) -> None:
        """A connection on which a request may be on its way stays for a while, and such a request is its last one."""
        wire = Connected(reply)
        quiet, quiet_transport = self.second_connection(wire)
        drained = wire.site.drain(2.0)
        self.assertEqual((wire.transport.disconnecting, quiet_transport.disconnecting), (False, False))
        wire.clock.advance(1)
        wire.receive(GET)
        self.assertEqual(split_answers(wire.sent)[0][1][b"connection"], b"close")
        self.assertTrue(wire.transport.disconnecting)
        wire.lose()
        wire.clock.advance(1)
        self.assertTrue(quiet_transport.disconnecting)
        quiet.connectionLost()  # type: ignore[attr-defined]
        self.successResultOf(drained)

    def test_drain_during_an_answer(self) -> None:
        """A connection whose answer had begun before ends after it as well."""
        wire = Connected()
        wire.receive(GET)
        wire.requests[0].start_response(200, b"OK", [], 2)
        wire.site.drain()
        wire.requests[0].write(b"ok")
        wire.requests[0].finish()
        self.assertTrue(wire.transport.disconnecting)

    def test_drain_with_a_head_half_received(self) -> None:
        """A request whose head is on its way is still served."""
        wire = Connected(reply)
        wire.receive(GET[:10])
        wire.site.drain()
        self.assertFalse(wire.transport.disconnecting)
        wire.receive(GET[10:])
        self.assertEqual(split_answers(wire.sent)[0][1][b"connection"], b"close")
        self.assertTrue(wire.transport.disconnecting)

    def test_drain_with_a_rest_to_drop(self) -> None:
        """A connection that drops the rest of a body ends when it has."""
        wire = Connected()
        wire.receive(b"PUT /b HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc")
        reply(wire.requests[0])
        wire.site.drain()
        self.assertFalse(wire.transport.disconnecting)
        wire.receive(b"defghij")
        self.assertTrue(wire.transport.disconnecting)

    def test_abort_all(self) -> None:
        """abort_all() cuts every connection, also one that is closing already."""
        wire = Connected()
        wire.receive(GET)
        _, idle = self.second_connection(wire)
        wire.site.drain()
        wire.site.abort_all()
        self.assertTrue(wire.transport.aborted)
        self.assertTrue(idle.aborted)
        self.assertEqual(wire.site.counters.aborted["shutdown"], 2)

    def test_unfinished_farewell(self) -> None:
        """A connection that was closed but does not end (TLS waits for the client) is cut in the end."""
        wire = Connected()
        wire.site.drain()
        self.assertTrue(wire.transport.disconnecting)
        wire.pass_time(15)
        self.assertFalse(wire.transport.aborted)
        wire.pass_time(2)
        self.assertTrue(wire.transport.aborted)

    def test_factory_needs_no_log(self) -> None:
        """Starting and stopping leaves no timer and writes no access log."""
        wire = Connected()
        wire.lose()
        wire.site.doStart()
        wire.site.log(None)
        self.assertEqual(wire.clock.getDelayedCalls(), [])
        wire.site.doStop()
