"""Every recorded request of every client is recognised: what it does, to which object, and who signed what."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote_to_bytes

import attrs
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.s3.address import ObjectAddress, locate
from s3proxy.s3.headers import HOP_BY_HOP, Headers, forwardable_request
from s3proxy.s3.operation import Operation, classify
from s3proxy.s3.ranges import FromTo, From, Suffix, parse_range
from s3proxy.s3.signature import Signature, SignatureForm, read_signature
from s3proxy.s3.target import RequestTarget, parse_target

CAPTURES = Path(__file__).parent.parent / "data" / "captures"
BASE_DOMAINS = ("s3.localhost", "s3.amzn.test")

# What a request with exactly these parameters is, derived by hand from the S3 API; credentials and x-id do not appear.
BY_SHAPE = {
    ("GET", "object", ""): "GetObject",
    ("HEAD", "object", ""): "HeadObject",
    ("GET", "object", "partNumber"): "GetObjectPart",
    ("GET", "object", "acl"): "GetObjectAcl",
    ("PUT", "object", ""): "PutObject",
    ("PUT", "object", "x-amz-checksum-crc32 x-amz-sdk-checksum-algorithm"): "PutObject",
    ("PUT", "copy", ""): "CopyObject",
    ("PUT", "object", "acl"): "PutObjectAcl",
    ("PUT", "object", "partNumber uploadId"): "UploadPart",
    ("POST", "object", "uploads"): "CreateMultipartUpload",
    ("POST", "object", "uploadId"): "CompleteMultipartUpload",
    ("DELETE", "object", ""): "DeleteObject",
    ("POST", "bucket", "delete"): "DeleteObjects",
    ("HEAD", "bucket", ""): "HeadBucket",
    ("GET", "bucket", "cors"): "GetBucketSubresource",
    ("GET", "bucket", "policy"): "GetBucketSubresource",
}
LISTING_PARAMETERS = {"delimiter", "encoding-type", "list-type", "max-keys", "prefix"}

# What a client may have to do for a label: which operations can appear below it at all.
READS = {"GetObject", "HeadObject"}
LISTS = {"ListObjects", "ListObjectsV2"}
UPLOADS = {"PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "HeadObject"} | LISTS
BY_LABEL = (
    (r"(range|suffix)", READS | LISTS),
    (r"(get|download|fget|open-read|range|s3api-(get|range|suffix|inm|head)|parquet-read|scan_|select-).*", READS),
    (r"(if-|presign-get|presign-range|get404|head|cat|stat|read_blob).*", READS),
    (r"partNumber", {"GetObjectPart"}),
    (r"presign", READS),
    (r"presign-put.*", {"PutObject"}),
    (r"(put|upload|open-write|parquet-write|write_parquet|copy-to-parquet|awscli1-put|s3api-put).*", UPLOADS),
    (r"copy", {"CopyObject", "HeadObject", "GetObjectAcl", "PutObjectAcl"}),
    (r"delete", {"DeleteObject", "DeleteObjects", "HeadObject", "PutObject"} | LISTS),
    (r"multidelete", {"DeleteObjects", "HeadObject", "HeadBucket"} | LISTS),
    (r"(list|glob).*", {"HeadObject", "HeadBucket"} | LISTS),
    (r"info", {"HeadObject", "GetObjectAcl", "GetBucketSubresource"}),
    (r"weird.*", READS | LISTS | {"HeadBucket"}),
    (r"start|rclone.*", READS | LISTS),
    (r".*", READS),
)

ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"


@attrs.frozen
class Capture:
    """One recorded request, and what the package makes of it."""

    where: str
    label: str
    method: bytes
    raw_target: bytes
    framing: str
    headers: Headers
    status: int | None
    target: RequestTarget
    address: ObjectAddress | None
    signature: Signature
    operation: Operation


def read_captures(path: Path) -> Iterator[Capture]:
    """The requests of one file."""
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        row = json.loads(line)
        method, raw_target, version = row["line"].encode("ascii").split(b" ")
        assert version == b"HTTP/1.1"
        headers = Headers((name.encode("ascii"), value.encode("utf-8")) for name, value in row["headers"])
        target = parse_target(raw_target, headers)
        address = locate(target, BASE_DOMAINS)
        yield Capture(
            where=f"{path.name}:{number} {row['label']}: {row['line']}",
            label=row["label"],
            method=method,
            raw_target=raw_target,
            framing=row["framing"],
            headers=headers,
            status=row["status"],
            target=target,
            address=address,
            signature=read_signature(headers, target.query),
            operation=classify(method, address, target.query, headers),
        )


def raw_names(query: bytes | None) -> list[str]:
    """Parameter names as a reader of the request line sees them, without credentials and ``x-id``."""
    names = [piece.partition(b"=")[0].decode("ascii") for piece in (query or b"").split(b"&") if piece]
    credentials = r"(?i)X-Amz-(Algorithm|Credential|Date|Expires|SignedHeaders|Signature|Content-Sha256|Checksum-Mode)"
    return sorted(
        name
        for name in names
        if not re.fullmatch(credentials, name) and name not in ("AWSAccessKeyId", "Signature", "Expires", "x-id")
    )


def expected_address(capture: Capture) -> tuple[bytes, bytes]:
    """Bucket and key as a reader of the request sees them; all clients used the bucket ``capt``."""
    path = capture.raw_target.split(b"?")[0]
    if path.startswith(b"http://"):
        path = b"/" + path[7:].partition(b"/")[2]
    host = capture.headers.get(b"host") or b""
    if host.startswith(b"capt."):
        return b"capt", unquote_to_bytes(path[1:])
    bucket, _, key = path[1:].partition(b"/")
    return bucket, unquote_to_bytes(key)


def expected_operation(capture: Capture) -> str:
    """By method and parameters alone."""
    _, key = expected_address(capture)
    names = raw_names(capture.target.query)
    method = capture.method.decode("ascii")
    if method == "GET" and not key and set(names) <= LISTING_PARAMETERS:
        return "ListObjectsV2" if "list-type" in names else "ListObjects"
    kind = "object" if key else "bucket"
    if b"x-amz-copy-source" in capture.headers:
        kind = "copy"
    return BY_SHAPE[method, kind, " ".join(names)]


def signed_in_text(capture: Capture) -> frozenset[bytes] | None:
    """SignedHeaders, found by search in the text of the request; None for the older signatures, which have none."""
    text = b"\n".join(capture.headers.get_all(b"authorization")) + capture.raw_target
    match = re.search(rb"(?:X-Amz-)?SignedHeaders=([^,& ]+)", text)
    return None if match is None else frozenset(unquote_to_bytes(match[1]).split(b";"))


class CaptureChecks:
    """What holds for every request of one client. The file is set by the subclasses made below."""

    path: Path

    def captures(self) -> list[Capture]:
        return list(read_captures(self.path))

    def test_classified(self) -> None:
        """The operation is the one that method and parameters spell out, and one that the client's task needs."""
        for capture in self.captures():
            self.assertEqual(capture.operation.value, expected_operation(capture), capture.where)
            allowed = next(allowed for pattern, allowed in BY_LABEL if re.fullmatch(pattern, capture.label))
            self.assertIn(capture.operation.value, allowed, capture.where)

    def test_located(self) -> None:
        """Bucket and key are found in path-style, virtual-hosted and absolute-form requests; all may be cached."""
        for capture in self.captures():
            self.assertIsNotNone(capture.address, capture.where)
            self.assertEqual((capture.address.bucket, capture.address.key), expected_address(capture), capture.where)
            self.assertTrue(capture.address.cacheable, capture.where)
            self.assertTrue(capture.target.consistent, capture.where)
            self.assertTrue(capture.raw_target.endswith(capture.target.origin_form), capture.where)

    def test_signature(self) -> None:
        """Form, access key and signed fields are recognised."""
        for capture in self.captures():
            authorization = capture.headers.get(b"authorization")
            if authorization is not None:
                form = SignatureForm.HEADER_V4 if authorization.startswith(b"AWS4-") else SignatureForm.HEADER_V2
            else:
                is_v4 = b"X-Amz-Signature=" in capture.raw_target
                form = SignatureForm.QUERY_V4 if is_v4 else SignatureForm.QUERY_V2
            self.assertIs(capture.signature.form, form, capture.where)
            self.assertEqual(capture.signature.access_key, ACCESS_KEY, capture.where)
            self.assertEqual(capture.signature.expires_at is None, authorization is not None, capture.where)
            signed = signed_in_text(capture)
            if signed is not None:
                self.assertEqual(capture.signature.signed_headers, signed, capture.where)
                self.assertEqual(capture.signature.region, "us-east-1", capture.where)

    def test_forwarded(self) -> None:
        """Every signed field goes upstream, and every other one but the connection's own, in order and unchanged."""
        for capture in self.captures():
            forwarded = forwardable_request(capture.headers, capture.signature)
            kept = [pair for pair in capture.headers if pair[0].lower() not in HOP_BY_HOP]
            self.assertEqual(list(forwarded), kept, capture.where)
            for name in capture.signature.signed_headers & capture.headers.names():
                self.assertEqual(forwarded.get_all(name), capture.headers.get_all(name), capture.where)

    def test_ranges(self) -> None:
        """Every Range that a client sent is a single one."""
        for capture in self.captures():
            for value in capture.headers.get_all(b"range"):
                self.assertIsInstance(parse_range(value), (FromTo, From, Suffix), capture.where)

    def test_framing(self) -> None:
        """Only the field that frames the body is taken out of a chunked upload; Content-Length stays, ``0`` too."""
        for capture in self.captures():
            forwarded = forwardable_request(capture.headers, capture.signature)
            self.assertNotIn(b"transfer-encoding", forwarded, capture.where)
            self.assertEqual(b"transfer-encoding" in capture.headers, capture.framing == "chunked", capture.where)
            self.assertEqual(
                forwarded.get_all(b"content-length"), capture.headers.get_all(b"content-length"), capture.where
            )


