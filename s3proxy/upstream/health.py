"""Which of a host's addresses to use next: in turn, and around those that keep failing (pure; time is an argument)."""

from collections.abc import Sequence

import attrs

__all__ = ["Address", "AddressHealth"]

#: IP and port.
Address = tuple[str, int]


@attrs.define
class _Trouble:
    """``cooldown``: 0 while the address is in use; else the seconds between the last probe and the next."""

    failures: int = 0
    cooldown: float = 0.0
    since: float = 0.0
    next_probe: float = 0.0
    last: float = 0.0


class AddressHealth:
    """Counts consecutive failures per address, whatever the host.

    After *threshold* of them an address is left out until it answers again, to a probe or, where no other address is
    left, to a request. It is probed after *initial_cooldown* seconds, and after twice as long with each probe that
    fails, up to *max_cooldown*; a success forgets everything.
    """

    def __init__(self, threshold: int, initial_cooldown: float, max_cooldown: float, max_hosts: int = 10000) -> None:
        self._threshold = max(threshold, 1)
        self._initial = initial_cooldown
        self._max = max(initial_cooldown, max_cooldown)
        self._max_hosts = max_hosts
        self._troubles: dict[Address, _Trouble] = {}
        self._turns: dict[str, int] = {}

    def in_order(
        self, host: str, addresses: Sequence[Address], rotate: bool = True, again: bool = False
    ) -> list[Address]:
        """All addresses, best first: those in use, in turn or as listed, then the excluded ones, soonest probed first.

        :param host: whose turn it is; hosts begin at different addresses, or many hosts that are used little, such as
            buckets, would all prefer the same one
        :param again: for a request that has been sent before: it takes nobody's turn, or with two addresses the one
            that fails would be the first choice of every request
        """
        if rotate and len(addresses) > 1:
            turn = self._turns.get(host)
            if turn is None:
                if len(self._turns) >= self._max_hosts:
                    self._turns.clear()
                turn = len(self._turns)
            self._turns[host] = turn if again else turn + 1
            at = turn % len(addresses)
            addresses = [*addresses[at:], *addresses[:at]]
        if not self._troubles:
            return list(addresses)
        return sorted(addresses, key=self._next_probe)

    def excluded(self, address: Address) -> bool:
        """Whether the address is left out at present."""
        trouble = self._troubles.get(address)
        return trouble is not None and trouble.cooldown > 0.0

    def failed(self, address: Address, now: float) -> float | None:
        """Note a failure to connect, to shake hands or to answer.

        :returns: when it has just caused an exclusion, the seconds until the address is to be probed; else None
        """
        trouble = self._troubles.get(address)
        if trouble is None:
            if len(self._troubles) >= self._max_hosts:
                self.forget_settled(now)
            trouble = self._troubles[address] = _Trouble()
        trouble.failures += 1
        trouble.last = now
        if trouble.failures < self._threshold or trouble.cooldown > 0.0:
            return None
        trouble.cooldown = self._initial
        trouble.since = now
        trouble.next_probe = now + trouble.cooldown
        return trouble.cooldown

    def probe_failed(self, address: Address, now: float) -> float | None:
        """Note that an excluded address does not answer yet.

        :returns: seconds until the next probe; None: the address is not excluded (any more)
        """
        trouble = self._troubles.get(address)
        if trouble is None or trouble.cooldown == 0.0:
            return None
        trouble.cooldown = min(trouble.cooldown * 2, self._max)
        trouble.last = now
        trouble.next_probe = now + trouble.cooldown
        return trouble.cooldown

    def succeeded(self, address: Address) -> bool:
        """Note an answer, or a probe that reached it. True when the address had been excluded before."""
        trouble = self._troubles.pop(address, None)
        return trouble is not None and trouble.cooldown > 0.0

    def forget(self, address: Address) -> None:
        """Nobody uses the address any more."""
        self._troubles.pop(address, None)

    def all_excluded(self) -> dict[Address, tuple[float, float]]:
        """The addresses left out at present, with the times since when, and of the next probe."""
        return {
            address: (trouble.since, trouble.next_probe)
            for address, trouble in self._troubles.items()
            if trouble.cooldown > 0.0
        }

    def forget_settled(self, now: float) -> None:
        """Drop what is known of addresses in use that have not failed for longer than the longest cooldown."""
        for address, trouble in list(self._troubles.items()):
            if trouble.cooldown == 0.0 and trouble.last + self._max < now:
                del self._troubles[address]

    def _next_probe(self, address: Address) -> float:
        trouble = self._troubles.get(address)
        return trouble.next_probe if trouble is not None and trouble.cooldown > 0.0 else 0.0
