"""Which of a host's addresses to use next: in turn, and around those that keep failing (pure; time is an argument)."""

from collections.abc import Sequence

import attrs

__all__ = ["AddressHealth"]

#: IP and port.
Address = tuple[str, int]


@attrs.define
class _Trouble:
    failures: int = 0
    cooldown: float = 0.0
    until: float = 0.0
    last: float = 0.0


class AddressHealth:
    """Counts consecutive failures per address, whatever the host.

    After *threshold* of them an address is left out for *initial_cooldown* seconds. Then it is offered again; one more
    failure leaves it out for twice as long, up to *max_cooldown*; a success forgets everything.
    """

    def __init__(self, threshold: int, initial_cooldown: float, max_cooldown: float, max_hosts: int = 10000) -> None:
        self._threshold = max(threshold, 1)
        self._initial = initial_cooldown
        self._max = max_cooldown
        self._max_hosts = max_hosts
        self._troubles: dict[Address, _Trouble] = {}
        self._turns: dict[str, int] = {}

    def in_order(self, host: str, addresses: Sequence[Address], now: float, rotate: bool = True) -> list[Address]:
        """All addresses, best first: those in use, in turn or as listed, then the excluded ones, soonest back first."""
        if rotate and len(addresses) > 1:
            if len(self._turns) >= self._max_hosts and host not in self._turns:
                self._turns.clear()
            turn = self._turns.get(host, -1) + 1
            self._turns[host] = turn
            at = turn % len(addresses)
            addresses = [*addresses[at:], *addresses[:at]]
        if not self._troubles:
            return list(addresses)
        return sorted(addresses, key=lambda address: self._out_until(address, now))

    def excluded(self, address: Address, now: float) -> bool:
        """Whether the address is left out at present."""
        return self._out_until(address, now) > 0.0

    def failed(self, address: Address, now: float) -> bool:
        """Note a failure to connect, to shake hands or to answer. True when it has just caused an exclusion."""
        trouble = self._troubles.get(address)
        if trouble is None:
            if len(self._troubles) >= self._max_hosts:
                self.forget_settled(now)
            trouble = self._troubles[address] = _Trouble()
        trouble.failures += 1
        trouble.last = now
        if trouble.failures < self._threshold or trouble.until > now:
            return False
        trouble.cooldown = min(max(trouble.cooldown * 2, self._initial), self._max)
        trouble.until = now + trouble.cooldown
        return True

    def succeeded(self, address: Address) -> bool:
        """Note an answer. True when the address had been excluded before."""
        trouble = self._troubles.pop(address, None)
        return trouble is not None and trouble.cooldown > 0.0

    def all_excluded(self, now: float) -> list[Address]:
        """The addresses left out at present."""
        return [address for address in self._troubles if self._out_until(address, now) > 0.0]

    def forget_settled(self, now: float) -> None:
        """Drop what is known of addresses that have not failed for longer than the longest cooldown."""
        for address, trouble in list(self._troubles.items()):
            if max(trouble.until, trouble.last) + self._max < now:
                del self._troubles[address]

    def _out_until(self, address: Address, now: float) -> float:
        trouble = self._troubles.get(address)
        return trouble.until if trouble is not None and trouble.until > now else 0.0
