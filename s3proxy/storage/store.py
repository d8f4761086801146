"""The store on one local file system: entries and ranges of bytes, by name."""

from collections.abc import Callable

from s3proxy.storage.balance import Balance
from s3proxy.storage.claims import Claim, ClaimedRange, Flight, find_claims, look_at_flight, make_claim
from s3proxy.storage.counting import Counting
from s3proxy.storage.entry import EntryFacts, StoredEntry
from s3proxy.storage.eviction import Evictor
from s3proxy.storage.invalidation import Arm, Renewal, arm, drop, prepare_renewal
from s3proxy.storage.layout import EntryName
from s3proxy.storage.lease import Lease, take_lease
from s3proxy.storage.packing import republish
from s3proxy.storage.peers import PATIENCE, Peers
from s3proxy.storage.publish import make_header, publish_head, publish_inline, publish_ranges
from s3proxy.storage.reaper import Reaper
from s3proxy.storage.recency import RecencyLog, Use, write_uses
from s3proxy.storage.record import HEAD, INLINE, RANGES
from s3proxy.storage.salvage import salvage
from s3proxy.storage.scan import Scan
from s3proxy.storage.share import WriteShare
from s3proxy.storage.shelves import Shelves
from s3proxy.storage.staging import Staging
from s3proxy.storage.sweeper import Sweeper
from s3proxy.storage.unread import mark_read
from s3proxy.storage.upload import HeldBytes, Upload, start_upload
from s3proxy.storage.volume import SMALL_BODY, Volume
from s3proxy.storage.writer import InlineWriter, RangeWriter
from s3proxy.util.intervals import Interval

__all__ = ["DiskStore", "LEASE_SECONDS"]

LEASE_SECONDS = 20.0
_HANDLE_SECONDS = 60.0
_TOUCH_SECONDS = 600.0


