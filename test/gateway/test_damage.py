"""DC-23: stored bytes that are damaged never reach a client: what is missing then is got from S3, and the client sees
nothing of it. And bodies that are stored smaller are the same to clients.
"""

import os
from pathlib import Path
from test.gateway.test_read import SIGNED_RANGE, ReadTestCase, ok, part
from test.storage.test_packing import TEXT
from test.support.content import content
from test.support.gateway import FakeClient, FakeResponse

from s3proxy.cache.entry import ObjectId
from s3proxy.cache.packer import PackingRules
from s3proxy.s3.ranges import FromTo, parse_range
from s3proxy.storage.layout import parse_range as parse_name
from s3proxy.storage.packing import Packed
from s3proxy.upstream.interfaces import UpstreamRequest, UpstreamUnreachable

MIB = 1 << 20
SIZES = {"small": 2000, "inline": 3 * MIB, "ranges": 20 * MIB + 123}


class DamageTestCase(ReadTestCase):
    """S3 has one object, of which the cache has all; then the proxy is started again."""

    size = SIZES["inline"]

    def setUp(self) -> None:
        super().setUp()
        self.body = content(3, 0, self.size)
        self.fill()

    def fill(self) -> None:
        self.upstream.automatic = self.answer
        self.served(self.harness.get(), b"MISS", self.body)
        self.restart()

    def restart(self) -> None:
        self.harness.store.close()
        self.harness.open()
        self.upstream.asked.clear()

    def answer(self, request: UpstreamRequest) -> FakeResponse:
        """What S3 answers."""
        value = request.headers.get(b"range")
        spec = None if value is None else parse_range(value)
        if isinstance(spec, FromTo):
            start, stop = spec.first, min(spec.last + 1, len(self.body))
            return part(start, stop, self.body)
        return ok(self.body)

    def files(self) -> list[Path]:
        """Those with bytes of the body."""
        found = [Path(folder, name) for folder, _, names in os.walk(self.harness.root + "/o") for name in names]
        return sorted(path for path in found if parse_name(path.name) is not None) or found

    def flip(self, path: Path, offset: int) -> None:
        data = bytearray(path.read_bytes())
        data[offset] ^= 0x10
        path.write_bytes(bytes(data))

    def check(self, client: FakeClient, body: bytes, requests: int, status: int = 200) -> None:
        self.assertEqual((client.status, client.ended), (status, "finished"))
        self.assertEqual(client.answer, body)
        self.assertEqual(len(self.upstream.asked), requests)

    def damaged(self) -> int:
        return self.harness.store.volume.counts.faults.total()


class InlineTests(DamageTestCase):
    """An object in one file."""

    def test_sound(self) -> None:
        """Nothing is asked of S3 as long as nothing is wrong."""
        for _ in range(2):
            self.check(self.harness.get(), self.body, 0)
        self.assertEqual(self.damaged(), 0)

    def test_flipped_in_its_middle(self) -> None:
        """Where the beginning was sent, the rest comes from S3, of the same version."""
        self.flip(self.files()[0], 2 * MIB)
        self.check(self.harness.get(), self.body, 1)
        self.assertEqual(self.upstream.last.header(b"if-match"), b'"v1"')
        self.assertEqual(self.damaged(), 1)
        self.assertEqual(len(self.harness.store.volume.quarantine.names()), 1)
        self.restart()
        self.check(self.harness.get(), self.body, 1)
        self.check(self.harness.get(), self.body, 1)

    def test_flipped_elsewhere(self) -> None:
        """Bytes that nobody asks for do no harm, those that are asked for come from S3."""
        self.flip(self.files()[0], 2 * MIB + 500_000)
        self.check(self.harness.get(range=b"bytes=0-99"), self.body[:100], 0, 206)
        self.check(self.harness.get(range=b"bytes=2600000-2600099"), self.body[2_600_000:2_600_100], 1, 206)

    def test_truncated(self) -> None:
        """So does what is missing at the end."""
        path = self.files()[0]
        os.truncate(path, path.stat().st_size - 1000)
        self.check(self.harness.get(), self.body, 1)
        self.check(self.harness.get(), self.body, 1)

    def test_head(self) -> None:
        """A HEAD needs no body."""
        self.flip(self.files()[0], 2 * MIB)
        client = self.harness.head()
        self.assertEqual((client.status, client.header(b"x-cache")), (200, b"HIT"))

    def test_another_version_meanwhile(self) -> None:
        """If S3 has another version by then, no client gets bytes of both."""
        self.flip(self.files()[0], 2 * MIB)
        self.upstream.automatic = lambda request: FakeResponse(412, {}, b"")
        client = self.harness.get()
        self.assertEqual(client.ended, "aborted")
        self.assertEqual(client.answer, self.body[: len(client.answer)])

    def test_s3_fails(self) -> None:
        """If S3 can't be asked, the answer is cut: no wrong byte, and no end that looks like one."""
        self.flip(self.files()[0], 2 * MIB)
        self.upstream.automatic = None
        client = self.harness.get()
        self.upstream.last.fail(UpstreamUnreachable("down"))
        self.assertEqual(client.ended, "aborted")
        self.assertEqual(client.answer, self.body[: len(client.answer)])


