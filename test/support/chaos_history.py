"""What every object was and when, and what a reader may therefore see of it."""

import hashlib
import itertools
import threading
import time
from collections import deque
from test.support.content import content

import attrs

__all__ = ["BEHIND", "History", "Log", "Version", "Wrong"]

BEHIND = -1
"""The number of no instance: the object was changed at S3 itself."""
_STEP = 4099


class Wrong(Exception):
    """An instance gave something that it must not give."""


class Log:
    """The last operations, for people who look for the reason of a fault."""

    def __init__(self, size: int = 4000) -> None:
        self._lines: deque[tuple[float, str, str]] = deque(maxlen=size)
        self.began = time.monotonic()

    def add(self, subject: str, text: str) -> None:
        """Something happened now."""
        self._lines.append((time.monotonic() - self.began, subject, text))

    def about(self, subject: str, most: int = 60) -> str:
        """The last lines about an object, and about what was done to the instances."""
        lines = [line for line in self._lines if line[1] in (subject, "chaos")][-most:]
        return "\n".join(f"{at:9.3f} {each} {text}" for at, each, text in lines)


@attrs.define(eq=False)
class Version:
    """A state of an object; without an ETag: there is none.

    Times are those of the monotonic clock.

    :ivar begun: S3 may have it since then
    :ivar known: S3 has it since then at the latest
    :ivar by: through which instance it came, or BEHIND
    """

    number: int
    size: int
    etag: bytes
    begun: float
    by: int
    known: float | None = None

    def body(self, start: int, stop: int) -> bytes:
        """Bytes of it: no two versions of any objects have the same."""
        first = self.number * _STEP
        return content(7, first + start, first + stop)


class History:
    """All objects.

    :param ttl: seconds for which each instance may not notice what happens at S3
    :param refresh: seconds for which an instance may not notice what was written through another
    """

    def __init__(self, ttl: list[float], refresh: float, slack: float) -> None:
        self._ttl = [seconds + slack for seconds in ttl]
        self._refresh = refresh + slack
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._states: dict[str, list[Version]] = {}
        self.writing: dict[str, threading.Lock] = {}

    def add_key(self, key: str) -> None:
        """An object that does not exist yet."""
        self.writing[key] = threading.Lock()
        self._states[key] = [Version(0, 0, b"", 0.0, BEHIND, 0.0)]

    def draft(self, size: int, by: int, etag: bytes | None = None) -> Version:
        """A version that is about to be written."""
        version = Version(next(self._numbers), size, b"", time.monotonic(), by)
        version.etag = etag if etag is not None else b'"%b"' % _md5(version)
        return version

    def begin(self, key: str, version: Version) -> None:
        """From now on S3 may have it."""
        version.begun = time.monotonic()
        with self._lock:
            self._states[key].append(version)

    def confirm(self, key: str, version: Version) -> None:
        """S3 has it."""
        with self._lock:
            version.known = time.monotonic()

    def forget(self, key: str, version: Version) -> None:
        """S3 did not take it."""
        with self._lock:
            self._states[key].remove(version)

    def is_held(self, key: str, version: Version) -> bool:
        """Whether the version is (still) part of the history."""
        with self._lock:
            return version in self._states[key]

    def current(self, key: str) -> Version:
        """The last version; only with the right to write."""
        with self._lock:
            return self._states[key][-1]

    def size(self, key: str) -> int:
        """Bytes of the last version."""
        return self.current(key).size

    def has_changed(self, key: str, asked: float) -> bool:
        """Whether an answer to a request of that moment may have begun with a version that S3 no longer had before its
        end: what is missing of it then nobody can get.
        """
        with self._lock:
            return any(version.begun > asked - max(self._ttl) for version in self._states[key])

    def check(self, key: str, etag: bytes, instance: int, asked: float) -> Version:
        """The version with this ETag (none: nothing), which an instance showed for a request of that moment.

        :raises Wrong: there was never such a version, or it was too old
        """
        now = time.monotonic()
        with self._lock:
            states = list(self._states[key])
        found = [index for index, version in enumerate(states) if version.etag == etag and version.begun <= now]
        if not found:
            raise Wrong(f"{key}: no version has the ETag {etag!r}")
        index = found[-1]
        for later in states[index + 1 :]:
            if later.known is None:
                continue
            bound = {instance: 0.05, BEHIND: self._ttl[instance]}.get(later.by, self._refresh)
            if later.known + bound < asked:
                age = asked - later.known
                raise Wrong(
                    f"{key}: version {states[index].number} came from instance {instance}, although version "
                    f"{later.number} (by {later.by}) had been there for {age:.3f} s; allowed are {bound:g} s"
                )
        return states[index]


def _md5(version: Version) -> bytes:
    digest = hashlib.md5()
    for start in range(0, version.size, 1 << 20):
        digest.update(version.body(start, min(version.size, start + (1 << 20))))
    return digest.hexdigest().encode()