class DiskStore(Shelves):
    """Entries on disk. Every call is blocking and thread-safe.

    :meth:`load`, :meth:`lease`, :meth:`arm`, :meth:`drop`, :meth:`prepare_renewal`, :meth:`ranges`, :meth:`open_range`
    and :meth:`open_inline` take some microseconds on a local file system. What writes bodies or may have to evict
    belongs in a thread. Any call may raise :class:`OSError` when the disk does not do what it should; nothing wrong is
    ever published or returned then.

    Periodic duties of the owner, all in a thread: :meth:`pulse` every second, :meth:`flush_recency` about every ten
    seconds, ``sweeper.run()`` whenever ``sweeper.due()`` says so, and the steps of :meth:`scan` after a start.
    """

    def __init__(
        self,
        volume: Volume,
        balance: Balance,
        evictor: Evictor,
        log: RecencyLog,
        sweeper: Sweeper,
        reaper: Reaper,
        share: WriteShare,
        peers: Peers,
        *,
        cut: int,
        lease_seconds: float,
        was_clean: bool,
        founder: bool = True,
    ) -> None:
        super().__init__(volume, evictor, lease_seconds)
        self.sweeper = sweeper
        self.cut = cut
        self.inline_max = min(volume.format.inline_max, cut)
        self._balance = balance
        self._log = log
        self._reaper = reaper
        self._share = share
        self._peers = peers
        self.held = HeldBytes()
        self._read: set[EntryName] = set()
        self._was_clean = was_clean
        self._founder = founder
        self._beat_at = volume.now()

    @property
    def root(self) -> str:
        """The cache directory."""
        return self.volume.root

    # Publishing

    def lease(self, name: EntryName, *, asks: Interval | None = None, instead_of: int | None = None) -> Lease | None:
        """Take the right to publish under ``name``: before the request is sent whose answer may be published.

        None: somebody holds it, and showed life within the last 20 seconds.

        :param asks: the bytes of the object that are going to be asked for; None: others have nothing to wait for
        :param instead_of: the nonce of a flight whose owner has been waited for long enough
        """
        with self.volume.lock(name):
            return take_lease(self.volume, name, self._lease_seconds, asks=asks, instead_of=instead_of)

    def has(self, name: EntryName) -> bool:
        """Whether anything is published under ``name``.

        :raises OSError: the disk failed
        """
        return self.volume.inode(self.volume.entry_path(name)) is not None

    def flight(self, name: EntryName) -> Flight | None:
        """What another process is about to publish under ``name``; None: nothing, as far as can be told.

        :raises OSError: the disk failed
        """
        return look_at_flight(self.volume, name)

    def claims(self, entry: StoredEntry) -> tuple[ClaimedRange, ...]:
        """The ranges of an entry that other processes are getting.

        :raises OSError: the disk failed
        """
        return find_claims(self.volume, entry)

    def salvage(self, claim: ClaimedRange) -> int:
        """The owner of a claim has died: keep what he has written; returns how many bytes. Takes its time.

        :raises OSError: the disk failed; a scan finds what is left
        """
        return salvage(self.volume, self.evictor, claim)

    def claim(self, name: EntryName, generation: int, interval: Interval) -> Claim | None:
        """Show other processes that this one is getting these bytes of an entry. None: the disk refuses."""
        return make_claim(self.volume, name, generation, interval)

    def publish_inline(
        self,
        lease: Lease,
        *,
        meta: bytes,
        object_size: int,
        validated_at: float,
        observed_at: float,
        unconfirmed: bool = False,
        body: list[bytes],
        promptly: bool = False,
    ) -> StoredEntry | None:
        """Publish an entry with its whole body at once. None: the lease was revoked, or there is no room. Ends the
        lease.

        :param promptly: only if nothing has to be evicted for it: then it takes some microseconds, too
        :raises NotNow: promptly, and something has to be evicted; the lease still stands
        """
        facts = EntryFacts(
            meta=meta,
            object_size=object_size,
            validated_at=validated_at,
            observed_at=observed_at,
            unconfirmed=unconfirmed,
        )
        with self.volume.counts.timed("meta_write"):
            return publish_inline(self.volume, self.evictor, lease, body, facts, promptly=promptly)

    def publish_head(
        self,
        lease: Lease,
        *,
        meta: bytes,
        object_size: int,
        validated_at: float,
        observed_at: float,
        unconfirmed: bool = False,
    ) -> StoredEntry | None:
        """Publish metadata alone. None: the lease was revoked, or there is no room. Ends the lease."""
        facts = EntryFacts(
            meta=meta,
            object_size=object_size,
            validated_at=validated_at,
            observed_at=observed_at,
            unconfirmed=unconfirmed,
        )
        with self.volume.counts.timed("meta_write"):
            return publish_head(self.volume, self.evictor, lease, facts)

    def publish_ranges(
        self,
        lease: Lease,
        *,
        meta: bytes,
        object_size: int,
        validated_at: float,
        observed_at: float,
        unconfirmed: bool = False,
        generation: int | None = None,
        prepare: Callable[[int], None] | None = None,
    ) -> StoredEntry | None:
        """Publish an entry whose body will come as ranges. None: the lease was revoked, or there is no room. Ends the
        lease.

        :param generation: keep the ranges of this generation, of the same version of the object; None: begin without
            any
        :param prepare: called with the number of a new generation before anybody sees it
        """
        facts = EntryFacts(
            meta=meta,
            object_size=object_size,
            validated_at=validated_at,
            observed_at=observed_at,
            unconfirmed=unconfirmed,
        )
        with self.volume.counts.timed("meta_write"):
            return publish_ranges(self.volume, self.evictor, lease, facts, generation=generation, prepare=prepare)

    def start_inline(
        self,
        lease: Lease,
        *,
        meta: bytes,
        object_size: int,
        validated_at: float,
        observed_at: float,
        unconfirmed: bool = False,
    ) -> InlineWriter:
        """Begin an entry whose body, of ``object_size`` bytes, grows in the flight file. The writer owns the lease from
        now on.

        :raises OSError: the file could not be written; the lease is over
        """
        facts = EntryFacts(
            meta=meta,
            object_size=object_size,
            validated_at=validated_at,
            observed_at=observed_at,
            unconfirmed=unconfirmed,
        )
        return self._start_inline(lease, facts)

    def _start_inline(self, lease: Lease, facts: EntryFacts) -> InlineWriter:
        header = make_header(self.volume, lease, INLINE, facts, body_length=facts.object_size)
        try:
            return InlineWriter(self.volume, self.evictor, lease, header, facts)
        except OSError:
            lease.release()
            raise

    def start_range(self, entry: StoredEntry, start: int, length: int) -> RangeWriter:
        """Begin a range of an entry of kind RANGES. It must not cross a multiple of :attr:`cut`.

        :raises FileNotFoundError: the entry was replaced or evicted
        :raises OSError: the file could not be made
        """
        if (
            length <= 0
            or start < 0
            or start // self.cut != (start + length - 1) // self.cut
            or start + length > entry.object_size
        ):
            raise ValueError(f"no range of {length} bytes can start at {start}")
        return RangeWriter.start_range(self.volume, self.evictor, entry, start, length)

    def replace_meta(
        self,
        entry: StoredEntry,
        lease: Lease,
        *,
        meta: bytes,
        validated_at: float,
        observed_at: float,
        unconfirmed: bool = False,
    ) -> StoredEntry | None:
        """Publish ``entry`` again with other metadata and the body that it has. None: it can't be. Ends the lease.

        What nobody has read stays unread.
        """
        facts = EntryFacts(
            meta=meta,
            object_size=entry.object_size,
            validated_at=validated_at,
            observed_at=observed_at,
            unconfirmed=unconfirmed,
            unread=entry.unread,
        )
        if entry.kind == HEAD:
            return publish_head(self.volume, self.evictor, lease, facts)
        if entry.kind == RANGES:
            return publish_ranges(self.volume, self.evictor, lease, facts, generation=entry.generation)
        return republish(self.volume, self.evictor, lease, entry, facts)

    # Uploads

    def start_upload(self, name: EntryName, size: int) -> Upload | None:
        """Begin to keep the body of an object that is being uploaded. None: it can't fit.

        Up to :attr:`inline_max` bytes it takes some microseconds; more belongs in a thread, as it may evict.

        :raises OSError: the disk failed
        """
        memory_max = min(SMALL_BODY, self.inline_max)
        return start_upload(
            self.volume,
            self._share,
            name,
            size,
            memory_max=memory_max,
            inline_max=self.inline_max,
            cut=self.cut,
            held=self.held,
        )

    def staging(self, name: EntryName, upload_id: bytes) -> Staging:
        """The parts of a multipart upload that are on disk. Costs nothing."""
        return Staging(self.volume, self._share, name, upload_id, self.cut)

    def read_first(self, entry: StoredEntry) -> None:
        """Somebody reads an entry that is ``unread``: it leaves the share of what was written with the next
        :meth:`flush_recency`. Costs nothing.
        """
        if entry.unread:
            self._read.add(entry.name)

    # Confirming and invalidating

    def prepare_renewal(
        self, name: EntryName, *, asks: Interval | None = None, instead_of: int | None = None
    ) -> Renewal | None:
        """Begin to confirm an entry: before the question is asked. None: there is no entry, or somebody else holds the
        lease.

        The other arguments are those of :meth:`lease`.
        """
        return prepare_renewal(self.volume, name, self._lease_seconds, asks=asks, instead_of=instead_of)

    def arm(self, name: EntryName) -> Arm:
        """An object is about to be changed: until the :class:`Arm` ends, its entry is unconfirmed and can't be
        confirmed or replaced.

        :raises StoreError: the entry may still look fresh; nothing may be served from the directory
        """
        return arm(self.volume, name, self._lease_seconds)

    def void(self, name: EntryName) -> None:
        """An object changed: what anybody has asked of S3 about it before is not to be handed to those who ask from now
        on. Costs nothing.
        """
        self.volume.void(name)

    def drop(self, name: EntryName) -> None:
        """An object changed, or may have: remove its entry, and let nobody publish what was asked for before.

        :raises StoreError: the entry may still be there; nothing may be served from the directory
        """
        with self.volume.counts.timed("delete"):
            drop(self.volume, name)

    # Room

    def touched(self, name: EntryName, start: int) -> None:
        """A hit: the stored range that begins at ``start`` (0 for an inline entry) was used again."""
        self._log.touched(name.digest, start, self.volume.now())

    def flush_recency(self) -> int:
        """Put the uses since the last call on disk, and close files that nobody asked for lately. Returns how many
        entries were written.
        """
        ledger = self.volume.ledger
        self.volume.handles.expire(self.volume.now() - _HANDLE_SECONDS)
        self.volume.handles.forget_unlinked(self.volume.calls)
        read, self._read = self._read, set()
        for name in read:
            mark_read(self.volume, name)
        interval = max(_TOUCH_SECONDS, self.evictor.oldest_age / 16)
        written = write_uses(self.volume, self._log, interval)
        self._balance.ensure(ledger.committed)
        if self._founder:
            self.evictor.spare_files()
        if self._founder and ledger.complete:
            self._balance.lower(ledger.committed)
        return written

    def tell_uses(self, told: Callable[[list[Use]], None]) -> None:
        """Whoever decides for this process what is kept wants to know what is used, with each :meth:`flush_recency` and
        in its thread.
        """
        self._log.told = told

    def heard_of(self, uses: list[Use]) -> None:
        """Another process, for which this one decides what is kept, has used these."""
        self._log.absorb(uses)

    # Duties

    def pulse(self) -> None:
        """Show that this process, and each file that it is writing, is alive.

        :raises StoreError: the directory is gone
        :raises OSError: the directory can't be written to
        """
        self.volume.check()
        for item in list(self.volume.live):
            item.touch()
        now = self.volume.now()
        if now - self._beat_at >= LEASE_SECONDS / 4:
            self._beat_at = now
            self.volume.instance.beat()
        self._peers.exchange(now)

    def lost_a_peer(self) -> bool:
        """Whether another instance has died since the last call: what it did last nobody knows, and what it was at work
        on lies about. Then a :meth:`scan` with a new count is due.
        """
        lost, self._peers.lost = self._peers.lost, False
        return lost

    def scan(self, *, again: bool = False, recount: bool = False, patience: float = PATIENCE) -> Scan:
        """A pass over the directory, to be stepped through after a start. Entries are examined unless the last stop was
        a clean one.

        :param again: after a process has died with which this one shares the ledger
        :param recount: the ledger may be wrong: count everything anew
        :param patience: seconds for which other instances are waited for, to tell what they did meanwhile
        """
        counting = Counting(self.volume, self._peers, patience)
        verify = again or not self._was_clean
        return Scan(
            self.volume, self._reaper, self._peers, self.evictor, counting, verify=verify, recount=recount
        )  # fmt: skip

    def close(self) -> None:
        """Close what is kept open and note how full the directory is. Nothing may be used afterwards. Never raises."""
        self.volume.handles.close()
        self.volume.empty_trash()
        self._peers.close()
        if self._founder and self.volume.ledger.complete:
            self._balance.close(self.usage())
        self.volume.instance.stop()
