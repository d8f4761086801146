"""A DNS server on loopback with answers that a test sets: addresses, silence, delays, failures, truncation."""

from typing import Any

import attrs
from twisted.internet.interfaces import IListeningPort, IReactorTime
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol
from twisted.names import dns

__all__ = ["DNSAnswer", "FakeDNS"]


@attrs.frozen(kw_only=True)
class DNSAnswer:
    """What is answered for one name."""

    ipv4: tuple[str, ...] = ()
    ipv6: tuple[str, ...] = ()
    canonical_name: bytes | None = None
    """Answer with this alias, whose addresses are the ones given."""
    ttl: int = 60
    rcode: int = dns.OK
    delay: float = 0
    silent: bool = False
    """Don't answer at all."""
    truncated: bool = False
    """Answer over UDP with the truncation flag and no records, so that the client has to ask over TCP."""


class FakeDNS:
    """Answers over UDP and TCP on one port; names that were not set do not exist.

    ``queries`` is what was asked: (lower-case name, record type, "udp" or "tcp").
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._answers: dict[bytes, DNSAnswer] = {}
        self._ports: list[IListeningPort] = []
        self._connections: set[_Stream] = set()
        self._timers: set[Any] = set()
        self.queries: list[tuple[bytes, int, str]] = []

    def set(self, name: bytes, answer: DNSAnswer) -> None:
        """Answer so for this name from now on."""
        self._answers[name.lower()] = answer

    def listen(self, port: int = 0, interface: str = "127.0.0.1") -> int:
        """Start; returns the port number, the same for UDP and TCP."""
        stream: Any = Factory()
        stream.noisy = False
        stream.buildProtocol = lambda _: _Stream(self)
        listening = self._reactor.listenTCP(port, stream, interface=interface)
        number: int = listening.getHost().port
        self._ports = [listening, self._reactor.listenUDP(number, _Datagrams(self), interface=interface)]
        return number

    async def stop(self) -> None:
        """Close everything."""
        for timer in list(self._timers):
            timer.cancel()
        self._timers.clear()
        for connection in list(self._connections):
            connection.transport.abortConnection()  # type: ignore[union-attr]
        for port in self._ports:
            stopped = port.stopListening()
            if stopped is not None:
                await stopped
        self._ports.clear()

    def respond(self, data: bytes, transport: str, send: Any) -> None:
        """Answer one query by calling ``send`` with the message, perhaps later."""
        query = dns.Message()
        query.fromStr(data)
        question = query.queries[0]
        name = question.name.name.lower()
        self.queries.append((name, question.type, transport))
        answer = self._answers.get(name, DNSAnswer(rcode=dns.ENAME))
        if answer.silent:
            return
        message = self._message(query, question, answer, transport).toStr()
        if not answer.delay:
            send(message)
            return

        def fire() -> None:
            self._timers.discard(timer)
            send(message)

        timer = IReactorTime(self._reactor).callLater(answer.delay, fire)
        self._timers.add(timer)

    def _message(self, query: dns.Message, question: dns.Query, answer: DNSAnswer, transport: str) -> dns.Message:
        message = dns.Message(id=query.id, answer=1, recDes=query.recDes, recAv=1, rCode=answer.rcode)
        message.queries = [question]
        if transport == "udp" and answer.truncated:
            message.trunc = 1
            return message
        owner = question.name.name
        if answer.canonical_name is not None and answer.rcode == dns.OK:
            alias = dns.Record_CNAME(answer.canonical_name, answer.ttl)
            message.answers.append(dns.RRHeader(owner, dns.CNAME, dns.IN, answer.ttl, alias))
            owner = answer.canonical_name
        if question.type in (dns.A, dns.ALL_RECORDS):
            for address in answer.ipv4:
                record: Any = dns.Record_A(address, answer.ttl)
                message.answers.append(dns.RRHeader(owner, dns.A, dns.IN, answer.ttl, record))
        if question.type in (dns.AAAA, dns.ALL_RECORDS):
            for address in answer.ipv6:
                record = dns.Record_AAAA(address, answer.ttl)
                message.answers.append(dns.RRHeader(owner, dns.AAAA, dns.IN, answer.ttl, record))
        return message


class _Datagrams(DatagramProtocol):
    noisy = False

    def __init__(self, server: FakeDNS) -> None:
        self._server = server

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self._server.respond(datagram, "udp", lambda message: self._send(message, addr))

    def _send(self, message: bytes, addr: tuple[str, int]) -> None:
        if self.transport is not None:
            self.transport.write(message, addr)


class _Stream(Protocol):
    def __init__(self, server: FakeDNS) -> None:
        self._server = server
        self._buffer = b""

    def connectionMade(self) -> None:
        self._server._connections.add(self)

    def connectionLost(self, reason: Any = None) -> None:
        self._server._connections.discard(self)

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 2:
            size = int.from_bytes(self._buffer[:2], "big")
            if len(self._buffer) < 2 + size:
                return
            query, self._buffer = self._buffer[2 : 2 + size], self._buffer[2 + size :]
            self._server.respond(query, "tcp", self._send)

    def _send(self, message: bytes) -> None:
        self.transport.write(len(message).to_bytes(2, "big") + message)  # type: ignore[union-attr]
