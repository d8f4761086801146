"""What is stored is damaged, and stored smaller: clients see nothing of either."""

import os
from pathlib import Path
from test.support.waiting import poll
from test.system.stage import MIB, Stage, unfinished_files

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.storage.layout import is_encoded

SIZES = {b"small": 5_000, b"one-file": 3 * MIB, b"ranges": 20 * MIB + 77}
TEXT = b"".join(b"%07d: a line of a log file that is much like the one before it\n" % n for n in range(150_000))


def bodies(folder: Path) -> list[Path]:
    """Files that hold bodies, or parts of them."""
    found = [Path(parent, name) for parent, _, names in os.walk(folder / "o") for name in names]
    return [path for path in found if path.stat().st_size > 4000]


def flip(path: Path, offset: int) -> None:
    """Change one bit."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 4]))


class DamageTests(SynchronousTestCase):
    """Files are damaged while the proxy is down."""

    def setUp(self) -> None:
        self.stage = Stage()
        self.addCleanup(self.stage.stop)
        self.proxy = self.stage.proxy
        for number, (key, size) in enumerate(SIZES.items()):
            self.stage.put(key, number, size)
            self.assertTrue(self.stage.read(key, number, size).exact)
        poll(lambda: not unfinished_files(self.proxy.cache_dir), 10, "everything to be stored")

    def read_all(self) -> None:
        for number, (key, size) in enumerate(SIZES.items()):
            self.assertTrue(self.stage.read(key, number, size).exact, key)

    def requests(self) -> int:
        return len(self.stage.fake.requests)

    def test_sound(self) -> None:
        """After a restart everything is a hit."""
        self.proxy.restart()
        self.stage.fake.clear_requests()
        self.read_all()
        self.assertEqual(self.requests(), 0)

    def test_flipped(self) -> None:
        """A bit in every file: all bytes are right, the damage is counted and told, and the files are kept for who
        wants to know; afterwards everything is a hit.
        """
        self.proxy.kill9()
        damaged = bodies(self.proxy.cache_dir)
        for path in damaged:
            flip(path, path.stat().st_size - 500)
        self.proxy.start()
        self.stage.fake.clear_requests()
        self.read_all()
        self.assertGreaterEqual(self.requests(), 3)
        self.assertEqual(len(list((self.proxy.cache_dir / "quarantine").iterdir())), 3)
        poll(lambda: self.proxy.metric("s3proxy_cache_errors_total", kind="range_corrupt") == 3, 5, "the metric")
        self.assertIn("turned out to be damaged", self.proxy.app_log())
        for _ in range(2):
            self.read_all()
        self.stage.fake.clear_requests()
        self.read_all()
        self.assertEqual(self.requests(), 0)
        self.assertEqual(self.stage.tracebacks(), [])

    def test_truncated(self) -> None:
        """The same when files have lost their ends."""
        self.proxy.terminate()
        for path in bodies(self.proxy.cache_dir):
            os.truncate(path, path.stat().st_size * 2 // 3)
        self.proxy.start()
        for _ in range(2):
            self.read_all()
        self.stage.fake.clear_requests()
        self.read_all()
        self.assertEqual(self.requests(), 0)
        self.assertEqual(self.stage.tracebacks(), [])


class CompressionTests(SynchronousTestCase):
    """Bodies that shrink."""

    def start(self, **compression: object) -> None:
        self.stage = Stage({"compression": compression})
        self.addCleanup(self.stage.stop)
        self.proxy = self.stage.proxy
        self.bucket = self.stage.bucket
        self.stage.fake.put_object(self.bucket, b"log.txt", TEXT, [(b"Content-Type", b"text/plain")])
        self.stage.fake.put_object(self.bucket, b"log.zip", TEXT)

    def encoded(self) -> list[Path]:
        return [path for path in bodies(self.proxy.cache_dir) if is_encoded(path.name)]

    def read(self, key: bytes, *headers: tuple[bytes, bytes]) -> tuple[int, bytes, dict[bytes, bytes]]:
        answer = self.stage.ask(b"GET", key, headers=headers)
        ours = (b"x-cache", b"cache-status", b"age", b"date", b"x-amz-request-id", b"x-amz-id-2", b"server")
        fields = {name.lower(): value for name, value in answer.headers if name.lower() not in ours}
        return answer.status, answer.body, fields

    def test_packed(self) -> None:
        """Behind the first answer the body becomes small; every later answer, of all or some of it, before and after a
        restart, is the same.
        """
        self.start()
        first = self.read(b"log.txt")
        self.assertEqual(first[:2], (200, TEXT))
        poll(lambda: len(self.encoded()) == 1, 10, "the file to become small")
        self.read(b"log.zip")
        self.assertLess(self.encoded()[0].stat().st_size, len(TEXT) // 3)
        self.stage.fake.clear_requests()
        for turn in range(2):
            for _ in range(4):
                self.assertEqual(self.read(b"log.txt"), first)
            status, body, _ = self.read(b"log.txt", (b"Range", b"bytes=5000000-5000099"))
            self.assertEqual((status, body), (206, TEXT[5_000_000:5_000_100]))
            if not turn:
                self.proxy.kill9()
                self.proxy.start()
        self.assertEqual(len(self.stage.fake.requests), 0)
        # What is compressed by its name is left alone.
        self.assertEqual(len(self.encoded()), 1)
        self.assertEqual(self.proxy.metric("s3proxy_cache_errors_total", kind="range_corrupt"), 0)
        self.assertEqual(self.stage.tracebacks(), [])

    def test_off(self) -> None:
        """Switched off, nothing of it happens; what was stored so before is read all the same."""
        self.start()
        self.read(b"log.txt")
        poll(lambda: len(self.encoded()) == 1, 10, "the file to become small")
        self.proxy.terminate()
        self.proxy.configure({"compression": {"enabled": False}})
        self.proxy.start()
        self.stage.fake.put_object(self.bucket, b"other.txt", TEXT)
        self.assertEqual(self.read(b"other.txt")[1], TEXT)
        self.stage.fake.clear_requests()
        self.assertEqual(self.read(b"log.txt")[1], TEXT)
        self.assertEqual(len(self.stage.fake.requests), 0)
        self.assertEqual(len(self.encoded()), 1)
