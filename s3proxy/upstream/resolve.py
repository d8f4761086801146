"""Addresses of hosts: what the configuration says, else what name servers said lately.

The hosts file and the system's resolver may well say that S3 is this proxy; that is how clients come here.
"""

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from s3proxy.telemetry.families import CONNECT_BOUNDS
from s3proxy.telemetry.instruments import Histogram
from s3proxy.upstream.interfaces import UpstreamBusy, UpstreamError, UpstreamUnresolved
from s3proxy.upstream.nameservers import Answer, Lookup
from s3proxy.upstream.routing import OverrideKeys, host_and_port, ip_literal

__all__ = ["Resolver", "Target"]

#: Seconds after which a waiting request is told that there is no answer.
_PATIENCE = 8.0
#: Seconds after which it gets the addresses of a long time ago, if there are such.
_PATIENCE_WITH_OLD = 1.0
#: Seconds for which a name that no server answered about counts as a trouble, if it is not asked for any more.
_REMEMBERED = 300.0
#: Shortest time an answer is used, and the time a failure is.
_MIN_TTL = 5.0
#: Look-ups under way at once. Each holds some descriptors, and clients may name any number of hosts.
MOST_LOOKUPS = 256

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_name = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*\.?\Z").match


@attrs.frozen
class Target:
    """An address to dial; *port* only where the configuration names one."""

    ip: str
    port: int | None = None


@attrs.define
class _Entry:
    ips: tuple[str, ...] = ()
    error: str | None = None
    expires: float = 0.0
    refreshing: bool = False
    unanswered_at: float | None = None
    waiting: "list[Deferred[tuple[str, ...]]]" = attrs.Factory(list)


