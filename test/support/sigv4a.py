"""Signature version 4A: one key pair for all regions, made of the secret key; used for Multi-Region Access Points."""

import hashlib
import hmac
from functools import lru_cache
from test.support.sigv4 import Credential

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

__all__ = ["ALGORITHM_4A", "holds"]

ALGORITHM_4A = b"AWS4-ECDSA-P256-SHA256"
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@lru_cache(maxsize=16)
def _public_key(access_key: str, secret_key: str) -> ec.EllipticCurvePublicKey:
    """By the counter mode of NIST SP 800-108, until the number is one of the curve's."""
    for counter in range(1, 255):
        fixed = ALGORITHM_4A + b"\0" + access_key.encode() + bytes([counter]) + (256).to_bytes(4, "big")
        digest = hmac.new(b"AWS4A" + secret_key.encode(), (1).to_bytes(4, "big") + fixed, hashlib.sha256).digest()
        number = int.from_bytes(digest, "big")
        if number <= _ORDER - 2:
            return ec.derive_private_key(number + 1, ec.SECP256R1()).public_key()
    raise ValueError("no key comes of this secret")


def holds(credential: Credential, date: bytes, scope: bytes, canonical: bytes, given: bytes) -> bool:
    """Whether the hexadecimal signature is one of the canonical request."""
    digest = hashlib.sha256(canonical).hexdigest().encode()
    text = b"\n".join([ALGORITHM_4A, date, scope, digest])
    try:
        key = _public_key(credential.access_key, credential.secret_key)
        key.verify(bytes.fromhex(given.decode()), text, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True
