"""How the memory is divided, and where copies of ranges are made."""

import os
import resource
import tempfile

from prometheus_client import CollectorRegistry
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.cache.manager import CacheManager
from s3proxy.cache.ram import RamTier
from s3proxy.config.model import Cache, Config
from s3proxy.services import cache as module
from s3proxy.services.cache import DESCRIPTIONS, CacheService
from s3proxy.services.memory import available_memory
from s3proxy.services.reload import LIVE
from s3proxy.telemetry.metrics import Metrics

MIB = 1 << 20


class RamTests(SynchronousTestCase):
    """The RAM cache of a service, on a machine with plenty of memory."""

    def setUp(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.patch(module, "available_memory", lambda: 1 << 40)

    def open(self, copies: bool | None = True, size: int = 256 * MIB, **settings: object) -> CacheManager:
        cache = Cache(cache_dir=self.folder.name, max_ram_cache_size=size, **settings)  # type: ignore[arg-type]
        self.service = CacheService(Clock(), Config(cache=cache), Metrics(CollectorRegistry()), copies=copies)
        manager = self.service.open()
        assert self.service.store is not None
        self.addCleanup(self.service.store.close)
        return manager

    def shares(self, manager: CacheManager) -> tuple[int, int | None]:
        """Bytes for descriptions; for these together with copies, None where none are made."""
        assert manager._index is not None
        makes_copies = manager.ram is not None and manager.ram.plain
        return manager._index._max_bytes, manager.ram.total if makes_copies else None

    def test_divided(self) -> None:
        """Descriptions may have half, copies what these leave."""
        self.assertEqual(self.shares(self.open()), (128 * MIB, 256 * MIB))
        self.assertEqual(self.service.ram_limit, 256 * MIB)

    def test_without_copies(self) -> None:
        """Where no copies are made, all of it is for descriptions."""
        self.assertEqual(self.shares(self.open(copies=False)), (256 * MIB, None))

    def test_little(self) -> None:
        """Too little to be divided is for descriptions; these always have what they need."""
        self.assertEqual(self.shares(self.open(size=2 * DESCRIPTIONS - 1)), (2 * DESCRIPTIONS - 1, 0))
        self.assertEqual(self.shares(self.open(size=0)), (DESCRIPTIONS, 0))

    def test_switched_off(self) -> None:
        """No copies with ``ram_cache_enabled: false``, nor when S3 is asked every time."""
        self.assertEqual(self.shares(self.open(ram_cache_enabled=False)), (DESCRIPTIONS, 0))
        self.assertEqual(self.shares(self.open(get_ttl=0.0)), (DESCRIPTIONS, 0))

    def test_machine_with_little_memory(self) -> None:
        """Never more than a quarter of what the machine has."""
        self.patch(module, "available_memory", lambda: 512 * MIB)
        self.assertEqual(self.shares(self.open()), (64 * MIB, 128 * MIB))

    def test_algorithm_and_descriptors(self) -> None:
        """The eviction algorithm is that of the disk; an eighth of the descriptors is for copies."""
        self.patch(resource, "getrlimit", lambda which: (1024, 4096))
        ram = self.open(eviction_algorithm="lru").ram
        assert ram is not None
        self.assertEqual((ram._order._admits_all, ram._files_allowed), (True, 128))
        ram = self.open().ram
        assert ram is not None
        self.assertFalse(ram._order._admits_all)

    def test_file_system_decides(self) -> None:
        """Copies are made where the page cache does not suffice."""
        asked: list[str] = []

        def suffices(directory: str, file: str) -> bool:
            asked.append(os.path.join(directory, file))
            return len(asked) == 1

        self.patch(module, "page_cache_suffices", suffices)
        self.assertFalse(self.open(copies=None).ram.plain)
        self.assertTrue(self.open(copies=None).ram.plain)
        self.assertTrue(os.path.getsize(asked[0]))

    def test_no_memory_files(self) -> None:
        """A system without memory files does without copies."""
        self.patch(RamTier, "is_possible", staticmethod(lambda: False))
        self.assertEqual(self.shares(self.open()), (256 * MIB, None))

    def test_reload(self) -> None:
        """Another size takes effect at once."""
        self.assertLessEqual({"cache.max_ram_cache_size", "cache.ram_cache_enabled"}, LIVE)
        manager = self.open()
        for settings, shares in (
            ({"max_ram_cache_size": 512 * MIB}, (256 * MIB, 512 * MIB)),
            ({"max_ram_cache_size": 512 * MIB, "ram_cache_enabled": False}, (DESCRIPTIONS, 0)),
            ({"max_ram_cache_size": 128 * MIB}, (64 * MIB, 128 * MIB)),
        ):
            cache = Cache(cache_dir=self.folder.name, **settings)  # type: ignore[arg-type]
            self.service.reconfigure(Config(cache=cache))
            self.assertEqual(self.shares(manager), shares)


class AvailableMemoryTests(SynchronousTestCase):
    """The memory that this process may use."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = folder.name
        self.machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def write(self, path: str, text: str) -> None:
        path = os.path.join(self.root, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(text)

    def available(self, groups: str) -> int:
        self.write("groups", groups)
        return available_memory(os.path.join(self.root, "groups"), self.root)

    def test_no_limit(self) -> None:
        """Without control groups, and without limits, it is the machine's."""
        self.assertEqual(available_memory(self.root + "/none", self.root), self.machine)
        self.write("a/memory.max", "max\n")
        self.assertEqual(self.available("0::/a\n"), self.machine)

    def test_smallest(self) -> None:
        """The smallest limit of the group and those around it counts."""
        self.write("a/memory.max", "20971520\n")
        self.write("a/b/memory.max", "10485760\n")
        self.assertEqual(self.available("0::/a/b\n"), 10 * MIB)
        self.assertEqual(self.available("0::/a/c\n"), 20 * MIB)

    def test_container(self) -> None:
        """Inside a container its own group is the root."""
        self.write("memory.max", "31457280")
        self.assertEqual(self.available("0::/\n"), 30 * MIB)

    def test_version_1(self) -> None:
        """The older control groups have a tree for memory; no limit is a huge one there."""
        self.write("memory/memory.limit_in_bytes", "9223372036854771712\n")
        self.assertEqual(self.available("5:cpu:/x\n4:memory:/docker/1\n"), self.machine)
        self.write("memory/docker/1/memory.limit_in_bytes", "5242880\n")
        self.assertEqual(self.available("5:cpu:/x\n4:hugetlb,memory:/docker/1\n"), 5 * MIB)

    def test_garbage(self) -> None:
        """What can't be understood is no limit."""
        self.write("memory.max", "many\n")
        self.assertEqual(self.available("0::/\nnonsense\n"), self.machine)