class Resolver:
    """Addresses by host name: overrides, then a cache in front of *lookup*.

    * An answer holds for its TTL, at least 5 s and at most *max_ttl*. For *max_ttl* more it is still given out while a
      new one is fetched, so that no request waits for DNS in the steady state. After that a request waits for the new
      one for a second at most.
    * One query per name at a time. A waiter that is cancelled leaves the others alone.
    * When no server answers, the last addresses go on being used; a name without any fails for 5 s.
    * ``localhost`` and names below it are the loopback address (RFC 6761 6.3).

    :param overrides: host or ``*.suffix``, perhaps with ``:port``, to ``IP``, ``IP:port``, ``[IPv6]:port``, ``name`` or
        ``name:port``
    :param max_names: names kept; those used least recently are dropped
    :param seconds: gets the time that each look-up takes
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        lookup: Lookup,
        overrides: Mapping[str, Sequence[str]],
        max_ttl: float = 60.0,
        max_names: int = 10000,
        seconds: Histogram | None = None,
    ) -> None:
        self._clock = clock
        self._lookup = lookup
        self._max_ttl = max(max_ttl, 0.0)
        self._max_names = max(max_names, 1)
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._keys = OverrideKeys(overrides)
        self._overrides = {key: [host_and_port(value) for value in values] for key, values in overrides.items()}
        # Those of their targets that are addresses.
        self._pinned: dict[str, tuple[Target, ...]] = {}
        for key, pairs in self._overrides.items():
            targets = (Target(ip, port) for value, port in pairs if (ip := ip_literal(value)) is not None)
            self._pinned[key] = tuple(targets)
        self._under_way = 0
        self.lookups = 0
        self.failures = 0
        self._seconds = seconds or Histogram(CONNECT_BOUNDS)

    def at_hand(self, host: str, port: int | None = None) -> tuple[Target, ...] | None:
        """What :meth:`resolve` would give at once, or None: ask it. Nearly every request finds its addresses here."""
        key = self._keys.find(host, port) if self._overrides else None
        if key is not None:
            pinned = self._pinned[key]
            return pinned if len(pinned) == len(self._overrides[key]) else None
        entry = self._entries.get(host)
        if entry is None or not entry.ips or self._clock.seconds() >= entry.expires:
            return None
        self._entries.move_to_end(host)
        return tuple(map(Target, entry.ips))

    def resolve(self, host: str, port: int | None = None) -> "Deferred[tuple[Target, ...]]":
        """The addresses of *host* (lower case), never none. Fails with UpstreamUnreachable.

        Cancelling detaches the caller.

        :param port: that the client named: it may be that of an override
        """
        return Deferred.fromCoroutine(self._resolve(host, port))

    def known(self) -> dict[str, tuple[Target, ...]]:
        """The addresses held, by name: from DNS, and those that the overrides give as IPs."""
        known = {name: tuple(map(Target, entry.ips)) for name, entry in self._entries.items() if entry.ips}
        return {**known, **self._pinned}

    def has_address(self, ip: str) -> bool:
        """Whether any name has this address at present."""
        return any(target.ip == ip for targets in self.known().values() for target in targets)

    def unanswered(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names about which no server had an answer the last time, lately: those whose former addresses are still in
        use, and those without any.
        """
        now = self._clock.seconds()
        names = [
            (name, bool(entry.ips))
            for name, entry in self._entries.items()
            if entry.unanswered_at is not None and now - entry.unanswered_at < _REMEMBERED
        ]
        return tuple(name for name, old in names if old), tuple(name for name, old in names if not old)

    async def _resolve(self, host: str, asked: int | None) -> tuple[Target, ...]:
        key = self._keys.find(host, asked)
        values: Sequence[tuple[str, int | None]] = [(host, None)] if key is None else self._overrides[key]
        targets: list[Target] = []
        failure: UpstreamError = UpstreamUnresolved(f"{host} has no address")
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
            raise UpstreamUnresolved(f"{name} is not a host name")
        now = self._clock.seconds()
        entry = self._entries.get(name)
        if entry is None:
            self._check_room()
            entry = self._entries[name] = _Entry()
            self._make_room()
        else:
            self._entries.move_to_end(name)
        if now < entry.expires:
            if entry.ips:
                return entry.ips
            raise UpstreamUnresolved(entry.error or f"{name} has no address")
        if not entry.refreshing:
            if not entry.ips:
                self._check_room()
            elif self._under_way >= MOST_LOOKUPS:
                return entry.ips
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
                waiter.errback(UpstreamUnresolved(f"no DNS server told the address of {name} within {_PATIENCE:g} s"))

        limit = self._clock.callLater(_PATIENCE_WITH_OLD if entry.ips else _PATIENCE, overdue)

        def settled(result: Any) -> Any:
            if limit.active():
                limit.cancel()
            return result

        return waiter.addBoth(settled)

    def _refresh(self, name: str, entry: _Entry) -> None:
        entry.refreshing = True
        self._under_way += 1
        self.lookups += 1
        began = self._clock.seconds()

        def over(result: Any) -> Any:
            self._seconds.observe(self._clock.seconds() - began)
            return result

        self._lookup(name).addBoth(over).addCallbacks(
            self._answered, self._unanswered, callbackArgs=(name, entry), errbackArgs=(name, entry)
        ).addErrback(lambda failure: self.log.failure("resolving {name}", failure, name=name))

    def _answered(self, answer: Answer, name: str, entry: _Entry) -> None:
        ttl = max(_MIN_TTL, min(answer.ttl, self._max_ttl)) if answer.ips else _MIN_TTL
        entry.ips = answer.ips
        entry.unanswered_at = None
        if not answer.ips:
            entry.error = f"{name} does not exist, or has no address, according to the DNS servers in use"
        self._settle(entry, ttl)

    def _unanswered(self, failure: Failure, name: str, entry: _Entry) -> None:
        self.failures += 1
        entry.unanswered_at = self._clock.seconds()
        reason = failure.getErrorMessage() or str(failure.type)
        self.log.warn("No DNS server told the address of {name}: {reason}", name=name, reason=reason)
        entry.error = f"no DNS server told the address of {name}; see connection_pool.dns_servers"
        self._settle(entry, _MIN_TTL)

    def _settle(self, entry: _Entry, ttl: float) -> None:
        entry.refreshing = False
        self._under_way -= 1
        entry.expires = self._clock.seconds() + ttl
        waiting, entry.waiting = entry.waiting, []
        for waiter in waiting:
            if entry.ips:
                waiter.callback(entry.ips)
            else:
                waiter.errback(UpstreamUnresolved(entry.error or "no address"))

    def _check_room(self) -> None:
        if self._under_way >= MOST_LOOKUPS:
            raise UpstreamBusy(f"{MOST_LOOKUPS} names are being looked up already")

    def _make_room(self) -> None:
        while len(self._entries) > self._max_names:
            for name, entry in self._entries.items():
                if not entry.refreshing:
                    del self._entries[name]
                    break
            else:
                return
