"""Asks the configured DNS servers for addresses, and nobody else.

An answer counts only if it comes from the server that was asked, to the port from which it was asked, with the number
and the question of the query (RFC 5452 9.1): the kernel drops datagrams of others, and picks the port.
"""

import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import CannotListenError, ConnectionRefusedError
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.names import client, dns
from twisted.names.error import AuthoritativeDomainError, DNSNameError
from twisted.python.failure import Failure

from s3proxy.upstream.routing import host_and_port, ip_literal
from s3proxy.util.deferreds import WakeUps

__all__ = ["DEFAULT_SERVERS", "Answer", "DNSClient", "Lookup", "has_route"]

DEFAULT_SERVERS = ("8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1")
#: Seconds that each server is given, first round and second.
_ROUNDS = (1.0, 2.0)
#: Seconds of silence after which the next server is asked, too.
_STAGGER = 0.3
#: Seconds more that a server has for an answer that does not fit into a datagram.
_TCP_TIME = 2.0
#: Aliases on the way from a name to its addresses.
_MOST_ALIASES = 8
#: Bytes of a DNS message before its first question.
_HEADER = 12


@attrs.frozen
class Answer:
    """What DNS said: addresses, and for how many seconds they hold. No address: the name does not exist or has none."""

    ips: tuple[str, ...]
    ttl: float


#: Looks one name up; fires with an Answer, fails with anything when no server could tell.
Lookup = Callable[[str], "Deferred[Answer]"]


class _Datagrams(dns.DNSDatagramProtocol):
    """One query and its answer."""

    noisy = False
    log = Logger()
    _question = b""

    def writeMessage(self, message: dns.Message, address: tuple[str, int]) -> None:
        """Called with the query."""
        data = message.toStr()
        self._question = data[_HEADER:].lower()
        transport: Any = self.transport
        transport.connect(*address)
        transport.write(data)

    def datagramReceived(self, data: bytes, addr: tuple[str, int]) -> None:
        """Called with what the server sent. What is no answer to the question is as good as silence."""
        if not self._is_answer(data):
            self.log.debug("{server} sent what is no answer to its query", server=addr[0])
            return
        try:
            super().datagramReceived(data, addr)
        except Exception:
            # What follows the question may be anything; Twisted's parser expects it to be well-formed.
            self._fail(Failure())

    def _is_answer(self, data: bytes) -> bool:
        if len(data) < _HEADER or not data[2] & 0x80:
            return False
        questions = int.from_bytes(data[4:6], "big")
        if questions == 0:
            # So some servers say that they did not understand.
            return data[3] & 0x0F != dns.OK
        return questions == 1 and data[_HEADER : _HEADER + len(self._question)].lower() == self._question

    def connectionRefused(self) -> None:
        """Called when there is nobody at the server's port."""
        self._fail(Failure(ConnectionRefusedError()))

    def stopProtocol(self) -> None:
        """Called when the port is closed: by its user, or by the reactor for the same reason as above."""
        self.connectionRefused()
        super().stopProtocol()

    def _fail(self, reason: Failure) -> None:
        waiting, self.liveMessages = self.liveMessages, {}
        for result, limit in waiting.values():
            limit.cancel()
            result.errback(reason)


class _QuietResolver(client.Resolver):
    """Twisted's resolver logs the start and the end of every query's port."""

    def _connectedProtocol(self, interface: str = "") -> dns.DNSDatagramProtocol:
        protocol = _Datagrams(self, reactor=self._reactor)
        # The kernel picks unpredictable source ports.
        self._reactor.listenUDP(0, protocol, interface=interface)
        return protocol

    def _query(self, *query: Any) -> "Deferred[Any]":
        address, *_ = query
        try:
            protocol = self._connectedProtocol("::" if ":" in address[0] else "")
        except CannotListenError:
            # There may be no descriptor left.
            return fail()

        def close(result: Any) -> Any:
            transport: Any = protocol.transport
            if transport is not None:
                transport.stopListening()
            return result

        asking: Deferred[Any] = protocol.query(*query)
        return asking.addBoth(close)

    def messageReceived(self, message: object, protocol: object, address: object = None) -> None:
        """A late answer to a query that has been given up."""


