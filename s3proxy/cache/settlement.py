"""What becomes of a body when it has ended: it is published, or its beginning is, or nothing of it is kept."""

from collections.abc import Callable
from enum import Enum
from typing import Any

from s3proxy.cache.bodychunks import BodyChunks
from s3proxy.cache.bodyfiles import BodyFiles
from s3proxy.storage.errors import NotNow

__all__ = ["Fate", "Settlement"]


class Fate(Enum):
    """How a body ended."""

    WHOLE = "whole"
    """All of it is here, and true."""
    CUT = "cut"
    """It broke off."""
    UNWANTED = "unwanted"
    """It is wrong, or not all of it could be written."""


class Settlement:
    """The end of one body.

    :param files: that it is written into; None: it is small, and kept in memory until it is complete
    :param chunks: what of it is in memory
    :param commit_small: called with the pieces of a small body, and whether it has to be prompt
    :param give_up: releases what a body holds of which nothing was written
    :param least: bytes of a body that broke off that are worth keeping
    :param failed: called when the disk did not let go of it
    :ivar results: what the commits returned
    """

    def __init__(
        self,
        files: BodyFiles | None,
        chunks: BodyChunks,
        *,
        commit_small: Callable[[list[bytes], bool], Any] | None,
        give_up: Callable[[], None] | None,
        least: float,
        failed: Callable[[BaseException], None],
    ) -> None:
        self.results: list[Any] = [] if files is None else files.results
        self._files = files
        self._chunks = chunks
        self._commit_small = commit_small
        self._give_up = give_up
        self._least = least
        self._failed = failed

    def publish(self, fate: Fate, size: int, promptly: bool = False) -> None:
        """Publish or remove. Runs in a thread, or, promptly, in the reactor's.

        :param size: bytes of the body that are here
        :raises NotNow: promptly, and something has to be evicted first; nothing has happened
        """
        files = self._files
        if files is None:
            if self._commit_small is not None:
                self.results.append(self._commit_small(self._chunks.all(), promptly))
        elif not files.begun:
            if self._give_up is not None:
                self._give_up()
        elif fate is Fate.UNWANTED:
            files.discard()
        elif fate is Fate.WHOLE:
            files.commit(promptly)
        elif promptly:
            raise NotNow
        elif size >= self._least:
            files.commit_prefix()
        else:
            files.discard()

    def abandon(self) -> None:
        """If nothing was written, let go of the right to."""
        if self._give_up is not None and (self._files is None or not self._files.begun):
            try:
                self._give_up()
            except OSError as error:
                self._failed(error)
