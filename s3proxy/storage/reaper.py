"""Finding what is left below ``up/`` of uploads that nobody will finish."""

from collections.abc import Callable

from s3proxy.storage.layout import parse_temp
from s3proxy.storage.upload_names import parse_draft, parse_staging
from s3proxy.storage.volume import Volume

__all__ = ["Reaper"]

_INTERVAL = 60.0


class Reaper:
    """Deletes what instances that died were writing, and multipart uploads in which nothing has happened for too long.

    There are as many names as uploads, so that looking at all of them costs little.

    :param expiry: seconds after which an unfinished multipart upload is given up
    """

    def __init__(self, volume: Volume, expiry: float) -> None:
        self._volume = volume
        self._expiry = expiry
        self._looked_at = volume.now()

    def due(self) -> bool:
        """Whether it is time to look again. Costs nothing."""
        return not 0 <= self._volume.now() - self._looked_at < _INTERVAL

    def run(self) -> int:
        """Look at everything; returns how many files and directories went. Blocks: call it in a thread.

        :raises OSError: the directory can't be read
        """
        volume = self._volume
        self._looked_at = volume.now()
        removed = 0
        alive: dict[int, bool] = {}

        def is_dead(instance: int) -> bool:
            if instance not in alive:
                alive[instance] = volume.instance.is_alive(instance)
            return not alive[instance]

        for text in volume.calls.listdir(volume.uploads):
            path = f"{volume.uploads}/{text}"
            draft, temp = parse_draft(text), parse_temp(text)
            if draft is not None:
                removed += is_dead(draft.instance) and volume.discard_directory(path, volume.uploads_shard)
            elif temp is not None:
                removed += is_dead(temp.instance) and volume.unlink(path)
            elif parse_staging(text) is not None:
                if self._expired(path) and volume.discard_directory(path, volume.uploads_shard):
                    volume.counts.upload_expired()
                    removed += 1
                removed += self._clean(path, is_dead)
        volume.empty_trash()
        return removed

    def _expired(self, path: str) -> bool:
        """Every part that comes, is replaced or is being written renews the directory's time."""
        try:
            return self._volume.now() - self._volume.calls.stat(path).st_mtime > self._expiry
        except FileNotFoundError:
            return False

    def _clean(self, path: str, is_dead: Callable[[int], bool]) -> int:
        """Remove what the dead did not finish; others go on with the upload."""
        try:
            temps = [
                (text, temp) for text in self._volume.calls.listdir(path) if (temp := parse_temp(text)) is not None
            ]
        except FileNotFoundError:
            return 0
        return sum(is_dead(temp.instance) and self._volume.unlink(f"{path}/{text}") for text, temp in temps)
