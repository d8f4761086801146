"""Addresses of S3's hosts, asked of the configured DNS servers and of nobody else.

The hosts file and the system's resolver may well say that S3 is this proxy; that is how clients come here.
"""

import re
import socket
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.names import client, dns
from twisted.names.error import AuthoritativeDomainError, DNSNameError
from twisted.python.failure import Failure

from s3proxy.upstream.interfaces import UpstreamError, UpstreamUnreachable
from s3proxy.upstream.routing import host_and_port, ip_literal, longest_suffix
from s3proxy.util.deferreds import WakeUps

__all__ = ["DEFAULT_SERVERS", "Answer", "DNSClient", "Lookup", "Resolver", "Target", "has_route"]

DEFAULT_SERVERS = ("8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1")
#: Seconds that each server is given, first round and second.
_ROUNDS = (1.0, 2.0)
#: Seconds of silence after which the next server is asked, too.
_STAGGER = 0.3
#: Seconds more that a server has for an answer that does not fit into a datagram.
_TCP_TIME = 2.0
#: Seconds after which a waiting request is told that there is no answer.
_PATIENCE = 8.0
#: Seconds after which it gets the addresses of a long time ago, if there are such.
_PATIENCE_WITH_OLD = 1.0
#: Shortest time an answer is used, and the time a failure is.
_MIN_TTL = 5.0

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_name = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*\.?\Z").match


@attrs.frozen
class Target:
    """An address to dial; *port* only where the configuration names one."""

    ip: str
    port: int | None = None


@attrs.frozen
class Answer:
    """What DNS said: addresses, and for how many seconds they hold. No address: the name does not exist or has none."""

    ips: tuple[str, ...]
    ttl: float


#: Looks one name up; fires with an Answer, fails with anything when no server could tell.
Lookup = Callable[[str], "Deferred[Answer]"]


class _QuietResolver(client.Resolver):
    """Twisted's resolver logs the start and the end of every query's port."""

    def _connectedProtocol(self, interface: str = "") -> dns.DNSDatagramProtocol:
        protocol = dns.DNSDatagramProtocol(self, reactor=self._reactor)
        protocol.noisy = False
        # The kernel picks unpredictable source ports.
        self._reactor.listenUDP(0, protocol, interface=interface)
        return protocol

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
            address = ip, port or dns.PORT
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
            found = await self._records(resolver.lookupAddress(name, timeout=(seconds,)), dns.A, seconds)
            if not any(map(self._is_reachable, found.ips)):
                asking = resolver.lookupIPV6Address(name, timeout=(seconds,))
                other = await self._records(asking, dns.AAAA, seconds)
                if not found.ips or any(map(self._is_reachable, other.ips)):
                    found = other
        except (DNSNameError, AuthoritativeDomainError):
            found = Answer((), 0.0)
        answers.append((index, found))

    async def _records(self, asking: "Deferred[Any]", kind: int, seconds: float) -> Answer:
        answers, _, _ = await asking.addTimeout(seconds + _TCP_TIME, self._reactor)
        return _records(answers, kind)


def _records(answers: Sequence[dns.RRHeader], kind: int) -> Answer:
    payloads: list[Any] = [record.payload for record in answers if record.type == kind]
    if kind == dns.A:
        ips = [payload.dottedQuad() for payload in payloads]
    else:
        ips = [socket.inet_ntop(socket.AF_INET6, payload.address) for payload in payloads]
    # CNAMEs on the way count as well: the answer holds as long as every part of it.
    return Answer(tuple(dict.fromkeys(ips)), float(min((record.ttl for record in answers), default=0)))


@attrs.define
class _Entry:
    ips: tuple[str, ...] = ()
    error: str | None = None
    expires: float = 0.0
    refreshing: bool = False
    waiting: "list[Deferred[tuple[str, ...]]]" = attrs.Factory(list)


