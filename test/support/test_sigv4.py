"""Tests for signing and for the verification of signatures."""

import calendar
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from test.support.sigv4 import (
    EMPTY_SHA256,
    Credential,
    Pair,
    chunk_signature,
    presign,
    presign_v2,
    scope_key,
    sign_request,
    sign_request_v2,
)
from test.support.sigv4_verify import SignatureError, Verified, verify

EXAMPLE = Credential("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
DAY = float(calendar.timegm((2013, 5, 24, 0, 0, 0)))
HOST = b"examplebucket.s3.amazonaws.com"
KNOWN = {EXAMPLE.access_key: EXAMPLE, "TEMPORARY": Credential("TEMPORARY", "secret", "a token")}


def _signature(headers: list[Pair]) -> bytes:
    return dict(headers)[b"Authorization"].rpartition(b"Signature=")[2]


class DocumentedExamples(SynchronousTestCase):
    """The signatures are those of the examples in Amazon's documentation of Signature Version 4 for S3."""

    def check(self, method: bytes, target: bytes, headers: list[Pair], payload: bytes, signature: bytes) -> None:
        signed = {name.lower() for name, _ in headers} | {b"host", b"x-amz-date", b"x-amz-content-sha256"}
        fields = sign_request(
            method, target, [(b"Host", HOST), *headers], EXAMPLE, when=DAY, payload=payload, signed=signed
        )
        self.assertEqual(_signature(fields), signature)
        self.assertIsNotNone(verify(method, target, fields, KNOWN.get, now=DAY))

    def test_get_with_range(self) -> None:
        """GET Object, with a signed Range."""
        signature = b"f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        self.check(b"GET", b"/test.txt", [(b"Range", b"bytes=0-9")], EMPTY_SHA256, signature)

    def test_put(self) -> None:
        """PUT Object, with a key that has to be encoded."""
        self.check(
            b"PUT",
            b"/test%24file.text",
            [(b"Date", b"Fri, 24 May 2013 00:00:00 GMT"), (b"x-amz-storage-class", b"REDUCED_REDUNDANCY")],
            b"44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
            b"98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        )

    def test_subresource(self) -> None:
        """GET Bucket Lifecycle: a parameter without a value."""
        signature = b"fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
        self.check(b"GET", b"/?lifecycle", [], EMPTY_SHA256, signature)

    def test_list(self) -> None:
        """List Objects: parameters in order."""
        signature = b"34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
        self.check(b"GET", b"/?max-keys=2&prefix=J", [], EMPTY_SHA256, signature)

    def test_presigned(self) -> None:
        """A presigned URL."""
        target = presign(b"GET", b"/test.txt", HOST, EXAMPLE, when=DAY, expires=86400)
        signature = b"aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
        self.assertEqual(target.rpartition(b"X-Amz-Signature=")[2], signature)

    def test_chunks(self) -> None:
        """Signed chunks of 64 KiB, 1 KiB and 0 bytes."""
        scope = b"20130524/us-east-1/s3/aws4_request"
        key = scope_key(EXAMPLE.secret_key, scope)
        previous = b"4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
        made = []
        for size in (65536, 1024, 0):
            previous = chunk_signature(key, b"20130524T000000Z", scope, previous, b"a" * size)
            made.append(previous[:8])
        self.assertEqual(made, [b"ad80c730", b"0055627c", b"b6c6ea8a"])


@attrs.frozen
class Sent:
    """A request on its way."""

    method: bytes
    target: bytes
    headers: list[Pair]

    def replacing(self, name: bytes, value: bytes) -> "Sent":
        """With another value of this field, or without it for an empty one."""
        changed = [(given, value if given.lower() == name else old) for given, old in self.headers]
        return attrs.evolve(self, headers=[pair for pair in changed if pair[1]])

    def adding(self, name: bytes, value: bytes) -> "Sent":
        """With one more field."""
        return attrs.evolve(self, headers=[*self.headers, (name, value)])


def _sent() -> Sent:
    headers = [
        (b"Host", b"s3.test"),
        (b"Range", b"bytes=0-9"),
        (b"Content-Length", b"0"),
        (b"If-Match", b'"etag"'),
        (b"X-Amz-Meta-One", b"two  words"),
        (b"Accept-Encoding", b"gzip"),
    ]
    signed = {name.lower() for name, _ in headers} | {b"x-amz-date", b"x-amz-content-sha256"}
    target = b"/bucket/a%20key//x?x-id=GetObject&partNumber=2"
    return Sent(b"GET", target, sign_request(b"GET", target, headers, EXAMPLE, when=DAY, signed=signed))


def _presigned() -> Sent:
    target = presign(b"GET", b"/bucket/key?versionId=7", b"s3.test", EXAMPLE, when=DAY, expires=60)
    return Sent(b"GET", target, [(b"Host", b"s3.test")])


def _version_2() -> Sent:
    headers = [(b"Host", b"s3.test"), (b"x-amz-meta-a", b"b"), (b"Content-Type", b"text/plain")]
    return Sent(b"PUT", b"/bucket/key?acl", sign_request_v2(b"PUT", b"/bucket/key?acl", headers, EXAMPLE, when=DAY))


def _presigned_2() -> Sent:
    return Sent(b"GET", presign_v2(b"GET", b"/bucket/key", EXAMPLE, when=DAY, expires=60), [(b"Host", b"s3.test")])


def _target(sent: Sent, old: bytes, new: bytes) -> Sent:
    if old not in sent.target:
        raise AssertionError(old)
    return attrs.evolve(sent, target=sent.target.replace(old, new))


def _authorization(sent: Sent, old: bytes, new: bytes) -> Sent:
    value = dict(sent.headers)[b"Authorization"]
    if old not in value:
        raise AssertionError(old)
    return sent.replacing(b"authorization", value.replace(old, new))


MISMATCH = "SignatureDoesNotMatch"
TAMPERED = {
    "method": (attrs.evolve(_sent(), method=b"HEAD"), MISMATCH),
    "key": (_target(_sent(), b"key", b"kez"), MISMATCH),
    "merged_slashes": (_target(_sent(), b"//x", b"/x"), MISMATCH),
    "decoded_key": (_target(_sent(), b"a%20key", b"a+key"), MISMATCH),
    "needless_encoding": (_target(_sent(), b"key", b"%6Bey"), MISMATCH),
    "query_value": (_target(_sent(), b"partNumber=2", b"partNumber=3"), MISMATCH),
    "query_added": (_target(_sent(), b"&partNumber=2", b"&partNumber=2&tagging"), MISMATCH),
    "query_removed": (_target(_sent(), b"&partNumber=2", b""), MISMATCH),
    "host": (_sent().replacing(b"host", b"s3.test:80"), MISMATCH),
    "host_twice": (_sent().adding(b"Host", b"s3.test"), "InvalidRequest"),
    "range_changed": (_sent().replacing(b"range", b"bytes=0-99"), MISMATCH),
    "range_removed": (_sent().replacing(b"range", b""), MISMATCH),
    "range_twice": (_sent().adding(b"Range", b"bytes=5-9"), MISMATCH),
    "content_length_removed": (_sent().replacing(b"content-length", b""), MISMATCH),
    "condition_changed": (_sent().replacing(b"if-match", b'"other"'), MISMATCH),
    "condition_joined": (_sent().replacing(b"if-match", b'"etag", "other"'), MISMATCH),
    "metadata_changed": (_sent().replacing(b"x-amz-meta-one", b"two"), MISMATCH),
    "amz_header_added": (_sent().adding(b"x-amz-acl", b"public-read"), "AccessDenied"),
    "accept_encoding_changed": (_sent().replacing(b"accept-encoding", b"identity"), MISMATCH),
    "payload_hash": (_sent().replacing(b"x-amz-content-sha256", b"UNSIGNED-PAYLOAD"), MISMATCH),
    "payload_hash_removed": (_sent().replacing(b"x-amz-content-sha256", b""), "InvalidRequest"),
    "date": (_sent().replacing(b"x-amz-date", b"20130524T000001Z"), MISMATCH),
    "date_removed": (_sent().replacing(b"x-amz-date", b""), "AccessDenied"),
    "date_malformed": (_sent().replacing(b"x-amz-date", b"20130532T000001Z"), "AccessDenied"),
    "signature_longer": (_authorization(_sent(), b"Signature=", b"Signature=0"), "AuthorizationHeaderMalformed"),
    "signature_of_zeros": (_sent().replacing(
        b"authorization", dict(_sent().headers)[b"Authorization"][:-64] + b"0" * 64), MISMATCH),
    "host_not_signed": (_authorization(_sent(), b"content-length;host;", b"content-length;"), MISMATCH),
    "signed_list_shorter": (_authorization(_sent(), b"range;", b""), MISMATCH),
    "unknown_access_key": (_authorization(_sent(), b"=AKIA", b"=AKIB"), "InvalidAccessKeyId"),
    "other_access_key": (_authorization(_sent(), EXAMPLE.access_key.encode(), b"TEMPORARY"), "InvalidToken"),
    "region": (_authorization(_sent(), b"us-east-1", b"eu-west-1"), "AuthorizationHeaderMalformed"),
    "service": (_authorization(_sent(), b"/s3/", b"/sqs/"), "AuthorizationHeaderMalformed"),
    "two_mechanisms": (_target(_sent(), b"x-id=GetObject", b"X-Amz-Signature=1"), "InvalidArgument"),
    "presigned_key": (_target(_presigned(), b"/key", b"/kez"), MISMATCH),
    "presigned_query": (_target(_presigned(), b"versionId=7", b"versionId=8"), MISMATCH),
    "presigned_parameter_added": (_target(_presigned(), b"versionId=7", b"versionId=7&acl"), MISMATCH),
    "presigned_expiry": (_target(_presigned(), b"Expires=60", b"Expires=600"), MISMATCH),
    "presigned_expiry_limit": (
        _target(_presigned(), b"Expires=60", b"Expires=604801"), "AuthorizationQueryParametersError"),
    "presigned_host": (_presigned().replacing(b"host", b"other.test"), MISMATCH),
    "presigned_method": (attrs.evolve(_presigned(), method=b"PUT"), MISMATCH),
    "presigned_amz_header": (_presigned().adding(b"x-amz-acl", b"private"), "AccessDenied"),
    "presigned_parameter_twice": (
        _target(_presigned(), b"X-Amz-Expires=60", b"X-Amz-Expires=60&X-Amz-Expires=60"),
        "AuthorizationQueryParametersError"),
    "version_2_key": (_target(_version_2(), b"/key", b"/kez"), MISMATCH),
    "version_2_subresource": (_target(_version_2(), b"?acl", b"?tagging"), MISMATCH),
    "version_2_metadata": (_version_2().replacing(b"x-amz-meta-a", b"c"), MISMATCH),
    "version_2_type": (_version_2().replacing(b"content-type", b"text/html"), MISMATCH),
    "version_2_presigned_key": (_target(_presigned_2(), b"/key", b"/kez"), MISMATCH),
    "version_2_presigned_method": (attrs.evolve(_presigned_2(), method=b"HEAD"), MISMATCH),
}
HARMLESS = {
    "as_signed": _sent(),
    "unsigned_condition": _sent().adding(b"If-None-Match", b'"x"'),
    "forwarding_headers": _sent().adding(b"Via", b"1.1 proxy").adding(b"X-Forwarded-For", b"::1"),
    "query_order": _target(_sent(), b"x-id=GetObject&partNumber=2", b"partNumber=2&x-id=GetObject"),
    "header_order_and_case": attrs.evolve(
        _sent(), headers=[(name.upper(), value) for name, value in reversed(_sent().headers)]),
    "inner_blanks": _sent().replacing(b"x-amz-meta-one", b"two words"),
    "presigned": _presigned(),
    "presigned_range": _presigned().adding(b"Range", b"bytes=0-1"),
    "version_2": _version_2(),
    "version_2_range": _version_2().adding(b"Range", b"bytes=0-1"),
    "version_2_presigned": _presigned_2(),
}


def _check(sent: Sent, now: float = DAY) -> Verified | None:
    return verify(sent.method, sent.target, sent.headers, KNOWN.get, now=now)


class TamperedTests(SynchronousTestCase):
    """A request that was changed on its way is refused, and for S3's reason."""


class HarmlessTests(SynchronousTestCase):
    """What a signature does not cover may change."""


def _add_rows() -> None:
    for name, (sent, code) in TAMPERED.items():

        def refused(self: Any, sent: Sent = sent, code: str = code) -> None:
            self.assertEqual(self.assertRaises(SignatureError, _check, sent).code, code)

        setattr(TamperedTests, f"test_{name}", refused)
    for name, sent in HARMLESS.items():

        def accepted(self: Any, sent: Sent = sent) -> None:
            found = _check(sent)
            self.assertEqual(found.access_key if found is not None else None, EXAMPLE.access_key)

        setattr(HarmlessTests, f"test_{name}", accepted)


_add_rows()


class TimeTests(SynchronousTestCase):
    """Signatures age."""

    def test_skew(self) -> None:
        """A quarter of an hour is the most that clocks may differ, in both directions."""
        for sent in (_sent(), _version_2()):
            for now in (DAY + 900, DAY - 900):
                self.assertIsNotNone(_check(sent, now))
            for now in (DAY + 901, DAY - 901):
                error = self.assertRaises(SignatureError, _check, sent, now)
                self.assertEqual((error.status, error.code), (403, "RequestTimeTooSkewed"))

    def test_expiry(self) -> None:
        """A presigned URL works until its last second."""
        for sent in (_presigned(), _presigned_2()):
            self.assertIsNotNone(_check(sent, DAY + 60))
            error = self.assertRaises(SignatureError, _check, sent, DAY + 61)
            self.assertEqual((error.status, error.code), (403, "AccessDenied"))

    def test_not_yet_valid(self) -> None:
        """A presigned URL from the future is refused."""
        self.assertRaises(SignatureError, _check, _presigned(), DAY - 901)


class CredentialTests(SynchronousTestCase):
    """Who may sign."""

    def test_anonymous(self) -> None:
        """A request without a signature is told apart from a bad one."""
        self.assertIsNone(_check(Sent(b"GET", b"/bucket/key", [(b"Host", b"s3.test")])))

    def test_session_token(self) -> None:
        """Temporary credentials need their token, and it is signed."""
        credential = KNOWN["TEMPORARY"]
        headers = sign_request(b"GET", b"/b/k", [(b"Host", b"s3.test")], credential, when=DAY)
        sent = Sent(b"GET", b"/b/k", headers)
        self.assertIsNotNone(_check(sent))
        error = self.assertRaises(SignatureError, _check, sent.replacing(b"x-amz-security-token", b"other"))
        self.assertEqual(error.code, "InvalidToken")

    def test_presigned_session_token(self) -> None:
        """A presigned URL carries the token as a parameter."""
        target = presign(b"GET", b"/b/k", b"s3.test", KNOWN["TEMPORARY"], when=DAY)
        self.assertIsNotNone(_check(Sent(b"GET", target, [(b"Host", b"s3.test")])))

    def test_no_secret_in_text(self) -> None:
        """A credential can be shown without its secrets."""
        shown = repr(KNOWN["TEMPORARY"])
        self.assertNotIn("secret'", shown)
        self.assertNotIn("a token", shown)

    def test_bucket_in_host(self) -> None:
        """Version 2 signs the bucket wherever it stands."""
        headers = sign_request_v2(b"GET", b"/k", [(b"Host", b"b.s3.test")], EXAMPLE, when=DAY, bucket_in_host=b"b")
        self.assertIsNotNone(verify(b"GET", b"/k", headers, KNOWN.get, now=DAY, bucket_in_host=b"b"))
        self.assertRaises(SignatureError, verify, b"GET", b"/k", headers, KNOWN.get, now=DAY)
