"""S3's checksums."""

import base64
import hashlib
import zlib

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.cache.verify import verifier_for
from s3proxy.s3.headers import Headers

BODY = b"some bytes of an object"
MD5 = hashlib.md5(BODY).hexdigest().encode()


class VerifierTests(SynchronousTestCase):
    """Which checksum is computed, and what it says."""

    def holds(self, etag: bytes, body: bytes = BODY, **headers: bytes) -> tuple[bool, bool] | None:
        """Whether the body matches, and whether that is S3's own word; None: nothing to compare with."""
        fields = Headers((name.replace("_", "-").encode(), value) for name, value in headers.items())
        verifier = verifier_for(fields, etag)
        if verifier is None:
            return None
        for start in range(0, len(body), 5):
            verifier.update(body[start : start + 5])
        return verifier.holds(), verifier.strict

    def test_stated_checksums(self) -> None:
        """Each algorithm of the standard library is checked strictly."""
        crc32 = base64.b64encode(zlib.crc32(BODY).to_bytes(4, "big"))
        sha1 = base64.b64encode(hashlib.sha1(BODY).digest())
        sha256 = base64.b64encode(hashlib.sha256(BODY).digest())
        self.assertEqual(self.holds(b'"x"', x_amz_checksum_crc32=crc32), (True, True))
        self.assertEqual(self.holds(b'"x"', x_amz_checksum_sha1=sha1), (True, True))
        self.assertEqual(self.holds(b'"x"', x_amz_checksum_sha256=sha256), (True, True))
        self.assertEqual(self.holds(b'"x"', BODY + b"!", x_amz_checksum_sha256=sha256), (False, True))

    def test_composite_checksums_are_not_of_the_body(self) -> None:
        """A checksum of checksums says nothing about the whole."""
        self.assertIsNone(self.holds(b'"x-2"', x_amz_checksum_crc32=b"AAAAAA==", x_amz_checksum_type=b"COMPOSITE"))
        self.assertIsNone(self.holds(b'"x-2"', x_amz_checksum_crc32=b"AAAAAA==-2"))

    def test_etag_that_is_an_md5(self) -> None:
        """An ETag of 32 hexadecimal digits is an MD5, unless the object is encrypted with a key of its own."""
        self.assertEqual(self.holds(b'"' + MD5 + b'"'), (True, False))
        self.assertEqual(self.holds(b'"' + MD5 + b'"', BODY[:-1]), (False, False))
        self.assertEqual(self.holds(b'"' + MD5 + b'"', x_amz_server_side_encryption=b"AES256"), (True, False))
        self.assertIsNone(self.holds(b'"' + MD5 + b'"', x_amz_server_side_encryption=b"aws:kms"))
        self.assertIsNone(self.holds(b'"' + MD5 + b'-3"'))
        self.assertIsNone(self.holds(b'W/"' + MD5 + b'"'))

    def test_nonsense_is_ignored(self) -> None:
        """What is not base64 is no checksum."""
        self.assertIsNone(self.holds(b'"x"', x_amz_checksum_sha1=b"***"))
