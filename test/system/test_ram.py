"""Hot ranges come out of memory: the real process, real sockets, and a cache directory whose file system makes copies
worth while.
"""

import os
import tempfile
from pathlib import Path
from test.support import proxy_process
from test.support.content import content
from test.support.waiting import poll
from test.system.mounts import Overlay
from test.system.stage import MIB, Stage

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.storage.layout import parse_range

SIZE = 12 * MIB
COPIES = 3

# The process believes that its cache directory is on a network.
_ON_A_NETWORK = "import s3proxy.services.cache as cache; cache.page_cache_suffices = lambda *_: False; "


class RamTestCase(SynchronousTestCase):
    """A stage, and an object of twelve MiB."""

    def start(self, **cache: object) -> None:
        self.stage = Stage({"cache": {"max_ram_cache_size": 128 * MIB, **cache}})
        self.addCleanup(self.stage.stop)
        self.stage.put(b"object", 1, SIZE)

    def force(self) -> None:
        """Have the process take its directory for one on a network."""
        self.patch(proxy_process, "_RUN", _ON_A_NETWORK + proxy_process._RUN)

    def pieces(self) -> float:
        """Copies that are there."""
        return self.stage.proxy.metric("s3proxy_ram_cache_pieces")

    def heat(self, key: bytes = b"object", seed: int = 1, copies: int = COPIES) -> None:
        """Read it until it is in memory."""
        self.assertTrue(self.stage.read(key, seed, SIZE).exact)

        def in_memory() -> bool:
            self.assertTrue(self.stage.read(key, seed, SIZE).exact)
            return self.pieces() == copies

        poll(in_memory, 30, "copies in memory")

    def spoil(self) -> None:
        """Overwrite what is in the middle of every body on disk, in place: name, size and both ends stay."""
        spoilt = 0
        for folder, _, names in os.walk(self.stage.proxy.cache_dir / "o"):
            for name in names:
                if parse_range(name) is not None:
                    with Path(folder, name).open("r+b", buffering=0) as file:
                        os.pwrite(file.fileno(), b"\xee" * (SIZE - 2 * MIB), MIB)
                        spoilt += 1
        self.assertGreater(spoilt, 0)

    def memory_files(self) -> int:
        """Memory files that the process has open."""
        return sum(target.startswith("/memfd:") for target in self.stage._descriptors())


class NetworkTests(RamTestCase):
    """On a network."""

    def setUp(self) -> None:
        self.force()

    def test_out_of_memory(self) -> None:
        """When the bodies on disk are overwritten in place, what was read often is served as it was, out of memory; of
        what was not, that is noticed within a second, and it is got from S3 again. A write makes an end of that at
        once.
        """
        self.start()
        self.stage.put(b"cold", 2, SIZE)
        self.assertTrue(self.stage.read(b"cold", 2, SIZE).exact)
        self.heat()
        self.assertEqual(self.memory_files(), COPIES)
        self.spoil()
        asked = len(self.stage.fake.requests)
        self.assertTrue(self.stage.read(b"object", 1, SIZE).exact)
        part = self.stage.ask(b"GET", b"object", headers=[(b"Range", b"bytes=3000000-4999999")])
        self.assertEqual((part.status, part.body), (206, content(1, 3_000_000, 5_000_000)))
        self.assertEqual(len(self.stage.fake.requests), asked)

        self.assertEqual(self.stage.upload(b"object", 3, SIZE).status, 200)
        self.assertEqual((self.memory_files(), self.pieces()), (0, 0))
        for _ in range(3):
            self.assertTrue(self.stage.read(b"object", 3, SIZE).exact)
        asked = len(self.stage.fake.requests)
        poll(lambda: self.stage.read(b"cold", 2, SIZE).exact, 5, "the change to be noticed", 0.2)
        self.assertGreater(len(self.stage.fake.requests), asked)

    def test_asked_all_the_same(self) -> None:
        """Being in memory changes nothing about freshness: after the TTL S3 is asked, and what it has now is served."""
        self.start(get_ttl="1s", head_ttl="1s")
        self.heat()
        self.stage.put(b"object", 4, SIZE)
        poll(lambda: self.stage.read(b"object", 4, SIZE).exact, 5, "the new version", 0.2)
        for _ in range(3):
            self.assertTrue(self.stage.read(b"object", 4, SIZE).exact)

    def test_clients_that_leave(self) -> None:
        """Clients that leave in the middle keep nothing open, and copies that were dropped meanwhile are closed."""
        self.start()
        self.heat()
        sockets = self.stage.sockets()
        clients = [self.stage.connect(receive_buffer=16 << 10) for _ in range(10)]
        for client in clients:
            client.send(self.stage.request(b"GET", b"object"))
            client.read_exactly(100_000)
        self.assertEqual(self.stage.upload(b"object", 3, 1000).status, 200)
        self.assertGreater(self.memory_files(), 0)
        for client in clients:
            client.abort()
        poll(lambda: self.memory_files() == 0, 10, "memory files to be closed")
        self.stage.wait_idle(sockets)
        self.assertEqual(self.stage.tracebacks(), [])


class LocalTests(RamTestCase):
    """Where the page cache serves."""

    def test_no_copies(self) -> None:
        """On a file system of which the kernel tells what is in memory, nothing is copied."""
        self.start()
        for _ in range(4):
            self.assertTrue(self.stage.read(b"object", 1, SIZE).exact)
        self.assertEqual((self.memory_files(), self.pieces()), (0, 0))


class OverlayTests(RamTestCase):
    """On a file system of which the kernel does not tell what is in memory."""

    def test_copies(self) -> None:
        """Copies are made without anybody asking for them."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        overlay = Overlay(Path(folder.name))
        self.addCleanup(overlay.unmount)
        self.start(cache_dir=str(overlay.folder / "cache"))
        self.addCleanup(self.stage.stop)
        self.heat()
        self.spoil()
        self.assertTrue(self.stage.read(b"object", 1, SIZE).exact)