def _make_test_cases() -> None:
    for path in sorted(CAPTURES.glob("*.jsonl")):
        name = "".join(word.capitalize() for word in re.split(r"[^a-z0-9]+", path.stem)) + "CaptureTests"
        globals()[name] = type(
            name, (CaptureChecks, SynchronousTestCase), {"path": path, "__module__": __name__, "__doc__": path.stem}
        )


_make_test_cases()


class CollectionTests(SynchronousTestCase):
    """The collection as a whole."""

    def setUp(self) -> None:
        self.captures = [capture for path in sorted(CAPTURES.glob("*.jsonl")) for capture in read_captures(path)]

    def test_not_empty(self) -> None:
        """A lost file does not pass unnoticed."""
        self.assertGreater(len(self.captures), 700)

    def test_variety(self) -> None:
        """The collection has all the forms that the package must tell apart."""
        forms = {capture.signature.form for capture in self.captures}
        self.assertEqual(
            forms,
            {SignatureForm.HEADER_V4, SignatureForm.HEADER_V2, SignatureForm.QUERY_V4, SignatureForm.QUERY_V2},
        )
        self.assertTrue(any(capture.target.absolute for capture in self.captures))
        self.assertTrue(
            any(capture.target.absolute and b":80/" in capture.raw_target for capture in self.captures)
        )

    def test_spellings_of_one_object(self) -> None:
        """Path-style, virtual-hosted and absolute-form requests for one key have one identity."""
        identities = {
            capture.address.identity
            for capture in self.captures
            if capture.address is not None
            and (capture.address.store, capture.address.key) == ("s3.amzn.test:80", b"aws1/1k")
        }
        self.assertEqual(identities, {("s3.amzn.test:80", b"capt", b"aws1/1k")})

    def test_nothing_names_a_machine(self) -> None:
        """The recordings hold the documentation's example key and no other."""
        for path in CAPTURES.glob("*.jsonl"):
            self.assertEqual(set(re.findall(r"AKIA[A-Z0-9]+", path.read_text("utf-8"))) - {ACCESS_KEY}, set())
