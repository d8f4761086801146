"""A gateway as small as objects of some kilobytes need it, which can be killed and started again."""

import errno
import gc
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import attrs
from twisted.internet.defer import Deferred, fail

from s3proxy.cache import backpressure, bodycopy, bodywriter, fill, ram
from s3proxy.cache.entry import ObjectId
from s3proxy.cache.manager import CacheManager
from s3proxy.cache.ram import RamTier
from s3proxy.cache.settings import CacheSettings
from s3proxy.gateway.lane import Glance, Lane
from s3proxy.gateway.large import LargeHit
from s3proxy.gateway.pipeline import Accounts, Gateway
from s3proxy.gateway.transaction import Parts
from s3proxy.policy.rules import Rules, Settings
from s3proxy.s3.address import ObjectAddress
from s3proxy.storage import upload
from s3proxy.storage.disk import open_store
from s3proxy.storage.diskio import DiskBusy
from s3proxy.storage.generations import GenerationTable
from s3proxy.storage.part_writer import read_part
from s3proxy.storage.layout import entry_name
from s3proxy.storage.upload_names import is_data, parse_record, parse_staging, staging_name
from test.storage.support import finish_scan, recount
from test.support.gateway import HOST, GatewayHarness
from test.support.model_clients import ModelClient
from test.support.streams import ManualThread

__all__ = ["Limits", "ModelHarness", "Threads", "small_steps"]


@attrs.frozen(kw_only=True)
class Limits:
    """Sizes at which the cache behaves differently.

    :ivar page: the page size, if small ranges are read in whole pages
    :ivar memory: bytes of the RAM tier
    :ivar room: bytes that the cache may take; a tenth of it for what was written and nobody has read
    :ivar largest: bytes of the largest object that is kept on its way to S3
    """

    cut: int = 4096
    inline_max: int = 4096
    batch: int = 2000
    window: int = 8000
    worth_finishing: int = 3000
    page: int | None = None
    memory: int = 0
    room: int = 1 << 30
    largest: int = 1 << 20