def has_route(ip: str) -> bool:
    """Whether this machine could send packets to the address. Sends none."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((ip, dns.PORT))
    except OSError:
        return False
    return True


class DNSClient:
    """Asks the servers one after the other, beginning with the one that answered last, twice around.

    A server that says "no such name" has answered; one that is silent, refuses or fails has not. While one is silent
    the next one is asked besides, so that a server that is down costs a request little.

    :param servers: ``IP`` or ``IP:port``
    :param is_reachable: whether there is a route to an IP
    """

    def __init__(self, reactor: Any, servers: Sequence[str], is_reachable: Callable[[str], bool] = has_route) -> None:
        self._reactor = reactor
        self._is_reachable = is_reachable
        self._resolvers: list[client.Resolver] = []
        for server in servers:
            ip, port = host_and_port(server)
            # Answers are compared with the address as the kernel spells it.
            address = ip_literal(ip) or ip, port or dns.PORT
            self._resolvers.append(_QuietResolver(servers=[address], timeout=_ROUNDS[:1], reactor=reactor))
        self._first = 0

    def lookup(self, name: str) -> "Deferred[Answer]":
        """A records; and AAAA records of a name that has none, or none that this machine has a route to.

        Fails when no server answers.
        """
        return Deferred.fromCoroutine(self._lookup(name))

    def close(self) -> None:
        """Drop the TCP connections that long answers needed."""
        for resolver in self._resolvers:
            connections: list[Any] = resolver.connections or []
            for connection in list(connections):
                connection.transport.loseConnection()

    async def _lookup(self, name: str) -> Answer:
        count = len(self._resolvers)
        left = deque((round, (self._first + offset) % count) for round in _ROUNDS for offset in range(count))
        asked: set[Deferred[None]] = set()
        answers: list[tuple[int, Answer]] = []
        failures: list[Failure] = []
        progress = WakeUps()
        timer: IDelayedCall | None = None

        def failed(reason: Failure) -> None:
            failures.append(reason)

        def over(_: None, asking: "Deferred[None]") -> None:
            asked.discard(asking)
            progress.wake()

        due = True

        def be_due() -> None:
            nonlocal due
            due = True
            progress.wake()

        try:
            while not answers and (left or asked):
                if left and (due or not asked):
                    seconds, index = left.popleft()
                    due = False
                    if timer is not None and timer.active():
                        timer.cancel()
                    timer = self._reactor.callLater(_STAGGER, be_due)
                    asking = Deferred.fromCoroutine(self._ask(index, name, seconds, answers))
                    asked.add(asking)
                    asking.addErrback(failed).addCallback(over, asking)
                else:
                    await progress.wait()
        finally:
            if timer is not None and timer.active():
                timer.cancel()
            for asking in list(asked):
                asking.cancel()
        if answers:
            self._first, answer = answers[0]
            return answer
        failures[-1].raiseException()

    async def _ask(self, index: int, name: str, seconds: float, answers: list[tuple[int, Answer]]) -> None:
        resolver = self._resolvers[index]
        try:
            found = await self._find(resolver.lookupAddress, name, dns.A, seconds)
            if not any(map(self._is_reachable, found.ips)):
                other = await self._find(resolver.lookupIPV6Address, name, dns.AAAA, seconds)
                if not found.ips or any(map(self._is_reachable, other.ips)):
                    found = other
        except (DNSNameError, AuthoritativeDomainError):
            found = Answer((), 0.0)
        answers.append((index, found))

    async def _find(self, ask: Any, name: str, kind: int, seconds: float) -> Answer:
        """The addresses of one kind. An alias whose addresses the server did not add is asked for, too."""
        owner = name.encode("ascii").lower().rstrip(b".")
        met = {owner}
        ttl = float("inf")
        for _ in range(_MOST_ALIASES):
            answers, _, _ = await ask(owner, timeout=(seconds,)).addTimeout(seconds + _TCP_TIME, self._reactor)
            ips, last, held = _follow(answers, kind, owner)
            ttl = min(ttl, held)
            if ips:
                return Answer(ips, ttl)
            if last in met:
                # There is no alias, or they lead around in circles.
                break
            met.add(last)
            owner = last
        return Answer((), 0.0)


def _follow(records: Sequence[dns.RRHeader], kind: int, owner: bytes) -> tuple[tuple[str, ...], bytes, float]:
    """From a name along its aliases: the addresses, the last name, and the seconds for which all of that holds.

    Records about other names, and those behind more aliases than anybody needs, are left aside.
    """
    met = {owner}
    ttl = float("inf")
    aliases = {_name(record): record for record in reversed(records) if record.type == dns.CNAME}
    while owner in aliases and len(met) <= _MOST_ALIASES:
        alias: Any = aliases[owner]
        ttl = min(ttl, float(alias.ttl))
        owner = alias.payload.name.name.lower()
        if owner in met:
            return (), owner, ttl
        met.add(owner)
    ips: dict[str, None] = {}
    for record in records:
        if record.type == kind and _name(record) in met:
            payload: Any = record.payload
            ips[payload.dottedQuad() if kind == dns.A else socket.inet_ntop(socket.AF_INET6, payload.address)] = None
            ttl = min(ttl, float(record.ttl))
    return tuple(ips), owner, ttl


def _name(record: dns.RRHeader) -> bytes:
    name: bytes = record.name.name
    return name.lower()
