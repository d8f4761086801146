"""Reading again what is cached of an object."""

import base64
import hashlib
import os
import tempfile
import zlib
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.cache.entry import ObjectId, ObjectVersion, encode_version
from s3proxy.cache.examine import Examination, Finding, Verdict
from s3proxy.s3.headers import Headers
from s3proxy.s3.parts import PartMap, Run
from s3proxy.storage.disk import open_store
from s3proxy.storage.generations import GenerationTable
from s3proxy.storage.layout import entry_name

ID = ObjectId("aws", b"b", b"k")
NAME = entry_name(ID.parts)
BODY = bytes(range(256)) * 12_000
MD5 = hashlib.md5(BODY).hexdigest().encode()


def crc(data: bytes) -> bytes:
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big"))


class ExamineCase(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.store = open_store(
            os.path.join(folder.name, "cache"), max_size=1 << 30, now=lambda: 1_800_000_000.0,
            generations=GenerationTable(),
        )  # fmt: skip
        self.addCleanup(self.store.close)

    def version(
        self, etag: bytes, size: int = len(BODY), parts: PartMap | None = None, **headers: bytes
    ) -> ObjectVersion:
        fields = Headers((name.replace("_", "-").encode(), value) for name, value in headers.items())
        return ObjectVersion(id=ID, etag=b'"%b"' % etag, last_modified=None, size=size, headers=fields, parts=parts)

    def facts(self, version: ObjectVersion) -> dict[str, Any]:
        return {
            "meta": encode_version(version), "object_size": version.size, "validated_at": 1_800_000_000.0,
            "observed_at": 1_800_000_000.0,
        }  # fmt: skip

    def put(self, version: ObjectVersion, body: bytes = BODY) -> None:
        """Whole, in the entry's own file."""
        lease = self.store.lease(NAME)
        assert lease is not None
        self.assertIsNotNone(self.store.publish_inline(lease, **self.facts(version), body=[body]))

    def put_ranges(self, version: ObjectVersion, *spans: tuple[int, int], body: bytes = BODY) -> None:
        lease = self.store.lease(NAME)
        assert lease is not None
        entry = self.store.publish_ranges(lease, **self.facts(version))
        assert entry is not None
        for start, stop in spans:
            writer = self.store.start_range(entry, start, stop - start)
            writer.append([body[start:stop]])
            self.assertIsNotNone(writer.commit())
            writer.close()

    def examine(self, limit: int = 1 << 20) -> Finding:
        examination = Examination(self.store.volume, ID)
        for _ in range(1000):
            finding = examination.step(limit)
            if finding is not None:
                return finding
        raise AssertionError("it does not end")

    def files(self) -> list[str]:
        found = []
        for parent, _, names in os.walk(f"{self.store.root}/o"):
            found += [os.path.join(parent, name) for name in names if not name.endswith(".f")]
        return sorted(found)

    def damage(self, path: str, at: int) -> None:
        with open(path, "r+b") as file:
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes([byte[0] ^ 1]))


