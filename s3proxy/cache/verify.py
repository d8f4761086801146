"""S3's own checksums, computed over a whole body while it is written.

Which one: the cheapest that S3 stated for the full object (``x-amz-checksum-*``, S3 API: "Checking object integrity"),
else an ETag that is an MD5, which holds for single uploads without KMS or customer keys.
"""

import base64
import hashlib
import zlib
from collections.abc import Callable

from s3proxy.s3.headers import Headers

__all__ = ["Verifier", "verifier_for"]

_HEX = frozenset(b"0123456789abcdef")


class Verifier:
    """Computes one checksum over a body.

    :ivar strict: S3 stated the checksum itself: a body that does not match is wrong. Otherwise it was concluded from
        the ETag, which compatible stores may form differently: such a body is only not kept.
    """

    def __init__(
        self, update: Callable[[bytes], None], digest: Callable[[], bytes], expected: bytes, *, strict: bool
    ) -> None:
        self.update = update
        self.strict = strict
        self._digest = digest
        self._expected = expected

    def holds(self) -> bool:
        """Whether what was fed to :meth:`update`, in order, is what S3 has."""
        return self._digest() == self._expected


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, chunk: bytes) -> None:
        self._value = zlib.crc32(chunk, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


def verifier_for(headers: Headers, etag: bytes) -> Verifier | None:
    """A verifier for a whole object with these headers, or None if S3 stated nothing that can be checked here."""
    if (headers.get(b"x-amz-checksum-type") or b"FULL_OBJECT").upper() == b"FULL_OBJECT":
        for name in (b"crc32", b"sha1", b"sha256"):
            stated = headers.get(b"x-amz-checksum-" + name)
            # Composite checksums of older multipart uploads end in "-N" and come without a type.
            if stated is None or b"-" in stated:
                continue
            try:
                expected = base64.b64decode(stated, validate=True)
            except ValueError:
                continue
            state = _Crc32() if name == b"crc32" else hashlib.new(name.decode("ascii"))
            return Verifier(state.update, state.digest, expected, strict=True)
    encrypted = headers.get(b"x-amz-server-side-encryption")
    plain = etag.strip(b'"')
    if len(plain) == 32 and _HEX.issuperset(plain) and encrypted in (None, b"AES256"):
        digest = hashlib.md5(usedforsecurity=False)
        return Verifier(digest.update, digest.digest, bytes.fromhex(plain.decode("ascii")), strict=False)
    return None
