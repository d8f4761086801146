"""What is remembered of an object version."""

import json
from email.utils import formatdate

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.cache.entry import ObjectId, ObjectVersion, decode_version, encode_version
from s3proxy.s3.headers import Headers
from s3proxy.s3.parts import PartMap, Run

ID = ObjectId("aws", b"bucket", b"key")
CRC = (b"x-amz-checksum-crc32", b"AAAAAA==")
TYPE = (b"x-amz-checksum-type", b"FULL_OBJECT")
PARTS = PartMap(count=3, runs=(Run(1, 0, 5, 2),), checksums=((2, (CRC, TYPE)),))
VERSION = ObjectVersion(
    id=ID,
    etag=b'"v1"',
    last_modified=b"Wed, 21 Oct 2015 07:28:00 GMT",
    size=1 << 43,
    headers=Headers([(b"ETag", b'"v1"'), (b"X-Amz-Meta-A", b"gr\xc3\xbcn"), (b"x", b"1"), (b"X", b"2")]),
)


def http_date(seconds: float) -> bytes:
    return formatdate(seconds, usegmt=True).encode()


class EncodingTests(SynchronousTestCase):
    """Bytes on disk."""

    def test_nothing_is_lost(self) -> None:
        """Order, spelling, repetition and foreign bytes of header fields survive."""
        for version in (
            VERSION,
            attrs.evolve(VERSION, last_modified=None, checksums=True, size=0),
            attrs.evolve(VERSION, parts=PARTS),
        ):
            decoded = decode_version(encode_version(version))
            self.assertEqual(decoded, version)
            assert decoded is not None
            self.assertEqual(decoded.headers.pairs, version.headers.pairs)

    @given(
        st.binary(max_size=40),
        st.binary(max_size=40),
        st.binary(max_size=20),
        st.none() | st.binary(max_size=20),
        st.integers(0, 1 << 60),
        st.lists(st.tuples(st.binary(max_size=10), st.binary(max_size=20)), max_size=5),
        st.booleans(),
    )
    def test_any_version(
        self,
        bucket: bytes,
        key: bytes,
        etag: bytes,
        modified: bytes | None,
        size: int,
        fields: list[tuple[bytes, bytes]],
        checksums: bool,
    ) -> None:
        """Whatever bytes there are."""
        version = ObjectVersion(
            id=ObjectId("host:9000", bucket, key),
            etag=etag,
            last_modified=modified,
            size=size,
            headers=Headers(fields),
            checksums=checksums,
        )
        data = encode_version(version)
        self.assertTrue(data.isascii())
        self.assertEqual(decode_version(data), version)

    @given(st.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        """Bytes of any kind are decoded to nothing, not to an error."""
        self.assertIsNone(decode_version(data))

    def test_damaged(self) -> None:
        """Every field has to be there, and to be of its kind."""
        good = json.loads(encode_version(VERSION))
        for name in good:
            broken = {key: value for key, value in good.items() if key != name}
            self.assertIsNone(decode_version(json.dumps(broken).encode()), name)
        for name, value in (
            ("v", 2),
            ("bucket", 1),
            ("key", "\u20ac"),
            ("etag", None),
            ("modified", 5),
            ("size", -1),
            ("size", True),
            ("size", 1.0),
            ("size", "1"),
            ("headers", [["a"]]),
            ("headers", 1),
            ("parts", 1),
            ("upload", 1),
            ("upload", [1.0]),
            ("upload", ["a", "b"]),
            ("parts", {"count": 3}),
            ("parts", {"count": 3, "runs": [0, 0, 5, 1], "names": [], "checksums": [[1, 0]]}),
        ):
            self.assertIsNone(decode_version(json.dumps({**good, name: value}).encode()), (name, value))


class VersionTests(SynchronousTestCase):
    """Comparing and merging."""

    def test_same_bytes(self) -> None:
        """ETag and size together tell the bytes; other fields don't matter."""
        self.assertTrue(VERSION.same_bytes(attrs.evolve(VERSION, headers=Headers(), last_modified=None)))
        self.assertFalse(VERSION.same_bytes(attrs.evolve(VERSION, etag=b'"v2"')))
        self.assertFalse(VERSION.same_bytes(attrs.evolve(VERSION, size=1)))

    def test_written_again(self) -> None:
        """Of what was written through the proxy it is known when, until S3 tells since when it is there."""
        written = attrs.evolve(VERSION, last_modified=None, written_at=b"Tue, 14 Nov 2023 22:13:20 GMT")
        self.assertEqual(decode_version(encode_version(written)), written)
        for modified, again in (
            (b"Tue, 14 Nov 2023 22:13:21 GMT", False),
            (b"Tue, 14 Nov 2023 22:13:22 GMT", True),
            (b"Mon, 13 Nov 2023 22:13:22 GMT", False),
            (b"yesterday", True),
        ):
            self.assertEqual(written.is_rewritten(modified), again)
            self.assertFalse(VERSION.is_rewritten(modified))
        known = written.modified_at(b"Tue, 14 Nov 2023 22:13:20 GMT")
        self.assertIsNone(known.written_at)
        self.assertIsNone(written.merged(VERSION).written_at)

    def test_uploaded_in_parts(self) -> None:
        """An object that is older than the request for the end of its upload was dated by its beginning, or was there
        already.
        """
        noon = 1_700_000_000
        written = attrs.evolve(
            VERSION, last_modified=None, written_at=http_date(noon), upload_time=(noon - 100.0, noon - 10.5)
        )
        self.assertEqual(decode_version(encode_version(written)), written)
        for seconds, again in (
            (-1000, False),
            (-99, False),
            (-98, True),
            (-12, True),
            (-11, False),
            (1, False),
            (2, True),
        ):
            self.assertEqual(written.is_rewritten(http_date(noon + seconds)), again, seconds)
        self.assertIsNone(written.modified_at(http_date(noon)).upload_time)
        self.assertIsNone(written.merged(VERSION).upload_time)

    def test_newer_description_wins(self) -> None:
        """Fields that only the older one has are gone."""
        newer = attrs.evolve(VERSION, headers=Headers([(b"ETag", b'"v1"')]), last_modified=None)
        self.assertEqual(VERSION.merged(newer), newer)

    def test_checksums_stay(self) -> None:
        """Checksums that only the older answer was asked for stay, and no other of its fields."""
        older = attrs.evolve(VERSION, headers=Headers([(b"a", b"1"), CRC, TYPE]), checksums=True)
        newer = attrs.evolve(VERSION, headers=Headers([(b"b", b"2")]))
        merged = older.merged(newer)
        self.assertEqual(merged.headers.pairs, ((b"b", b"2"), CRC, TYPE))
        self.assertTrue(merged.checksums)

    def test_newer_checksums_replace(self) -> None:
        """When both were asked for, the newer ones count, also when there are none."""
        older = attrs.evolve(VERSION, headers=Headers([CRC]), checksums=True)
        newer = attrs.evolve(VERSION, headers=Headers([(b"b", b"2")]), checksums=True)
        self.assertEqual(older.merged(newer), newer)

    def test_parts_stay(self) -> None:
        """What either knows of the parts is known of both, and it is no description of the object."""
        older = attrs.evolve(VERSION, parts=PartMap(count=3, runs=(Run(1, 0, 5, 1),)))
        newer = attrs.evolve(VERSION, headers=Headers([(b"b", b"2")]))
        self.assertEqual(older.merged(newer), attrs.evolve(newer, parts=older.parts))
        newer = attrs.evolve(newer, parts=PartMap(count=3, runs=(Run(2, 5, 5, 1),)))
        both = PartMap(count=3, runs=(Run(1, 0, 5, 2),))
        self.assertEqual(older.merged(newer), attrs.evolve(newer, parts=both))
        self.assertEqual(older.knowing(newer.parts), attrs.evolve(older, parts=both))
        self.assertEqual(VERSION.knowing(both), attrs.evolve(VERSION, parts=both))
        self.assertIs(older.knowing(None), older)

    def test_parts_name_the_object(self) -> None:
        """Store, bucket and key, each by itself."""
        self.assertEqual(ObjectId("h\u00f6st", b"a", b"b/c").parts, ("h\u00f6st".encode(), b"a", b"b/c"))
