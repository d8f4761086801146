"""What a request asks S3 to do."""

import itertools

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.s3.address import ObjectAddress, locate
from s3proxy.s3.headers import Headers
from s3proxy.s3.operation import Operation, classify, part_number
from s3proxy.s3.target import parse_target
from test.s3.table import add_rows

V4 = (
    "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AK%2F20250101%2Fus-east-1%2Fs3%2Faws4_request"
    "&X-Amz-Date=20250101T000000Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=ab"
    "&X-Amz-Security-Token=t"
)
V4A = V4.replace("HMAC-SHA256", "ECDSA-P256-SHA256") + "&X-Amz-Region-Set=*"
V2 = "AWSAccessKeyId=AK&Signature=x%3D&Expires=1"


def operation(
    method: str, target: str, fields: tuple[tuple[bytes, bytes], ...] = (), host: bytes = b"s3.amazonaws.com"
) -> Operation:
    parsed = parse_target(target.encode("ascii"), Headers([(b"Host", host)]))
    return classify(method.encode("ascii"), locate(parsed), parsed.query, Headers(fields))


class ClassifyTests(SynchronousTestCase):
    """Method, level and parameters decide."""

    def test_presigning_changes_nothing(self) -> None:
        """Every kind of credentials in the query leaves the operation as it is, in front or behind, for all methods."""
        for method, query in itertools.product(
            ("GET", "HEAD", "PUT", "DELETE", "POST"),
            ("", "acl", "uploads", "partNumber=1&uploadId=u", "versionId=v", "x"),
        ):
            plain = operation(method, f"/b/k?{query}")
            for credentials in (V4, V4A, V2, "x-id=Anything", "X-Amz-Content-Sha256=UNSIGNED-PAYLOAD"):
                self.assertIs(operation(method, f"/b/k?{credentials}&{query}"), plain, (method, query, credentials))
                self.assertIs(operation(method, f"/b/k?{query}&{credentials}"), plain, (method, query, credentials))

    def test_names_are_decoded(self) -> None:
        """An encoded name is the name; a name in other letters is another one, which is not cached."""
        self.assertIs(operation("GET", "/b/k?%70artNumber=2"), Operation.GetObjectPart)
        self.assertIs(operation("GET", "/b/k?%61cl"), Operation.GetObjectAcl)
        self.assertIs(operation("GET", "/b/k?ACL"), Operation.GetObjectVariant)
        self.assertIs(operation("GET", "/b/k?expires=1"), Operation.GetObjectVariant)

    def test_uncacheable_addresses(self) -> None:
        """Reads of an address that is not cacheable are variants; writes keep their names."""
        host = b"b.s3-website-us-east-1.amazonaws.com"
        self.assertIs(operation("GET", "/k", host=host), Operation.GetObjectVariant)
        self.assertIs(operation("HEAD", "/k", host=host), Operation.HeadObjectVariant)
        self.assertIs(operation("GET", "/k?partNumber=1", host=host), Operation.GetObjectVariant)
        self.assertIs(operation("GET", "/k?acl", host=host), Operation.GetObjectAcl)
        self.assertIs(operation("PUT", "/k", host=host), Operation.PutObject)

    def test_no_address(self) -> None:
        """Without an address nothing but a preflight is recognised."""
        for method in (b"GET", b"HEAD", b"PUT", b"POST", b"DELETE", b"PATCH"):
            self.assertIs(classify(method, None, None, Headers()), Operation.Other)
        self.assertIs(classify(b"OPTIONS", None, None, Headers()), Operation.OptionsObject)

    @given(
        st.sampled_from([b"GET", b"HEAD", b"PUT", b"POST", b"DELETE", b"PATCH", b"get", b""]),
        st.binary(max_size=40),
        st.binary(max_size=5),
    )
    def test_denies_by_default(self, method: bytes, query: bytes, key: bytes) -> None:
        """No query makes a read cacheable whose every name is not on the short list."""
        address = ObjectAddress(store="aws", bucket=b"b", key=key)
        found = classify(method, address, query, Headers())
        if found.is_cacheable_read:
            self.assertIn(method, (b"GET", b"HEAD"))
            names = [piece.partition(b"=")[0].lower() for piece in query.split(b"&") if piece]
            known = (b"x-id", b"awsaccesskeyid", b"signature", b"expires")
            self.assertTrue(all(name.startswith(b"x-amz-") or name in known for name in names))

    @given(st.sampled_from(["response-content-type", "versionId", "x", "uploads", "acl", "prefix", "list-type", ""]))
    def test_one_stranger_is_enough(self, name: str) -> None:
        """One parameter that is not on the short list, anywhere, keeps a read from the cache."""
        if not name:
            return
        for query in (f"{name}=1&{V4}", f"{V4}&{name}", f"x-id=GetObject&{name}=&{V2}"):
            self.assertFalse(operation("GET", f"/b/k?{query}").is_cacheable_read)
            self.assertFalse(operation("HEAD", f"/b/k?{query}").is_cacheable_read)