class WholeTests(ExamineCase):
    def test_sound(self) -> None:
        """Compared with the best that S3 stated."""
        self.put(self.version(MD5))
        found = self.examine()
        self.assertEqual((found.verdict, found.read, found.compared), (Verdict.SOUND, len(BODY), ("md5",)))
        self.put(self.version(b"x", x_amz_checksum_crc32=crc(BODY)))
        self.assertEqual(self.examine().compared, ("crc32",))
        self.put(self.version(b"x"))
        self.assertEqual((self.examine().verdict, self.examine().compared), (Verdict.SOUND, ()))

    def test_damaged(self) -> None:
        """A bit that fell over is found in every block, and told where."""
        self.put(self.version(MD5))
        (path,) = self.files()
        size = os.stat(path).st_size
        self.damage(path, size - len(BODY) // 2)
        found = self.examine()
        self.assertEqual(found.verdict, Verdict.CORRUPT)
        self.assertIn("checksum of the block", found.reason)

    def test_damaged_description(self) -> None:
        """So is one in what describes the object."""
        self.put(self.version(MD5))
        (path,) = self.files()
        self.damage(path, 140)
        self.assertEqual(self.examine().verdict, Verdict.CORRUPT)

    def test_cut_off(self) -> None:
        """And a file that lost its end."""
        self.put(self.version(MD5))
        (path,) = self.files()
        os.truncate(path, 5000)
        self.assertEqual(self.examine().verdict, Verdict.CORRUPT)

    def test_not_what_s3_has(self) -> None:
        """Bytes that are as stored, and not as S3 stated: corrupt if it was a checksum, doubtful if it was an ETag."""
        self.put(self.version(b"x", x_amz_checksum_crc32=crc(b"other")))
        found = self.examine()
        self.assertEqual((found.verdict, "crc32" in found.reason), (Verdict.CORRUPT, True))
        self.put(self.version(hashlib.md5(b"other").hexdigest().encode()))
        self.assertEqual(self.examine().verdict, Verdict.DOUBTFUL)

    def test_nothing(self) -> None:
        """What is not there is gone, not wrong."""
        self.assertEqual(self.examine().verdict, Verdict.GONE)

    def test_steps(self) -> None:
        """It is read bit by bit, and can be ended early."""
        self.put(self.version(MD5))
        examination = Examination(self.store.volume, ID)
        self.assertIsNone(examination.step(1))
        examination.close()
        examination.close()

    def test_nothing_is_removed(self) -> None:
        """Looking changes nothing, not even what is bad."""
        self.put(self.version(MD5))
        (path,) = self.files()
        self.damage(path, 140)
        self.examine()
        self.assertEqual(self.files(), [path])


class RangesTests(ExamineCase):
    def test_some(self) -> None:
        """Bytes that are not all there are compared with what was stored."""
        self.put_ranges(self.version(MD5), (0, 1000), (5000, 9000))
        found = self.examine()
        self.assertEqual((found.verdict, found.read, found.compared), (Verdict.SOUND, 5000, ()))

    def test_all(self) -> None:
        """Ranges that are the whole together are compared with what S3 has, though they overlap."""
        middle = 1_500_000
        self.put_ranges(self.version(MD5), (0, middle), (middle - 700, len(BODY)))
        found = self.examine()
        self.assertEqual((found.verdict, found.compared), (Verdict.SOUND, ("md5",)))

    def test_damaged(self) -> None:
        """One bad range makes the object bad."""
        self.put_ranges(self.version(MD5), (0, 1000), (5000, 9000))
        path = next(path for path in self.files() if path.endswith("/1388-fa0"))
        self.damage(path, 17)
        self.assertEqual(self.examine().verdict, Verdict.CORRUPT)

    def test_evicted_meanwhile(self) -> None:
        """A range that is evicted while the object is read is no fault of it."""
        self.put_ranges(self.version(MD5), (0, 1000), (5000, 9000))
        examination = Examination(self.store.volume, ID)
        self.assertIsNone(examination.step(1))
        os.unlink(next(path for path in self.files() if path.endswith("/1388-fa0")))
        found = examination.step()
        assert found is not None
        self.assertEqual(found.verdict, Verdict.GONE)


class PartsTests(ExamineCase):
    sizes = (1_000_000, 1_000_000, 1_072_000)

    def pieces(self) -> list[bytes]:
        found, at = [], 0
        for size in self.sizes:
            found.append(BODY[at : at + size])
            at += size
        return found

    def etag(self) -> bytes:
        digests = b"".join(hashlib.md5(piece).digest() for piece in self.pieces())
        return b"%b-%d" % (hashlib.md5(digests).hexdigest().encode(), len(self.sizes))

    def map(self, *checksums: tuple[int, bytes]) -> PartMap:
        return PartMap(
            count=3,
            runs=(Run(1, 0, 1_000_000, 2), Run(3, 2_000_000, 1_072_000, 1)),
            checksums=tuple((number, ((b"x-amz-checksum-crc32", value),)) for number, value in checksums),
        )

    def test_etag_of_parts(self) -> None:
        """The ETag of an upload in parts tells of the whole, if all parts are known."""
        self.put(self.version(self.etag(), parts=self.map()))
        self.assertEqual(self.examine().compared, ("md5 of parts",))
        self.put_ranges(self.version(self.etag(), parts=self.map()), (0, 1_500_000), (1_500_000, len(BODY)))
        self.assertEqual((self.examine().verdict, self.examine().compared), (Verdict.SOUND, ("md5 of parts",)))
        self.put(self.version(self.etag()[::-1].replace(b"3-", b"") + b"-3", parts=self.map()))
        self.assertEqual(self.examine().verdict, Verdict.DOUBTFUL)

    def test_other_stores(self) -> None:
        """Their ETags of uploads in parts prove nothing when they are others."""
        id = ObjectId("localhost:9000", b"b", b"k")
        version = attrs.evolve(self.version(b"0" * 32 + b"-3", parts=self.map()), id=id)
        lease = self.store.lease(entry_name(id.parts))
        assert lease is not None
        self.store.publish_inline(lease, **self.facts(version), body=[BODY])
        found = Examination(self.store.volume, id).step(1 << 30)
        assert found is not None
        self.assertEqual((found.verdict, found.compared), (Verdict.SOUND, ()))

    def test_encrypted(self) -> None:
        """With a key of KMS the ETag is no MD5, and says nothing."""
        self.put(self.version(b"0" * 32 + b"-3", parts=self.map(), x_amz_server_side_encryption=b"aws:kms"))
        self.assertEqual((self.examine().verdict, self.examine().compared), (Verdict.SOUND, ()))

    def test_one_part(self) -> None:
        """A single part is the whole."""
        etag = hashlib.md5(hashlib.md5(BODY).digest()).hexdigest().encode() + b"-1"
        self.put(self.version(etag))
        self.assertEqual(self.examine().compared, ("md5 of parts",))

    def test_checksums_of_parts(self) -> None:
        """A part that is there is compared with its own checksum, whatever else is missing."""
        good = (2, crc(self.pieces()[1]))
        self.put_ranges(self.version(self.etag(), parts=self.map(good)), (900_000, 1_700_000), (1_700_000, 2_100_000))
        self.assertEqual((self.examine().verdict, self.examine().compared), (Verdict.SOUND, ("parts",)))
        self.put_ranges(self.version(self.etag(), parts=self.map((2, crc(b"other")))), (1_000_000, 2_000_000))
        found = self.examine()
        self.assertEqual((found.verdict, "part 2" in found.reason), (Verdict.CORRUPT, True))
        # With a hole in it, nothing can be said.
        self.put_ranges(self.version(self.etag(), parts=self.map(good)), (1_000_000, 1_500_000), (1_600_000, 2_000_000))
        self.assertEqual((self.examine().verdict, self.examine().compared), (Verdict.SOUND, ()))
