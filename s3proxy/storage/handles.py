"""Open files that several readers share, and the bounded set of those kept open."""

import threading
from collections import OrderedDict

import attrs

from s3proxy.storage.files import SystemCalls
from s3proxy.storage.seal import Seal

__all__ = ["HandleCache", "OpenFile", "RangeKey", "ReadHandle"]


class OpenFile:
    """A descriptor that is closed when the last of its users has let go. Born with one user. Thread-safe.

    :ivar seal: what is known of its blocks; None: they are being written, by this process
    """

    __slots__ = ("_calls", "_lock", "_users", "fd", "seal")

    def __init__(self, calls: SystemCalls, fd: int) -> None:
        self.fd = fd
        self.seal: Seal | None = None
        self._calls = calls
        self._lock = threading.Lock()
        self._users = 1

    def acquire(self) -> bool:
        """One more user; False when the file is closed already."""
        with self._lock:
            if self._users == 0:
                return False
            self._users += 1
            return True

    def release(self) -> None:
        """One user less. The last one closes the descriptor."""
        with self._lock:
            self._users -= 1
            last = self._users == 0
        if last:
            self._calls.close(self.fd)


class ReadHandle:
    """Bytes [start, stop) of an object, readable from ``fd``: the byte at ``start`` is at file offset ``base``, unless
    the ``seal`` says that they are encoded.

    The descriptor stays open until :meth:`close`, whatever happens to the file's name. The promise about ``stop`` is
    that of whoever made the handle: of a growing file, only what its writer has written can be read.
    """

    __slots__ = ("_file", "base", "fd", "seal", "start", "stop")

    def __init__(self, file: OpenFile, base: int, start: int, stop: int) -> None:
        self._file: OpenFile | None = file
        self.fd = file.fd
        self.seal = file.seal
        self.base = base
        self.start = start
        self.stop = stop

    def share(self) -> "ReadHandle":
        """One more hold of the same bytes. This one must not be closed yet."""
        assert self._file is not None
        self._file.acquire()
        return ReadHandle(self._file, self.base, self.start, self.stop)

    def close(self) -> None:
        """Let go. Idempotent."""
        file, self._file = self._file, None
        if file is not None:
            file.release()


@attrs.frozen
class RangeKey:
    """Which range file of which generation."""

    digest: bytes
    generation: int
    start: int
    stop: int


class HandleCache:
    """At most ``limit`` range files kept open and known to be sound. The least recently used one goes first.
    Thread-safe.
    """

    def __init__(self, limit: int = 512) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._files: OrderedDict[RangeKey, tuple[OpenFile, float]] = OrderedDict()
        self._by_entry: dict[bytes, set[RangeKey]] = {}

    def __len__(self) -> int:
        return len(self._files)

    def get(self, key: RangeKey, now: float) -> OpenFile | None:
        """The open file, with one more user, or None."""
        with self._lock:
            found = self._files.get(key)
            if found is None:
                return None
            self._files[key] = (found[0], now)
            self._files.move_to_end(key)
            found[0].acquire()
            return found[0]

    def put(self, key: RangeKey, file: OpenFile, now: float) -> None:
        """Keep a sound file open; the cache becomes one more user. A file that is kept already stays."""
        evicted: list[OpenFile] = []
        with self._lock:
            if key in self._files or not file.acquire():
                return
            self._files[key] = (file, now)
            self._by_entry.setdefault(key.digest, set()).add(key)
            while len(self._files) > self._limit:
                evicted.append(self._pop(next(iter(self._files))))
        for old in evicted:
            old.release()

    def forget(self, digest: bytes) -> None:
        """Let go of every file of an entry."""
        if digest not in self._by_entry:
            return
        with self._lock:
            files = [self._pop(key) for key in list(self._by_entry.get(digest, ()))]
        for file in files:
            file.release()

    def forget_range(self, key: RangeKey) -> None:
        """Let go of one file."""
        with self._lock:
            file = self._pop(key) if key in self._files else None
        if file is not None:
            file.release()

    def expire(self, before: float) -> None:
        """Let go of files that were last asked for before that time."""
        with self._lock:
            old = [self._pop(key) for key in [key for key, (_, used) in self._files.items() if used < before]]
        for file in old:
            file.release()

    def forget_unlinked(self, calls: SystemCalls) -> int:
        """Let go of files that have no name any more, because another process has removed it: they keep their space.
        Returns how many there were.
        """
        with self._lock:
            held = list(self._files.items())
        gone = []
        for key, (file, _) in held:
            # It must not be closed, and its number belong to another file, while it is looked at.
            if not file.acquire():
                continue
            try:
                if calls.fstat(file.fd).st_nlink == 0:
                    gone.append((key, file))
            except OSError:
                gone.append((key, file))
            finally:
                file.release()
        with self._lock:
            files = [self._pop(key) for key, file in gone if key in self._files and self._files[key][0] is file]
        for file in files:
            file.release()
        return len(files)

    def close(self) -> None:
        """Let go of everything."""
        self.expire(float("inf"))

    def _pop(self, key: RangeKey) -> OpenFile:
        file, _ = self._files.pop(key)
        keys = self._by_entry[key.digest]
        keys.discard(key)
        if not keys:
            del self._by_entry[key.digest]
        return file
