"""The checksums that S3 knows."""

import base64
import importlib.util
import sys

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from s3proxy.s3 import checksums
from s3proxy.s3.checksums import decode_checksum, is_known, new_checksum

CHECK = {
    b"crc32": "cbf43926",
    b"crc32c": "e3069283",
    b"crc64nvme": "ae8b14860a799888",
    b"md5": "25f9e794323b453885f5181f1b624d0b",
    b"sha1": "f7c3bc1d808e04732adf679965ccc34ca7ae3441",
    b"sha256": "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
}
"""Of ``123456789``, as the catalogues of CRCs and of hashes give them."""
NATIVE = (b"crc32c", b"crc64nvme")


def missing(name: bytes) -> bool:
    """Whether the machine lacks the package for this one."""
    return name in NATIVE and importlib.util.find_spec("awscrt") is None


class ChecksumTests(SynchronousTestCase):
    """:func:`new_checksum`."""

    def test_known_values(self) -> None:
        """The values of the catalogues."""
        for name, expected in CHECK.items():
            if missing(name):
                raise SkipTest("awscrt is not installed")
            state = new_checksum(name)
            state.update(b"1234")
            state.update(b"56789")
            self.assertEqual(state.digest().hex(), expected, name)

    @given(st.lists(st.binary(max_size=50)), st.sampled_from([name for name in CHECK if not missing(name)]))
    def test_pieces(self, pieces: list[bytes], name: bytes) -> None:
        """It does not matter how a body is cut."""
        whole, cut = new_checksum(name), new_checksum(name)
        whole.update(b"".join(pieces))
        for piece in pieces:
            cut.update(piece)
        self.assertEqual(whole.digest(), cut.digest())

    def test_unknown(self) -> None:
        """What is not known is said to be so."""
        for name in (b"xxhash64", b"blake2b", b""):
            self.assertFalse(is_known(name))
            self.assertRaises(KeyError, new_checksum, name)

    def test_without_awscrt(self) -> None:
        """Two of them need a package that may be missing."""
        self.patch(checksums, "_found", {})
        modules = dict(sys.modules)
        self.addCleanup(sys.modules.update, modules)
        sys.modules["awscrt.checksums"] = None  # type: ignore[assignment]
        self.assertEqual([is_known(name) for name in NATIVE], [False, False])
        self.assertTrue(is_known(b"crc32"))


class DecodeTests(SynchronousTestCase):
    """:func:`decode_checksum`."""

    def test_values(self) -> None:
        """Base64 of the right length, and nothing else."""
        self.assertEqual(decode_checksum(b"crc32", b" y/Q5Jg== "), bytes.fromhex("cbf43926"))
        for name, value in ((b"crc32", b"y/Q5Jg==-2"), (b"crc32", b"y/Q5"), (b"sha1", b"y/Q5Jg=="), (b"crc32", b"%%")):
            self.assertIsNone(decode_checksum(name, value))
        self.assertIsNone(decode_checksum(b"xxhash64", base64.b64encode(bytes(8))))
