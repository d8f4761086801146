"""The recorded requests of all clients, each with secrets of its own that can be looked for afterwards."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import attrs

__all__ = ["MARK", "SecretRequest", "read_captures", "secrets_in"]

CAPTURES = Path(__file__).parent.parent / "data" / "captures"
HOST = "s3.us-east-1.amazonaws.com"
MARK = "SECRET"
"""Is in every secret but for signatures of version 4, which are hexadecimal."""

_LARGEST_BODY = 2000
_HEX_64 = re.compile(r"(?<![0-9a-fA-F])[0-9a-f]{64}(?![0-9a-fA-F])")
_SIGNATURE = re.compile(r"(?i)((?:X-Amz-)?Signature=)([0-9a-f]{64})")
_VERSION_2 = re.compile(r"AWS ([^:]+):(\S+)")
_ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"


@attrs.frozen
class SecretRequest:
    """One request.

    :ivar where: file and label
    :ivar wire: what is sent
    :ivar signatures: hexadecimal ones that are in it
    """

    where: str
    method: bytes
    wire: bytes
    signatures: frozenset[str]


def secrets_in(text: str, signatures: frozenset[str]) -> list[str]:
    """Every place of a text in which there is a secret, with some of what is around it."""
    found = [text[max(0, match.start() - 80) : match.end() + 40] for match in re.finditer(MARK, text)]
    for match in _HEX_64.finditer(text):
        if match.group() in signatures:
            found.append(text[max(0, match.start() - 80) : match.end()])
    return found


def read_captures() -> Iterator[SecretRequest]:
    """All recorded requests."""
    number = 0
    for path in sorted(CAPTURES.glob("*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            number += 1
            row = json.loads(line)
            yield _with_secrets(f"{path.stem}: {row['label']}", row, number)


def _key(number: int) -> str:
    """A customer's key of 32 bytes, in base64."""
    return f"{MARK}key{number:06d}".ljust(43, "A") + "="


def _md5(number: int) -> str:
    return f"{MARK}md5{number:06d}".ljust(22, "A") + "=="


def _credential_secrets(text: str, number: int, signatures: set[str]) -> str:
    """A header value or target with another signature and access key."""

    def signature(match: "re.Match[str]") -> str:
        found = hashlib.sha256(f"signature {number}".encode()).hexdigest()
        signatures.add(found)
        return match[1] + found

    text = _SIGNATURE.sub(signature, text)
    text = _VERSION_2.sub(rf"AWS \1:{MARK}sig{number:06d}AAAAAAAAAAAA=", text)
    text = re.sub(r"(?<=[?&])Signature=[^&]+(?=&|$)", f"Signature={MARK}v2{number:06d}AAAAAAAAA%3D", text)
    return text.replace(_ACCESS_KEY, f"AKIA{MARK}{number:06d}WXYZ")


def _with_secrets(where: str, row: "dict[str, object]", number: int) -> SecretRequest:
    signatures: set[str] = set()
    line, headers = row["line"], row["headers"]
    assert isinstance(line, str) and isinstance(headers, list)
    method, target, _ = line.split(" ")
    given = {name.lower(): value for name, value in headers}
    host = "capt." + HOST if given.get("host", "").startswith("capt.") else HOST
    target = re.sub(r"^http://[^/]+", f"http://{host}", target)
    target = _credential_secrets(target, number, signatures)
    if re.search(r"(?i)[?&](X-Amz-Signature|Signature)=", target):
        # The second spelling is one that a careless mask does not know.
        name = "X-Amz-Security-Token" if number % 2 else "x%2Damz-%53ecurity-token"
        target += f"&{name}={quote(f'{MARK}/token+{number}==', safe='')}"
    body, framing = _body(row, given, number)
    skipped = ("host", "content-length", "transfer-encoding", "connection", "x-amz-decoded-content-length")
    fields = [("Host", host)]
    fields += [
        (name, _credential_secrets(value, number, signatures))
        for name, value in headers
        if name.lower() not in skipped
    ]
    fields += framing
    fields += [
        ("X-Amz-Security-Token", f"{MARK}/header+token+{number}=="),
        ("x-amz-s3session-token", f"{MARK}express{number}"),
        ("Cookie", f"session={MARK}cookie{number}"),
        ("Referer", f"https://b.{HOST}/k?X-Amz-Signature={MARK}&X-Amz-Credential={MARK}%2F1&n={number}"),
    ]
    if number % 3 == 0:
        for prefix in ("x-amz-", "x-amz-copy-source-") if "x-amz-copy-source" in given else ("x-amz-",):
            fields += [
                (f"{prefix}server-side-encryption-customer-algorithm", "AES256"),
                (f"{prefix}server-side-encryption-customer-key", _key(number)),
                (f"{prefix}server-side-encryption-customer-key-MD5", _md5(number)),
            ]
    head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields) + "\r\n"
    return SecretRequest(where, method.encode("ascii"), head.encode("utf-8") + body, frozenset(signatures))


def _body(row: "dict[str, object]", given: "dict[str, str]", number: int) -> "tuple[bytes, list[tuple[str, str]]]":
    """A shorter body than that which was recorded, framed alike, and the fields that frame it."""
    size = min(int(given.get("x-amz-decoded-content-length", given.get("content-length", "0"))), _LARGEST_BODY)
    data = b"x" * size
    fields = []
    if "aws-chunked" in given.get("content-encoding", "") or given.get("x-amz-content-sha256", "").startswith("STREAM"):
        signature = hashlib.sha256(f"chunk {number}".encode()).hexdigest().encode()
        pieces = [b"%x;chunk-signature=%b\r\n%b\r\n" % (size, signature, data)] if size else []
        data = b"".join((*pieces, b"0;chunk-signature=%b\r\n" % signature, b"x-amz-trailer-signature:SECRET\r\n\r\n"))
        fields.append(("x-amz-decoded-content-length", str(size)))
    if row["framing"] == "chunked":
        return b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data), [*fields, ("Transfer-Encoding", "chunked")]
    if row["framing"] == "content-length" or "content-length" in given:
        return data, [*fields, ("Content-Length", str(len(data)))]
    return b"", fields