class Resolver:
    """Addresses by host name: overrides, then a cache in front of *lookup*.

    * An answer holds for its TTL, at least 5 s and at most *max_ttl*. For *max_ttl* more it is still given out while a
      new one is fetched, so that no request waits for DNS in the steady state. After that a request waits for the new
      one for a second at most.
    * One query per name at a time. A waiter that is cancelled leaves the others alone.
    * When no server answers, the last addresses go on being used; a name without any fails for 5 s.
    * ``localhost`` and names below it are the loopback address (RFC 6761 6.3).

    :param overrides: host or ``*.suffix`` to ``IP``, ``IP:port``, ``[IPv6]:port``, ``name`` or ``name:port``
    :param max_names: names kept; those used least recently are dropped
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        lookup: Lookup,
        overrides: Mapping[str, Sequence[str]],
        max_ttl: float = 60.0,
        max_names: int = 10000,
    ) -> None:
        self._clock = clock
        self._lookup = lookup
        self._max_ttl = max(max_ttl, 0.0)
        self._max_names = max(max_names, 1)
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._exact: dict[str, list[tuple[str, int | None]]] = {}
        self._suffix: dict[str, list[tuple[str, int | None]]] = {}
        for key, values in overrides.items():
            table, name = (self._suffix, key[2:]) if key.startswith("*.") else (self._exact, key)
            table[name.lower()] = [host_and_port(value) for value in values]
        self._pinned: dict[str, tuple[Target, ...]] = {}
        for name, pairs in self._exact.items():
            targets = [Target(ip, port) for value, port in pairs if (ip := ip_literal(value)) is not None]
            if len(targets) == len(pairs):
                self._pinned[name] = tuple(targets)
        self.lookups = 0
        self.failures = 0

    def at_hand(self, host: str) -> tuple[Target, ...] | None:
        """What :meth:`resolve` would give at once, or None: ask it. Nearly every request finds its addresses here."""
        if host in self._exact or self._suffix:
            return self._pinned.get(host)
        entry = self._entries.get(host)
        if entry is None or not entry.ips or self._clock.seconds() >= entry.expires:
            return None
        self._entries.move_to_end(host)
        return tuple(map(Target, entry.ips))

    def resolve(self, host: str) -> "Deferred[tuple[Target, ...]]":
        """The addresses of *host* (lower case), never none. Fails with UpstreamUnreachable.

        Cancelling detaches the caller.
        """
        return Deferred.fromCoroutine(self._resolve(host))

    def known(self) -> dict[str, tuple[Target, ...]]:
        """The addresses held, by name: from DNS, and those that the overrides give as IPs."""
        known = {name: tuple(map(Target, entry.ips)) for name, entry in self._entries.items() if entry.ips}
        for name, values in self._exact.items():
            pinned = [(ip_literal(value), port) for value, port in values]
            known[name] = tuple(Target(ip, port) for ip, port in pinned if ip is not None)
        for name, values in self._suffix.items():
            pinned = [(ip_literal(value), port) for value, port in values]
            known["*." + name] = tuple(Target(ip, port) for ip, port in pinned if ip is not None)
        return known

    def has_address(self, ip: str) -> bool:
        """Whether any name has this address at present."""
        return any(target.ip == ip for targets in self.known().values() for target in targets)

    async def _resolve(self, host: str) -> tuple[Target, ...]:
        values = self._exact.get(host)
        if values is None:
            suffix = longest_suffix(host, self._suffix)
            values = [(host, None)] if suffix is None else self._suffix[suffix]
        targets: list[Target] = []
        failure: UpstreamError = UpstreamUnreachable(f"{host} has no address")
        for name, port in values:
            try:
                targets += [Target(ip, port) for ip in await self._addresses(name)]
            except UpstreamError as error:
                failure = error
        if not targets:
            raise failure
        return tuple(targets)

    async def _addresses(self, name: str) -> tuple[str, ...]:
        literal = ip_literal(name)
        if literal is not None:
            return (literal,)
        if name == "localhost" or name.endswith(".localhost"):
            return ("127.0.0.1",)
        if _name(name) is None:
            raise UpstreamUnreachable(f"{name} is not a host name")
        now = self._clock.seconds()
        entry = self._entries.get(name)
        if entry is None:
            entry = self._entries[name] = _Entry()
            self._make_room()
        else:
            self._entries.move_to_end(name)
        if now < entry.expires:
            if entry.ips:
                return entry.ips
            raise UpstreamUnreachable(entry.error or f"{name} has no address")
        if not entry.refreshing:
            self._refresh(name, entry)
        if entry.ips and now < entry.expires + self._max_ttl:
            return entry.ips
        if not entry.refreshing:
            # The look-up has ended already.
            return await self._addresses(name)
        return await self._wait(name, entry)

    def _wait(self, name: str, entry: _Entry) -> "Deferred[tuple[str, ...]]":
        def leave(waiter: "Deferred[tuple[str, ...]]") -> None:
            if waiter in entry.waiting:
                entry.waiting.remove(waiter)

        waiter: Deferred[tuple[str, ...]] = Deferred(leave)
        entry.waiting.append(waiter)

        def overdue() -> None:
            leave(waiter)
            if entry.ips:
                waiter.callback(entry.ips)
            else:
                waiter.errback(UpstreamUnreachable(f"no DNS server told the address of {name} within {_PATIENCE:g} s"))

        limit = self._clock.callLater(_PATIENCE_WITH_OLD if entry.ips else _PATIENCE, overdue)

        def settled(result: Any) -> Any:
            if limit.active():
                limit.cancel()
            return result

        return waiter.addBoth(settled)

    def _refresh(self, name: str, entry: _Entry) -> None:
        entry.refreshing = True
        self.lookups += 1
        self._lookup(name).addCallbacks(
            self._answered, self._unanswered, callbackArgs=(name, entry), errbackArgs=(name, entry)
        ).addErrback(lambda failure: self.log.failure("resolving {name}", failure, name=name))

    def _answered(self, answer: Answer, name: str, entry: _Entry) -> None:
        ttl = max(_MIN_TTL, min(answer.ttl, self._max_ttl)) if answer.ips else _MIN_TTL
        entry.ips = answer.ips
        if not answer.ips:
            entry.error = f"{name} does not exist, or has no address, according to the DNS servers in use"
        self._settle(entry, ttl)

    def _unanswered(self, failure: Failure, name: str, entry: _Entry) -> None:
        self.failures += 1
        reason = failure.getErrorMessage() or str(failure.type)
        self.log.warn("No DNS server told the address of {name}: {reason}", name=name, reason=reason)
        entry.error = f"no DNS server told the address of {name}; see connection_pool.dns_servers"
        self._settle(entry, _MIN_TTL)

    def _settle(self, entry: _Entry, ttl: float) -> None:
        entry.refreshing = False
        entry.expires = self._clock.seconds() + ttl
        waiting, entry.waiting = entry.waiting, []
        for waiter in waiting:
            if entry.ips:
                waiter.callback(entry.ips)
            else:
                waiter.errback(UpstreamUnreachable(entry.error or "no address"))

    def _make_room(self) -> None:
        while len(self._entries) > self._max_names:
            for name, entry in self._entries.items():
                if not entry.refreshing:
                    del self._entries[name]
                    break
            else:
                return