def check_operation(
    case: SynchronousTestCase, method: str, target: str, name: str, fields: tuple[tuple[bytes, bytes], ...] = ()
) -> None:
    case.assertEqual(operation(method, target, fields).value, name)


COPY = ((b"x-amz-copy-source", b"/b/other"),)
APPEND = ((b"x-amz-write-offset-bytes", b"10"),)
RENAME = ((b"x-amz-rename-source", b"/b/old"),)
FORM = ((b"Content-Type", b"multipart/form-data; boundary=x"),)
add_rows(
    ClassifyTests,
    "object",
    [
        ("GET", "/b/k", "GetObject"),
        ("GET", "/b/k?", "GetObject"),
        ("GET", "/b/k?&", "GetObject"),
        ("GET", "/b/k/", "GetObject"),
        ("GET", "/b/k?x-id=GetObject", "GetObject"),
        ("GET", f"/b/k?{V4}", "GetObject"),
        ("GET", f"/b/k?{V4A}", "GetObject"),
        ("GET", f"/b/k?{V2}", "GetObject"),
        ("GET", f"/b/k?{V4}&x-amz-checksum-mode=ENABLED&x-id=GetObject", "GetObject"),
        ("HEAD", "/b/k", "HeadObject"),
        ("HEAD", f"/b/k?{V4}", "HeadObject"),
        ("GET", "/b/k?partNumber=2", "GetObjectPart"),
        ("GET", "/b/k?x-id=GetObject&partNumber=10000", "GetObjectPart"),
        ("HEAD", "/b/k?partNumber=1", "HeadObjectPart"),
        ("GET", "/b/k?partNumber=0", "GetObjectVariant"),
        ("GET", "/b/k?partNumber=-1", "GetObjectVariant"),
        ("GET", "/b/k?partNumber=x", "GetObjectVariant"),
        ("GET", "/b/k?partNumber", "GetObjectVariant"),
        ("GET", "/b/k?partNumber=1&partNumber=2", "GetObjectVariant"),
        ("GET", "/b/k?partNumber=1&versionId=v", "GetObjectVariant"),
        ("HEAD", "/b/k?partNumber=0", "HeadObjectVariant"),
        ("GET", "/b/k?versionId=v", "GetObjectVariant"),
        ("GET", "/b/k?versionId=null", "GetObjectVariant"),
        ("HEAD", "/b/k?versionId=v", "HeadObjectVariant"),
        ("GET", "/b/k?response-content-type=text%2Fplain", "GetObjectVariant"),
        ("GET", "/b/k?response-content-disposition=x", "GetObjectVariant"),
        ("GET", "/b/k?response-cache-control=x", "GetObjectVariant"),
        ("GET", "/b/k?response-expires=x", "GetObjectVariant"),
        ("GET", "/b/k?response-content-language=x", "GetObjectVariant"),
        ("GET", "/b/k?response-content-encoding=x", "GetObjectVariant"),
        ("GET", f"/b/k?{V4}&x-amz-expected-bucket-owner=1", "GetObjectVariant"),
        ("GET", f"/b/k?{V4}&x-amz-server-side-encryption-customer-algorithm=AES256", "GetObjectVariant"),
        ("GET", "/b/k?unheard-of", "GetObjectVariant"),
        ("GET", "/b/k?=x", "GetObjectVariant"),
        ("GET", "/b/k?uploads", "GetObjectVariant"),
        ("GET", "/b/k?list-type=2", "GetObjectVariant"),
        ("GET", "/b/k?uploadId=u", "ListParts"),
        ("GET", "/b/k?uploadId=u&max-parts=5", "ListParts"),
        ("GET", "/b/k?prefix=uploadId", "GetObjectVariant"),
        ("GET", "/b/k?acl", "GetObjectAcl"),
        ("GET", "/b/k?acl=", "GetObjectAcl"),
        ("GET", "/b/k?acl&versionId=v", "GetObjectAcl"),
        ("GET", "/b/k?attributes", "GetObjectAttributes"),
        ("GET", "/b/k?annotation", "GetObjectAnnotation"),
        ("GET", "/b/k?legal-hold", "GetObjectLegalHold"),
        ("GET", "/b/k?retention", "GetObjectRetention"),
        ("GET", "/b/k?tagging", "GetObjectTagging"),
        ("GET", "/b/k?torrent", "GetObjectTorrent"),
        ("PUT", "/b/k", "PutObject"),
        ("PUT", "/b/k?x-id=PutObject", "PutObject"),
        ("PUT", f"/b/k?{V4}&x-amz-checksum-crc32=AAAAAA%3D%3D&x-amz-sdk-checksum-algorithm=CRC32", "PutObject"),
        ("PUT", f"/b/k?{V4}&x-amz-acl=private", "PutObject"),
        ("PUT", f"/b/k?{V4}&x-amz-meta-a=b", "PutObjectVariant"),
        ("PUT", f"/b/k?{V4}&x-amz-tagging=a", "PutObjectVariant"),
        ("PUT", "/b/k?versionId=v", "PutObjectVariant"),
        ("PUT", "/b/k?unheard-of", "PutObjectVariant"),
        ("PUT", "/b/k?uploadId=u", "PutObjectVariant"),
        ("PUT", "/b/k?partNumber=1", "PutObjectVariant"),
        ("PUT", "/b/k", "CopyObject", COPY),
        ("PUT", "/b/k?x-id=CopyObject", "CopyObject", COPY),
        ("PUT", f"/b/k?{V4}&x-amz-copy-source=b%2Fother", "CopyObject"),
        ("PUT", "/b/k?unheard-of", "CopyObject", COPY),
        ("PUT", "/b/k?tagging", "PutObjectTagging", COPY),
        ("PUT", "/b/k", "AppendObject", APPEND),
        ("PUT", "/b/k", "RenameObject", RENAME),
        ("PUT", "/b/k?renameObject", "RenameObject", RENAME),
        ("PUT", "/b/k?partNumber=1&uploadId=u", "UploadPart"),
        ("PUT", "/b/k?uploadId=u&partNumber=1&x-id=UploadPart", "UploadPart"),
        ("PUT", "/b/k?partNumber=1&uploadId=u", "UploadPartCopy", COPY),
        ("PUT", "/b/k?acl", "PutObjectAcl"),
        ("PUT", "/b/k?annotation", "PutObjectAnnotation"),
        ("PUT", "/b/k?encryption", "UpdateObjectEncryption"),
        ("PUT", "/b/k?legal-hold", "PutObjectLegalHold"),
        ("PUT", "/b/k?retention", "PutObjectRetention"),
        ("PUT", "/b/k?tagging", "PutObjectTagging"),
        ("PUT", "/b/k?tagging&versionId=v", "PutObjectTagging"),
        ("DELETE", "/b/k", "DeleteObject"),
        ("DELETE", "/b/k?x-id=DeleteObject", "DeleteObject"),
        ("DELETE", "/b/k?versionId=v", "DeleteObjectVersion"),
        ("DELETE", "/b/k?tagging", "DeleteObjectTagging"),
        ("DELETE", "/b/k?tagging&versionId=v", "DeleteObjectTagging"),
        ("DELETE", "/b/k?annotation=x", "DeleteObjectAnnotation"),
        ("DELETE", "/b/k?uploadId=u", "AbortMultipartUpload"),
        ("DELETE", "/b/k?unheard-of", "DeleteObjectVariant"),
        ("POST", "/b/k?uploads", "CreateMultipartUpload"),
        ("POST", "/b/k?uploads=", "CreateMultipartUpload"),
        ("POST", "/b/k?uploads", "CreateMultipartUpload", FORM),
        ("POST", "/b/k?uploadId=u", "CompleteMultipartUpload"),
        ("POST", "/b/k?restore", "RestoreObject"),
        ("POST", "/b/k?restore&versionId=v", "RestoreObject"),
        ("POST", "/b/k?select&select-type=2", "SelectObjectContent"),
        ("POST", "/b/k", "Other"),
        ("POST", "/b/k", "PostObject", FORM),
        ("OPTIONS", "/b/k", "OptionsObject"),
        ("OPTIONS", "*", "OptionsObject"),
        ("PATCH", "/b/k", "Other"),
        ("get", "/b/k", "Other"),
        ("TRACE", "/b/k", "Other"),
    ],
    check_operation,
)
add_rows(
    ClassifyTests,
    "bucket",
    [
        ("GET", "/", "ListBuckets"),
        ("GET", "/?x-id=ListBuckets&max-buckets=5", "ListBuckets"),
        ("GET", "/?list-type=2&prefix=a", "ListObjectsV2"),
        ("GET", "/?prefix=a&delimiter=%2F", "ListObjects"),
        ("GET", "/?prefix=a", "ListObjects"),
        ("GET", "/b", "ListObjects"),
        ("GET", "/b/", "ListObjects"),
        ("GET", "/b?prefix=a", "ListObjects"),
        ("GET", "/b/?delimiter=/&marker=x", "ListObjects"),
        ("GET", "/b?list-type=2", "ListObjectsV2"),
        ("GET", "/b/?prefix=&list-type=2&delimiter=", "ListObjectsV2"),
        ("GET", "/b?list-type=1", "ListObjects"),
        ("GET", "/b?versions", "ListObjectVersions"),
        ("GET", "/b?versions&prefix=a", "ListObjectVersions"),
        ("GET", "/b?uploads", "ListMultipartUploads"),
        ("GET", "/b?location", "GetBucketLocation"),
        ("GET", "/b?session", "CreateSession"),
        ("GET", "/b?policy", "GetBucketSubresource"),
        ("GET", "/b?acl", "GetBucketSubresource"),
        ("GET", "/b?cors", "GetBucketSubresource"),
        ("GET", "/b?object-lock", "GetBucketSubresource"),
        ("GET", "/b?tagging", "GetBucketSubresource"),
        ("GET", "/b?unheard-of", "GetBucketSubresource"),
        ("GET", "/b?partNumber=1", "GetBucketSubresource"),
        ("HEAD", "/b", "HeadBucket"),
        ("HEAD", "/b/", "HeadBucket"),
        ("HEAD", "/", "HeadBucket"),
        ("HEAD", "/b?versionId=x", "HeadBucket"),
        ("PUT", "/b", "CreateBucket"),
        ("PUT", "/b?tagging", "PutBucketSubresource"),
        ("PUT", "/b?object-lock", "PutBucketSubresource"),
        ("DELETE", "/b", "DeleteBucket"),
        ("DELETE", "/b?policy", "DeleteBucketSubresource"),
        ("POST", "/b?delete", "DeleteObjects"),
        ("POST", "/b?delete=", "DeleteObjects"),
        ("POST", "/b/?delete", "DeleteObjects"),
        ("POST", "/?delete", "DeleteObjects"),
        ("POST", "/b?delete&x-id=DeleteObjects", "DeleteObjects"),
        ("POST", "/b?delete", "DeleteObjects", FORM),
        ("POST", "/b", "PostObject", FORM),
        ("POST", "/b/", "PostObject", FORM),
        ("POST", "/", "PostObject", FORM),
        ("POST", "/b", "Other"),
        ("POST", "/b?metadataTable", "PutBucketSubresource"),
        ("PATCH", "/b", "Other"),
    ],
    check_operation,
)


