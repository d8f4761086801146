"""S3's own checksums, computed over a whole body while it is written.

Which one: the cheapest that S3 stated for the full object (``x-amz-checksum-*``, S3 API: "Checking object integrity"),
else an ETag that is an MD5, which holds for single uploads without KMS or customer keys.
"""

from collections.abc import Callable

from s3proxy.s3.checksums import decode_checksum, is_known, new_checksum
from s3proxy.s3.headers import Headers

__all__ = ["Verifier", "verifier_for"]

CHEAPEST_FIRST = (b"crc64nvme", b"crc32c", b"crc32", b"sha1", b"sha256", b"sha512")
_HEX = frozenset(b"0123456789abcdef")


class Verifier:
    """Computes one checksum over a body.

    :ivar name: of the algorithm
    :ivar strict: S3 stated the checksum itself: a body that does not match is wrong. Otherwise it was concluded from
        the ETag, which compatible stores may form differently: such a body is only not kept.
    """

    def __init__(
        self,
        update: Callable[[bytes], None],
        digest: Callable[[], bytes],
        expected: bytes,
        *,
        strict: bool,
        name: str = "",
    ) -> None:
        self.name = name
        self.update = update
        self.strict = strict
        self._digest = digest
        self._expected = expected

    def holds(self) -> bool:
        """Whether what was fed to :meth:`update`, in order, is what S3 has."""
        return self._digest() == self._expected


def verifier_for(headers: Headers, etag: bytes) -> Verifier | None:
    """A verifier for a whole object with these headers, or None if S3 stated nothing that can be checked here."""
    if (headers.get(b"x-amz-checksum-type") or b"FULL_OBJECT").upper() == b"FULL_OBJECT":
        for name in CHEAPEST_FIRST:
            stated = headers.get(b"x-amz-checksum-" + name)
            # Composite checksums of older multipart uploads end in "-N" and come without a type.
            expected = None if stated is None else decode_checksum(name, stated)
            if expected is not None and is_known(name):
                state = new_checksum(name)
                return Verifier(state.update, state.digest, expected, strict=True, name=name.decode("ascii"))
    encrypted = headers.get(b"x-amz-server-side-encryption")
    plain = etag.strip(b'"')
    if len(plain) == 32 and _HEX.issuperset(plain) and encrypted in (None, b"AES256"):
        digest = new_checksum(b"md5")
        expected = bytes.fromhex(plain.decode("ascii"))
        return Verifier(digest.update, digest.digest, expected, strict=False, name="md5")
    return None