@contextmanager
def small_steps(limits: Limits) -> Iterator[None]:
    """The cache's own constants are as small as ``limits`` says."""
    with ExitStack() as stack:
        for module, name, value in (
            (bodywriter, "BATCH", limits.batch),
            (backpressure, "WINDOW", limits.window),
            (fill, "WORTH_FINISHING", limits.worth_finishing),
            (bodycopy, "BATCH", limits.batch),
            (bodycopy, "SMALL_BATCH", limits.batch // 2),
            (bodycopy, "FAR_BEHIND", limits.window // 2),
            (bodycopy, "MOST_BEHIND", limits.window * 2),
            (upload, "HELD_MAX", 6000),
            (ram, "PIECE", 3000),
            (ram, "SMALL", 700),
        ):
            stack.enter_context(mock.patch.object(module, name, value))
        yield


class Threads(ManualThread):
    """Finish in any order; the next ``refusals`` pieces of work are refused, and ``refused`` ones were."""

    def __init__(self) -> None:
        super().__init__()
        self.refusals = 0
        self.refused = 0

    def __call__(self, function: Callable[..., Any], *args: Any) -> "Deferred[Any]":
        if self.refusals:
            self.refusals -= 1
            self.refused += 1
            return fail(DiskBusy(errno.EAGAIN, "busy"))
        return super().__call__(function, *args)

    def step_at(self, index: int) -> None:
        """Do this piece of work."""
        self._work.insert(0, self._work.pop(index))
        self.step()


class _PagedRules(Rules):
    """Everything is read in pages."""

    page = 0

    def resolve(self, address: ObjectAddress) -> Settings:
        return attrs.evolve(super().resolve(address), page_widening=True, page_size=self.page)


class ModelHarness(GatewayHarness):
    """:ivar lane: the fast lane beside the gateway"""

    def __init__(self, limits: Limits, **options: Any) -> None:
        self._limits = limits
        self._lives = 0
        self._unscanned = False
        super().__init__(max_requests=100_000, max_size=limits.room, **options)

    def open(self) -> None:
        """Start on the directory as it is."""
        self._lives += 1
        limits, settings = self._limits, self.config.cache
        generations = GenerationTable(slots=64)
        self.store = open_store(
            self.root, max_size=self._max_size, now=self.now, generations=generations, random=random.Random(self._lives)
        )
        self.store.cut, self.store.inline_max = limits.cut, limits.inline_max
        tier = RamTier(self._run, self.clock.seconds, total=limits.memory, files=4, seed=1) if limits.memory else None
        self.cache = CacheManager(
            self.clock,
            self.store,
            generations,
            self._run,
            CacheSettings(
                max_cache_size=self._max_size,
                small_object_bytes=settings.small_object_bytes,
                keep_ratio=settings.partial_range_commit_ratio,
                max_written_size=limits.largest,
            ),
            now=self.now,
            events=self.events,
            ram=tier,
        )
        rules = Rules(self.config)
        if limits.page:
            rules = _PagedRules(self.config)
            rules.page = limits.page
        self.parts = Parts(clock=self.clock, cache=self.cache, upstream=self.upstream, now=self.now)
        self.gateway = Gateway(
            self.clock,
            self.parts,
            rules,
            Accounts(started=lambda: None, finished=self.records.append),
            max_requests=self._max_requests,
            bypass_headers=settings.cache_bypass_headers_enabled,
        )
        self.lane = Lane(self.cache, rules, mock.Mock(), now=self.now, desk=self.gateway)

    def through_lane(self, client: ModelClient, wanted: bytes | None, checksums: bool) -> bool | None:
        """Let the fast lane answer. Whether it has accounted for the request itself; None: it has no answer."""
        glance = Glance(client.method, client.target, HOST, wanted, checksums, None, b"", b"")
        answer = self.lane.answer(glance, client.client_address, client.listener, files=True)
        if answer is None:
            return None
        if isinstance(answer, LargeHit):
            client.get_head(answer.head, answer.length)
            self.gateway.deliver(client, answer)
            return False
        head, body = answer
        client.get_head(head)
        if body:
            client.write(body)
        client.finish()
        return True

    # Ends and beginnings.

    def snapshot(self) -> str:
        """A copy of the directory as a kill at this instant leaves it."""
        copy = f"{self._directory.name}/life{self._lives}"
        shutil.copytree(self.root, copy, symlinks=True)
        return copy

    def shut(self) -> None:
        """The end, when nothing is under way any more."""
        self.cache.end()
        if self.cache.ram is not None:
            self.cache.ram.close()
        self.store.close()
        for call in list(self.clock.getDelayedCalls()):
            call.cancel()

    def revive(self, copy: str) -> None:
        """Start on what a kill has left."""
        self.root = copy
        self.open()
        self._unscanned = True
        own = f"{self.store.volume.instance.number:015x}.hb"
        for name in os.listdir(f"{copy}/inst"):
            if name != own:
                path = f"{copy}/inst/{name}"
                with open(path, "r+b") as file:
                    data = file.read()
                    file.seek(0)
                    file.truncate()
                    # No process has this start time.
                    file.write(data.replace(b'"start": "', b'"start": "x'))

    def scan(self) -> None:
        """The walk over the directory, which finds what a kill has left."""
        finish_scan(self.store)
        self._unscanned = False

    def check_idle(self) -> None:
        """Nothing is left of anything that was under way."""
        store, cache = self.store, self.cache
        assert self.gateway.in_flight == 0, f"{self.gateway.in_flight} requests in flight"
        assert cache.fills_in_flight == 0, f"{cache.fills_in_flight} fills in flight"
        assert cache.flights.current == {}, f"flights: {cache.flights.current}"
        assert store.volume.live == set(), f"leases and files: {store.volume.live}"
        assert store.in_flight() == 0, f"{store.in_flight()} bytes in flight"
        ledger = store.volume.ledger
        reserved = ledger.reserved, ledger._unread_reserved
        assert reserved == (0, 0), f"room that is set aside: {reserved}"
        assert self.parts.copies.taken == 0, f"{self.parts.copies.taken} bytes of copies of bodies"
        assert cache.writes._backlog.bytes == 0, f"{cache.writes._backlog.bytes} bytes that wait for the disk"
        assert store.held._left == upload.MOST_HELD, "bodies in memory"
        if self._unscanned:
            self.scan()
        store.volume.empty_trash()
        assert self.left_over() == [], f"files: {self.left_over()}"
        unknown = [error for error in self.events.errors if type(error) not in (DiskBusy, FileNotFoundError)]
        assert not unknown, f"errors of the disk: {unknown}"
        cached, found = len(store.volume.handles), _open_files(self.root + "/")
        assert len(found) == cached, f"{cached} files are to be kept open, but there are {found}"
        if cache.ram is not None:
            files = _open_files("/memfd:s3proxy-range")
            if len(files) > len(cache.ram):
                # Those of an earlier life, or of an earlier test: they go with the garbage.
                gc.collect()
                files = _open_files("/memfd:s3proxy-range")
            assert len(files) <= len(cache.ram), f"{len(cache.ram)} pieces, but {len(files)} memory files"

    def staged_parts(self, key: bytes, upload_id: bytes) -> list[str]:
        """What is kept of the parts of a multipart upload."""
        name = entry_name(ObjectId("aws", b"bucket", key).parts)
        try:
            return sorted(os.listdir(f"{self.store.volume.uploads}/{staging_name(name, upload_id)}"))
        except FileNotFoundError:
            return []

    def check_uploads(self, crashed: bool) -> None:
        """Below ``up/`` there is nothing but whole parts; when the uploads have expired, nothing at all.

        :param crashed: the process was killed, and parts that it had not finished go with the uploads
        """
        volume = self.store.volume
        for text in os.listdir(volume.uploads):
            folder = f"{volume.uploads}/{text}"
            assert parse_staging(text) is not None, f"left below up/: {text}"
            names = set(os.listdir(folder))
            parts = [read_part(volume, folder, number) for name in names if (number := parse_record(name)) is not None]
            told = {file.name for part in parts if part is not None for file in part.files}
            data = set(filter(is_data, names))
            assert told <= data, f"bytes of parts are missing: {told - data}"
            assert crashed or data <= told, f"bytes of no part: {data - told}"
            os.utime(folder, (0, 0))
        volume.now = lambda: time.time() + 1_000_000  # type: ignore[method-assign]
        self.store.sweeper.run()
        left = os.listdir(volume.uploads)
        assert left == [], f"left below up/ for ever: {left}"
        self.check_counts()

    def check_counts(self) -> None:
        """What was counted is what is there, unless the directory was lost."""
        if not os.path.isdir(self.store.volume.objects):
            return
        # A walk also removes what is there twice.
        self.scan()
        counted = self.store.usage(), self.store.unread(), self.store.staged()
        recount(self.store)
        found = self.store.usage(), self.store.unread(), self.store.staged()
        assert counted == found, f"used, unread and staged are {found}; counted was {counted}"


def _open_files(prefix: str) -> list[str]:
    """Paths, removed ones too."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if path.startswith(prefix):
            found.append(path)
    return found
