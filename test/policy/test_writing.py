"""Which uploads are kept, and how the object is described."""

import base64
import hashlib
import zlib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.cache.entry import ObjectId
from s3proxy.config.model import Cache, Config
from s3proxy.policy.rules import Rules, Settings
from s3proxy.policy.verdicts import Reason
from s3proxy.policy.writing import (
    BodyPlan,
    Description,
    Expected,
    decode_description,
    described_by,
    encode_description,
    expected_checksums,
    is_true_copy,
    is_upload_tag,
    names_to_compute,
    plan_body,
    upload_time,
    written_version,
)
from s3proxy.s3.address import ObjectAddress
from s3proxy.s3.headers import Headers
from s3proxy.s3.parts import PartMap

ID = ObjectId("aws", b"bucket", b"key")
TYPE = (b"Content-Type", b"binary/octet-stream")
BODY = b"some bytes"
MD5 = hashlib.md5(BODY).digest()
MD5_TAG = b'"%s"' % MD5.hex().encode()
CRC32 = zlib.crc32(BODY).to_bytes(4, "big")


def settings(**changes: Any) -> Settings:
    """Those of an object under the defaults."""
    config = Config(cache=Cache(**changes))
    return Rules(config).resolve(ObjectAddress(store="aws", bucket=b"bucket", key=b"key"))


def headers(**fields: bytes) -> Headers:
    """Fields whose names are given with underscores."""
    return Headers((name.replace("_", "-").encode(), value) for name, value in fields.items())


class PlanTests(SynchronousTestCase):
    """Whether a body is kept."""

    def plan(self, fields: Headers, length: int | None = 10, largest: int = 100, **changes: Any) -> "BodyPlan | Reason":
        return plan_body(fields, length, settings(**changes), largest)

    def test_plain(self) -> None:
        """A body of known length that is not too long."""
        self.assertEqual(self.plan(headers()), BodyPlan(10, False))
        self.assertEqual(self.plan(headers(), 0), BodyPlan(0, False))
        self.assertEqual(self.plan(headers(), 100), BodyPlan(100, False))

    def test_chunked(self) -> None:
        """The length of what is in the chunks counts, not that on the wire."""
        fields = headers(x_amz_content_sha256=b"STREAMING-UNSIGNED-PAYLOAD-TRAILER", x_amz_decoded_content_length=b"99")
        self.assertEqual(self.plan(fields, 150), BodyPlan(99, True))
        self.assertEqual(self.plan(fields, None), BodyPlan(99, True))
        self.assertIs(self.plan(fields, 50, largest=98), Reason.TOO_LARGE)

    def test_declined(self) -> None:
        """What is too long, of unknown length, of unclear form, encrypted with the client's key, or switched off."""
        streaming = b"STREAMING-UNSIGNED-PAYLOAD-TRAILER"
        for fields, length, reason in (
            (headers(), 101, Reason.TOO_LARGE),
            (headers(), None, Reason.NO_LENGTH),
            (headers(x_amz_content_sha256=streaming), 10, Reason.NO_LENGTH),
            (headers(content_encoding=b"aws-chunked", x_amz_content_sha256=b"0" * 64), 10, Reason.NOT_CACHEABLE),
            (headers(x_amz_server_side_encryption_customer_algorithm=b"AES256"), 10, Reason.SSE_C),
        ):
            self.assertIs(self.plan(fields, length), reason, fields)
        self.assertIs(self.plan(headers(), write_cache_enabled=False), Reason.WRITE)
        self.assertIs(self.plan(headers(), read_cache_enabled=False), Reason.WRITE)