class TraitTests(SynchronousTestCase):
    """What each operation means for the cache."""

    def test_cacheable_reads(self) -> None:
        """Only reads of objects and of their parts are ever answered from the cache."""
        self.assertEqual(
            {op.value for op in Operation if op.is_cacheable_read},
            {"GetObject", "HeadObject", "GetObjectPart", "HeadObjectPart"},
        )

    def test_writes(self) -> None:
        """Every operation that may change an object is known as one, and no read is."""
        harmless = ("Get", "Head", "List", "Options", "Create", "UploadPart", "AbortMultipart", "Select")
        bucket = {"CreateBucket", "DeleteBucket", "PutBucketSubresource", "DeleteBucketSubresource"}
        by_body = {"DeleteObjects", "PostObject"}
        self.assertEqual(
            {op.value for op in Operation if op.writes_object},
            {op.value for op in Operation if not op.value.startswith(harmless)} - bucket - by_body,
        )
        self.assertEqual({op.value for op in Operation if op.body_names_keys}, by_body)

    def test_no_trait_overlaps(self) -> None:
        """An operation reads from the cache, drops an entry, or neither."""
        for op in Operation:
            self.assertLessEqual(op.is_cacheable_read + op.writes_object + op.body_names_keys, 1, op)


class PartNumberTests(SynchronousTestCase):
    """The part that is asked for."""

    @given(st.binary(max_size=30))
    def test_takes_anything(self, query: bytes) -> None:
        """Any query has a part number in range, or none."""
        number = part_number(query)
        self.assertTrue(number is None or 1 <= number <= 10000)


def check_part_number(case: SynchronousTestCase, query: bytes | None, number: int | None) -> None:
    case.assertEqual(part_number(query), number)


add_rows(
    PartNumberTests,
    "part",
    [
        (None, None),
        (b"", None),
        (b"partNumber=1", 1),
        (b"partNumber=10000", 10000),
        (b"partNumber=10001", None),
        (b"partNumber=00012", 12),
        (b"partNumber=000012", None),
        (b"partNumber=%31%32", 12),
        (b"partNumber=0", None),
        (b"partNumber=-1", None),
        (b"partNumber=+1", None),
        (b"partNumber= 1", None),
        (b"partNumber=", None),
        (b"partNumber", None),
        (b"partNumber=1&partNumber=1", None),
        (b"partnumber=1", None),
        (b"uploadId=u&partNumber=7", 7),
        (b"partNumber=\xc2\xb2", None),
        (b"partNumber=" + b"9" * 5000, None),
    ],
    check_part_number,
)