class SmallTests(DamageTestCase):
    """A small object."""

    size = SIZES["small"]

    def test_flipped(self) -> None:
        """It is a miss."""
        self.flip(self.files()[0], self.files()[0].stat().st_size - 100)
        self.served(self.harness.get(), b"MISS", self.body)
        self.served(self.harness.get(), b"HIT", self.body)
        self.assertEqual(self.damaged(), 1)


class RangesTests(DamageTestCase):
    """An object in range files."""

    size = SIZES["ranges"]
    settings = {"range_merge_gap_threshold": 0}

    def test_flipped(self) -> None:
        """What was in the damaged file is got again, and kept: first what was not sent, then the rest."""
        self.flip(self.files()[0], 7 * MIB)
        for requests in (1, 2, 2):
            self.check(self.harness.get(), self.body, requests)
        self.assertEqual(self.damaged(), 1)

    def test_a_range(self) -> None:
        """A range of it."""
        self.flip(self.files()[0], 7 * MIB)
        start = 7 * MIB - 100
        client = self.harness.get(range=b"bytes=%d-%d" % (start, start + 999))
        self.check(client, self.body[start : start + 1000], 1, 206)

    def test_held_already(self) -> None:
        """Bytes that S3 sends although they are held are not taken from a file that nobody has compared yet."""
        self.harness.cache.drop(ObjectId("aws", b"bucket", b"key"))
        self.harness.get(range=b"bytes=0-%d" % (MIB - 1))
        self.restart()
        [path] = self.files()
        self.flip(path, 5000)
        stop = 2 * MIB
        client = self.harness.get(range=b"bytes=0-%d" % (stop - 1), authorization=SIGNED_RANGE)
        self.check(client, self.body[:stop], 1, 206)

    def test_every_file(self) -> None:
        """All files are damaged at once."""
        for path in self.files():
            self.flip(path, path.stat().st_size // 2)
        for _ in range(2):
            self.check(self.harness.get(), self.body, len(self.upstream.asked))
        asked = len(self.upstream.asked)
        self.assertGreater(asked, 0)
        self.check(self.harness.get(), self.body, asked)


class PackedTests(DamageTestCase):
    """Bodies that shrink."""

    size = SIZES["inline"]

    def fill(self) -> None:
        self.body = (TEXT * (self.size // len(TEXT) + 1))[: self.size]
        self.upstream.automatic = self.answer
        self.pack()
        self.plain = self.harness.get()
        self.served(self.plain, b"MISS", self.body)
        self.assertEqual(self.harness.cache.packer.outcomes[Packed.NOT_WORTH], 0)
        self.assertGreater(self.harness.cache.packer.outcomes[Packed.SMALLER], 0)
        self.upstream.asked.clear()

    def pack(self) -> None:
        self.harness.cache.packer.rules = PackingRules(wants=lambda version: True, threshold=0, block=20)

    def test_smaller(self) -> None:
        """The cache takes less room than the body."""
        self.assertLess(self.harness.store.usage(), self.size // 2 + 100_000)

    def test_same_answers(self) -> None:
        """The same bytes and headers, of all or any of it."""
        for _ in range(2):
            client = self.harness.get()
            self.check(client, self.body, 0)
            ours = {b"x-cache", b"cache-status", b"age", b"date", b"x-amz-request-id", b"server"}
            for name in set(self.plain.answer_headers) | set(client.answer_headers):
                if name not in ours:
                    self.assertEqual(client.header(name), self.plain.header(name), name)
        for start, stop in ((0, 1), (self.size - 1, self.size), (MIB - 5, MIB + 5), (5, self.size - 5)):
            client = self.harness.get(range=b"bytes=%d-%d" % (start, stop - 1))
            self.check(client, self.body[start:stop], 0, 206)

    def test_after_a_restart(self) -> None:
        """Also without any memory of it, and with packing switched off."""
        self.restart()
        self.check(self.harness.get(), self.body, 0)

    def test_damaged(self) -> None:
        """Damage is found all the same."""
        for path in self.files():
            self.flip(path, path.stat().st_size // 2)
        self.restart()
        self.check(self.harness.get(), self.body, len(self.upstream.asked))
        self.assertGreater(len(self.upstream.asked), 0)

    def test_described_anew(self) -> None:
        """A newer description of the same bytes leaves them as they are."""
        self.harness.clock.advance(3600)

        def answer(request: UpstreamRequest) -> FakeResponse:
            if request.method == b"HEAD":
                return FakeResponse(200, dict(ok(x_amz_meta_colour=b"blue").headers), b"", 0, len(self.body))
            return self.answer(request)

        self.upstream.automatic = answer
        self.assertEqual(self.harness.head().header(b"x-amz-meta-colour"), b"blue")
        client = self.harness.get()
        self.check(client, self.body, len(self.upstream.asked))
        self.assertEqual(client.header(b"x-amz-meta-colour"), b"blue")


class PackedRangesTests(PackedTests):
    """The same in range files."""

    size = SIZES["ranges"]


class PackedSmallTests(PackedTests):
    """The same for small ones."""

    size = 50_000

    def test_smaller(self) -> None:
        """The cache takes less room than the body."""
        [path] = self.files()
        self.assertLess(path.stat().st_size, self.size // 2)

    def test_same_answers(self) -> None:
        """Out of memory."""
        self.check(self.harness.get(), self.body, 0)
        self.check(self.harness.get(range=b"bytes=5-9"), self.body[5:10], 0, 206)