class DescriptionTests(SynchronousTestCase):
    """What S3 will say about the object."""

    def test_echoed(self) -> None:
        """What S3 repeats, spelt as S3 spells it; nothing else."""
        fields = headers(
            CACHE_control=b"max-age=1",
            content_Type=b"text/plain",
            X_Amz_Meta_Colour=b"green",
            expires=b"soon",
            x_amz_website_redirect_location=b"/x",
            x_amz_acl=b"private",
            authorization=b"secret",
            content_md5=b"x",
            x_amz_checksum_crc32=b"y",
        )
        self.assertEqual(
            described_by(fields),
            (
                (b"Cache-Control", b"max-age=1"),
                (b"Content-Type", b"text/plain"),
                (b"x-amz-meta-colour", b"green"),
                (b"Expires", b"soon"),
                (b"x-amz-website-redirect-location", b"/x"),
            ),
        )

    def test_default_type(self) -> None:
        """S3's own."""
        self.assertEqual(described_by(headers()), (TYPE,))

    def test_encodings(self) -> None:
        """aws-chunked is no encoding of the object."""
        for value, expected in (
            (b"gzip", ((b"Content-Encoding", b"gzip"), TYPE)),
            (b"gzip, br", ((b"Content-Encoding", b"gzip, br"), TYPE)),
            (b"aws-chunked", (TYPE,)),
            (b"aws-chunked,gzip", ((b"Content-Encoding", b"gzip"), TYPE)),
        ):
            self.assertEqual(described_by(headers(content_encoding=value)), expected)

    def test_storage_class_and_tags(self) -> None:
        """The ordinary class is not shown; of tags only their number is."""
        for fields, expected in (
            (headers(x_amz_storage_class=b"STANDARD"), (TYPE,)),
            (headers(x_amz_storage_class=b"GLACIER_IR"), ((b"x-amz-storage-class", b"GLACIER_IR"), TYPE)),
            (headers(x_amz_tagging=b"a=1&b=2"), ((b"x-amz-tagging-count", b"2"), TYPE)),
            (headers(x_amz_tagging=b""), (TYPE,)),
        ):
            self.assertEqual(described_by(fields), expected)

    def test_not_known(self) -> None:
        """Values that S3 changes, joins or refuses."""
        self.assertIsNone(described_by(headers(x_amz_meta_name="grün".encode())))
        self.assertIsNone(described_by(headers(x_amz_meta_name=b"=?UTF-8?Q?gr=C3=BCn?=")))
        self.assertIsNone(described_by(headers(x_amz_meta_name=b"a\tb")))
        self.assertIsNone(described_by(headers(x_amz_meta_name=b"a\x7f")))
        self.assertIsNone(described_by(headers(x_amz_storage_class=b"GLACIER")))
        self.assertIsNone(described_by(headers(content_disposition=b'attachment; filename="\xe4"')))
        repeated = Headers([(b"x-amz-meta-a", b"1"), (b"X-Amz-Meta-A", b"2")])
        self.assertIsNone(described_by(repeated))

    @given(st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=20)), max_size=5), st.none() | st.binary())
    def test_round_trip(self, fields: "list[tuple[bytes, bytes]]", begun_at: bytes | None) -> None:
        """A description that waits is the same when it is read."""
        described = Description(tuple(fields), begun_at)
        self.assertEqual(decode_description(encode_description(described)), described)

    @given(st.binary(max_size=50))
    def test_garbage(self, data: bytes) -> None:
        """What is no description is none."""
        found = decode_description(data)
        self.assertTrue(found is None or isinstance(found, Description))

    def test_other_json(self) -> None:
        """Nor is JSON of another shape."""
        for fields in (b"5", b"[5]", b"[[1, 2]]", b'[["a"]]', b'[["\\u20ac", "b"]]', b"null"):
            self.assertIsNone(decode_description(b'{"fields": %s, "begun": null}' % fields), fields)
            self.assertIsNone(decode_description(fields), fields)
        for data in (b"{}", b"{}x", b'{"fields": []}', b'{"fields": [], "begun": 5}', b"\xff"):
            self.assertIsNone(decode_description(data), data)


class UploadTimeTests(SynchronousTestCase):
    """When a multipart upload was under way."""

    def test_both_ends(self) -> None:
        """It is told by the dates of S3's answers, the second one less the time that S3 took, and a whole second."""
        begun, answered = b"Tue, 14 Nov 2023 22:13:20 GMT", Headers([(b"Date", b"Tue, 14 Nov 2023 22:15:00 GMT")])
        self.assertEqual(upload_time(begun, answered, 2.5), (1_700_000_000.0, 1_700_000_096.5))
        for unknown in (None, b"yesterday"):
            self.assertEqual(upload_time(unknown, answered, 2.5), (0.0, 1_700_000_096.5))
        self.assertIsNone(upload_time(begun, Headers(), 2.5))


class VersionTests(SynchronousTestCase):
    """The entry."""

    def version(self, answer: Headers, **more: Any) -> Any:
        return written_version(ID, 10, ((b"x-amz-meta-a", b"1"), TYPE), b'"tag"', answer, **more)

    def test_headers(self) -> None:
        """Those of the request that S3 repeats, and those of the answer that a GET repeats."""
        version = self.version(
            headers(
                ETag=b'"tag"',
                date=b"now",
                server=b"AmazonS3",
                content_length=b"0",
                content_type=b"application/xml",
                x_amz_request_id=b"R",
                x_amz_version_id=b"v1",
                x_amz_server_side_encryption=b"aws:kms",
                x_amz_expiration=b"never",
                x_amz_checksum_crc32=b"AAAAAA==",
                x_amz_checksum_type=b"FULL_OBJECT",
            )
        )
        self.assertEqual(
            sorted(version.headers),
            sorted(
                (
                    (b"ETag", b'"tag"'),
                    TYPE,
                    (b"x-amz-meta-a", b"1"),
                    (b"x-amz-version-id", b"v1"),
                    (b"x-amz-server-side-encryption", b"aws:kms"),
                    (b"x-amz-expiration", b"never"),
                    (b"x-amz-checksum-crc32", b"AAAAAA=="),
                    (b"x-amz-checksum-type", b"FULL_OBJECT"),
                )
            ),
        )
        self.assertEqual((version.etag, version.size, version.last_modified), (b'"tag"', 10, None))
        self.assertTrue(version.checksums)

    def test_no_checksums(self) -> None:
        """Who asks for checksums asks S3, if S3 has not told any."""
        self.assertFalse(self.version(headers()).checksums)

    def test_parts(self) -> None:
        """An upload in parts can be read in parts."""
        parts = PartMap.of_upload([(1, 4), (2, 6)])
        self.assertIs(self.version(headers(), parts=parts).parts, parts)


