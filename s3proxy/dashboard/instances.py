"""Who shares the cache directory: every instance puts a card beside its heartbeat, and reads those of the others.

A card is ``inst/<I>.card``, a JSON object of at most 16 KiB, written anew every few seconds and removed at the end. An
instance without a card, because its dashboard is switched off, is known by its heartbeat alone.
"""

import json
import os
from collections.abc import Mapping
from typing import Any, Final

from s3proxy.storage.layout import instance_text
from s3proxy.storage.volume import Volume

__all__ = ["Cards", "INTERVAL"]

INTERVAL: Final = 5.0
"""Seconds between two writings of a card."""

_LONGEST: Final = 16 * 1024
_SUFFIX: Final = ".card"


class Cards:
    """Every call blocks: they belong into a thread."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._folder = f"{volume.root}/inst"
        self._own = f"{self._folder}/{instance_text(volume.instance.number)}{_SUFFIX}"

    def write(self, card: Mapping[str, Any]) -> None:
        """Say how this instance is doing.

        :raises OSError: it could not be written
        """
        data = json.dumps(card, ensure_ascii=True).encode("ascii")[:_LONGEST]
        draft = f"{self._own}.new"
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)
        os.rename(draft, self._own)

    def remove(self) -> None:
        """Take the card away. Never raises."""
        try:
            os.unlink(self._own)
        except OSError:
            return

    def read(self) -> list[dict[str, Any]]:
        """One document for each instance that left a heartbeat, this one first.

        :raises OSError: the directory can't be read
        """
        instance = self._volume.instance
        numbers = [instance.number, *sorted(instance.others())]
        found = []
        for number in numbers:
            text = instance_text(number)
            alive = instance.is_alive(number)
            found.append(
                {
                    "instance": text,
                    "own": number == instance.number,
                    "alive": alive,
                    "beat": self._modified(f"{text}.hb"),
                    "card": self._card(f"{text}{_SUFFIX}"),
                }
            )
        return found

    def tidy(self) -> None:
        """Remove the cards of instances that are gone: those whose heartbeat has been taken away.

        :raises OSError: the directory can't be read
        """
        names = os.listdir(self._folder)
        known = {name.partition(".")[0] for name in names if name.endswith(".hb")}
        for name in names:
            text, dot, rest = name.partition(".")
            if dot and text not in known and rest in ("card", "card.new"):
                self._bury(name)

    def _modified(self, name: str) -> float | None:
        try:
            return os.lstat(f"{self._folder}/{name}").st_mtime
        except FileNotFoundError:
            return None

    def _card(self, name: str) -> dict[str, Any]:
        try:
            fd = os.open(f"{self._folder}/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return {}
        try:
            found = json.loads(os.read(fd, _LONGEST))
        except ValueError:
            return {}
        finally:
            os.close(fd)
        return found if isinstance(found, dict) else {}

    def _bury(self, name: str) -> None:
        try:
            os.unlink(f"{self._folder}/{name}")
        except FileNotFoundError:
            return
