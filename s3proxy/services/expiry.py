"""Objects whose time is over are removed once a day, where that is wanted (``cache.actively_remove_cached_data``)."""

from collections.abc import Callable, Iterator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from s3proxy.cache.entry import decode_version
from s3proxy.config.model import Cache
from s3proxy.policy.freshness import freshness_lifetime
from s3proxy.policy.rules import Rules
from s3proxy.s3.address import ObjectAddress
from s3proxy.services.scrubbing import LONGEST_WAIT, Upkeep
from s3proxy.storage.disk import DiskStore
from s3proxy.storage.listing import Named, describe, named_in, shards_of

__all__ = ["Expiry"]

FIRST = 600.0
"""Seconds from the start to the first pass."""
EVERY = 86400.0
"""Seconds from one pass to the next."""
ENTRIES = 200
"""Entries that are looked at in one go."""
REST = 0.05
"""Seconds between two goes."""


class Expiry(Upkeep):
    """Looks at every entry, and removes those that S3 would have to be asked about anyway.

    :ivar rules: say how long objects stay fresh; None: not known yet
    :ivar removed: entries so far
    """

    def __init__(
        self,
        reactor: Any,
        run: Callable[..., "Deferred[Any]"],
        failed: Callable[[Failure], Any],
        store: DiskStore,
        config: Cache,
    ) -> None:
        super().__init__(reactor, run, failed)
        self.rules: Rules | None = None
        self.removed = 0
        self._store = store
        self._enabled = config.actively_remove_cached_data
        self._due_at = reactor.seconds() + FIRST
        self._pass: Iterator[Named] | None = None

    def reconfigure(self, config: Cache) -> None:
        """Whether this is wanted needs a restart."""

    async def _step(self) -> float:
        now = self._reactor.seconds()
        rules = self.rules
        if not self._enabled or rules is None:
            return LONGEST_WAIT
        if now < self._due_at:
            return min(LONGEST_WAIT, float(self._due_at - now))
        entries = self._pass = self._pass or self._entries()
        if await self._run(lambda: self._store.evictor.alone(lambda: self._look(rules, entries))):
            self._pass = None
            self._due_at = now + EVERY
            self.log.info("expired objects that were removed so far: {count}", count=self.removed)
        return REST

    def _entries(self) -> Iterator[Named]:
        volume = self._store.volume
        for _, path, _ in shards_of(volume):
            yield from named_in(volume, path)

    def _look(self, rules: Rules, entries: Iterator[Named]) -> bool:
        """In a thread. Whether the pass is over."""
        for _ in range(ENTRIES):
            named = next(entries, None)
            if named is None:
                return True
            if self._is_expired(rules, named) and self._store.volume.remove_entry(named.name, inode=named.inode):
                self.removed += 1
        return False

    def _is_expired(self, rules: Rules, named: Named) -> bool:
        listed = describe(self._store.volume, named.name)
        version = None if listed is None else decode_version(listed.meta)
        if listed is None or version is None:
            return False
        id = version.id
        settings = rules.resolve(ObjectAddress(store=id.store, bucket=id.bucket, key=id.key))
        confirmed_at = listed.validated_at or listed.observed_at
        lifetime = freshness_lifetime(
            settings, version.headers, confirmed_at, head=not listed.held, unconfirmed=listed.unconfirmed
        )
        return self._store.volume.now() > confirmed_at + lifetime + settings.stale_if_error