class ChecksumTests(SynchronousTestCase):
    """Whether the copy is what S3 has."""

    def test_expected(self) -> None:
        """Those that can be computed, in any case; not those of parts, nor what is no checksum."""
        fields = [
            (b"Content-MD5", base64.b64encode(MD5)),
            (b"X-Amz-Checksum-CRC32", base64.b64encode(CRC32)),
            (b"x-amz-checksum-sha256", b"short"),
            (b"x-amz-checksum-crc32", b"AAAAAA==-2"),
            (b"x-amz-checksum-type", b"FULL_OBJECT"),
            (b"x-amz-checksum-unheard", b"AAAAAA=="),
            (b"etag", b"x"),
        ]
        self.assertEqual(expected_checksums(fields), (Expected(b"md5", MD5), Expected(b"crc32", CRC32)))

    def test_names(self) -> None:
        """What is stated, or will be; an MD5 if nothing is."""
        crc = base64.b64encode(CRC32)
        for fields, expected in (
            (headers(), (b"md5",)),
            (headers(x_amz_checksum_crc32=crc), (b"crc32",)),
            (headers(x_amz_checksum_crc32=crc, x_amz_trailer=b"x-amz-checksum-crc32"), (b"crc32",)),
            (headers(x_amz_trailer=b"x-amz-checksum-sha1, X-Amz-Checksum-SHA256"), (b"sha1", b"sha256")),
            (headers(x_amz_trailer=b"x-amz-meta-late"), (b"md5",)),
            (headers(content_md5=base64.b64encode(MD5), x_amz_checksum_crc32=crc), (b"md5", b"crc32")),
        ):
            self.assertEqual(names_to_compute(fields), expected)

    def test_true(self) -> None:
        """Nothing contradicts."""
        digests = {b"md5": MD5, b"crc32": CRC32}
        stated = (Expected(b"crc32", CRC32),)
        answer = headers(x_amz_checksum_crc32=base64.b64encode(CRC32), x_amz_checksum_sha1=base64.b64encode(bytes(20)))
        self.assertTrue(is_true_copy(digests, stated, MD5_TAG, answer))
        self.assertTrue(is_true_copy({b"crc32": CRC32}, (), b'"%s"' % (b"0" * 32), headers()))

    def test_false(self) -> None:
        """Something does: what is stated, S3's checksum, S3's ETag; or what is stated was not computed."""
        digests = {b"md5": MD5, b"crc32": CRC32}
        wrong = base64.b64encode(bytes(4))
        self.assertFalse(is_true_copy(digests, (Expected(b"crc32", bytes(4)),), MD5_TAG, headers()))
        self.assertFalse(is_true_copy(digests, (Expected(b"sha1", bytes(20)),), MD5_TAG, headers()))
        self.assertFalse(is_true_copy(digests, (), MD5_TAG, headers(x_amz_checksum_crc32=wrong)))
        self.assertFalse(is_true_copy(digests, (), b'"%s"' % (b"0" * 32), headers()))
        encrypted = headers(x_amz_server_side_encryption=b"AES256")
        self.assertFalse(is_true_copy(digests, (), b'"%s"' % (b"0" * 32), encrypted))

    def test_tags_that_are_no_digests(self) -> None:
        """With other encryption, or at other stores, the ETag is anything."""
        digests = {b"md5": MD5}
        kms = headers(x_amz_server_side_encryption=b"aws:kms")
        self.assertTrue(is_true_copy(digests, (), b'"%s"' % (b"0" * 32), kms))
        for etag in (b"", b'"abc"', b'W/"x"', b'"%s"' % (b"Z" * 32), b'"%s-1"' % (b"0" * 32)):
            self.assertTrue(is_true_copy(digests, (), etag, headers()), etag)

    def test_tag_of_an_upload(self) -> None:
        """The number of the parts, and the MD5 of their MD5s."""
        parts = [b'"%s"' % hashlib.md5(b"%d" % number).hexdigest().encode() for number in range(3)]
        together = hashlib.md5(b"".join(hashlib.md5(b"%d" % number).digest() for number in range(3))).hexdigest()
        right = b'"%s-3"' % together.encode()
        self.assertTrue(is_upload_tag(right, parts))
        self.assertTrue(is_upload_tag(right, [part.strip(b'"') for part in parts]))
        for etag, listed in (
            (right, parts[:2]),
            (right, parts[::-1]),
            (right, parts + parts[:1]),
            (right.replace(b"-3", b"-4"), parts),
            (right.replace(b"-3", b""), parts),
            (b'"%s-3"' % (b"0" * 32), parts),
            (b"", parts),
        ):
            self.assertFalse(is_upload_tag(etag, listed), (etag, listed))
        self.assertTrue(is_upload_tag(b'"something-1"', parts[:1]))
        self.assertTrue(is_upload_tag(b'"%s-1"' % (b"0" * 32), [b'"no digest"']))
