"""How requests are signed, and what must not be shown of it."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.s3.headers import Headers
from s3proxy.s3.signature import (
    Signature,
    SignatureForm,
    read_signature,
    redact_target,
)
from test.s3.table import add_rows

SCOPE = b"AKIDEXAMPLE/20240115/eu-west-1/s3/aws4_request"
HEADER_V4 = b"AWS4-HMAC-SHA256 Credential=" + SCOPE + b", SignedHeaders=host;range;x-amz-date, Signature=abc"
HEADER_V4A = (
    b"AWS4-ECDSA-P256-SHA256 Credential=AKIDEXAMPLE/20240115/s3/aws4_request,"
    b"SignedHeaders=Host;X-Amz-Date,Signature=abc"
)
NOON = 1705320000  # 2024-01-15T12:00:00Z


def read(authorization: bytes | None = None, query: bytes | None = None, *fields: tuple[bytes, bytes]) -> Signature:
    pairs = list(fields) + ([] if authorization is None else [(b"Authorization", authorization)])
    return read_signature(Headers(pairs), query)


def presigned(date: bytes = b"20240115T120000Z", expires: bytes = b"3600", **changes: bytes) -> bytes:
    params = {
        b"X-Amz-Algorithm": b"AWS4-HMAC-SHA256",
        b"X-Amz-Credential": SCOPE.replace(b"/", b"%2F"),
        b"X-Amz-Date": date,
        b"X-Amz-Expires": expires,
        b"X-Amz-SignedHeaders": b"host%3Brange",
        b"X-Amz-Signature": b"abc",
    }
    params.update({b"X-Amz-" + name.encode("ascii"): value for name, value in changes.items()})
    return b"&".join(name + b"=" + value for name, value in params.items())


class ReadSignatureTests(SynchronousTestCase):
    """Recognising credentials."""

    def test_none(self) -> None:
        """A request without credentials is anonymous, and may be changed."""
        signature = read(query=b"x-id=GetObject&Expires=5")
        self.assertEqual(signature, Signature())
        self.assertTrue(signature.understood)
        self.assertFalse(signature.covers(b"range"))
        self.assertFalse(signature.is_expired(1e12))

    def test_header_v4(self) -> None:
        """Access key, region, time and exactly the listed fields."""
        signature = read(HEADER_V4, None, (b"X-Amz-Date", b"20240115T120000Z"))
        self.assertEqual(
            signature,
            Signature(
                form=SignatureForm.HEADER_V4,
                access_key="AKIDEXAMPLE",
                signed_headers=frozenset({b"host", b"range", b"x-amz-date"}),
                signed_at=NOON,
                region="eu-west-1",
            ),
        )
        self.assertTrue(signature.covers(b"range"))
        for name in (b"x-range", b"content-range", b"ran", b"x-amz-meta-a", b"if-none-match"):
            self.assertFalse(signature.covers(name), name)
        self.assertFalse(signature.is_expired(1e12))

    def test_remembered(self) -> None:
        """What is remembered of a client's signature holds for its other requests, each with a time of its own."""
        for hour, digest in ((b"12", b"0" * 64), (b"12", b"f" * 64), (b"13", b"0" * 64)):
            value = HEADER_V4.rpartition(b"=")[0] + b"=" + digest
            signature = read(value, None, (b"X-Amz-Date", b"20240115T%b0000Z" % hour))
            self.assertEqual((signature.access_key, signature.region), ("AKIDEXAMPLE", "eu-west-1"))
            self.assertEqual(signature.signed_at, NOON + 3600 * (int(hour) - 12))
        self.assertFalse(read(HEADER_V4.rpartition(b"=")[0] + b"=").understood)
        self.assertFalse(read(HEADER_V4.rpartition(b"=")[0] + b"= ").understood)

    def test_a_name_within_a_value(self) -> None:
        """``Signature=`` begins a field only where a field begins."""
        for digest in (b"a", b"b"):
            signature = read(
                b"AWS4-HMAC-SHA256 Signature=a, SignedHeaders=host, Credential=Signature=%b/20240115/r/s3/aws4_request"
                % digest
            )
            self.assertEqual(signature.access_key, "Signature=" + digest.decode())

    def test_header_v4a(self) -> None:
        """The scope has no region; the region set is a field of its own. Names are compared in lower case."""
        signature = read(HEADER_V4A, None, (b"X-Amz-Region-Set", b"*"))
        self.assertEqual(
            signature,
            Signature(
                form=SignatureForm.HEADER_V4A,
                access_key="AKIDEXAMPLE",
                signed_headers=frozenset({b"host", b"x-amz-date"}),
                region="*",
            ),
        )

    def test_header_v2(self) -> None:
        """The older form signs a fixed set of fields and everything of Amazon's."""
        signature = read(b"AWS AKIDEXAMPLE:c2ln")
        self.assertEqual((signature.form, signature.access_key), (SignatureForm.HEADER_V2, "AKIDEXAMPLE"))
        for name in (b"content-md5", b"content-type", b"date", b"x-amz-date", b"x-amz-meta-a"):
            self.assertTrue(signature.covers(name), name)
        for name in (b"range", b"host", b"if-none-match", b"referer"):
            self.assertFalse(signature.covers(name), name)

    def test_query_v4(self) -> None:
        """A presigned request says until when it is valid, in any order of parameters and with encoded names."""
        query = presigned()
        for spelled in (
            query,
            b"&".join(reversed(query.split(b"&"))),
            b"x-id=GetObject&" + query + b"&partNumber=1",
            query.replace(b"X-Amz-Date", b"%58-Amz-Date"),
        ):
            self.assertEqual(
                read(query=spelled),
                Signature(
                    form=SignatureForm.QUERY_V4,
                    access_key="AKIDEXAMPLE",
                    signed_headers=frozenset({b"host", b"range"}),
                    signed_at=NOON,
                    expires_at=NOON + 3600,
                    region="eu-west-1",
                ),
            )

    def test_query_v4a(self) -> None:
        """The same for several regions."""
        query = presigned(
            Algorithm=b"AWS4-ECDSA-P256-SHA256", Credential=b"AK/20240115/s3/aws4_request"
        )
        signature = read(query=query + b"&X-Amz-Region-Set=us-west-2%2Cus-east-1")
        self.assertEqual(signature.form, SignatureForm.QUERY_V4A)
        self.assertEqual((signature.access_key, signature.region), ("AK", "us-west-2,us-east-1"))
        self.assertEqual(signature.expires_at, NOON + 3600)

    def test_query_v2(self) -> None:
        """The older form names the second itself."""
        signature = read(query=b"AWSAccessKeyId=AKIDEXAMPLE&Signature=a%2Bb%3D&Expires=1705323600")
        self.assertEqual((signature.form, signature.access_key), (SignatureForm.QUERY_V2, "AKIDEXAMPLE"))
        self.assertEqual(signature.expires_at, 1705323600)
        self.assertTrue(signature.covers(b"x-amz-acl"))
        self.assertFalse(signature.covers(b"range"))
        self.assertFalse(signature.is_expired(1705323600))
        self.assertTrue(signature.is_expired(1705323600.5))

    def test_unknown_covers_everything(self) -> None:
        """What is not understood may sign any field, so none may change."""
        signature = read(b"Bearer abc")
        self.assertFalse(signature.understood)
        self.assertFalse(signature.is_expired(1e12))
        for name in (b"range", b"if-none-match", b"x-anything"):
            self.assertTrue(signature.covers(name))

    @given(
        st.lists(
            st.one_of(
                st.binary(max_size=60), st.from_regex(rb"AWS4-HMAC-SHA256 [A-Za-z0-9=/;, ]{0,60}"), st.just(HEADER_V4)
            ),
            max_size=2,
        ),
        st.one_of(st.none(), st.binary(max_size=80), st.from_regex(rb"X-Amz-Algorithm=[A-Za-z0-9=&-]{0,80}")),
    )
    def test_takes_anything(self, authorizations: list[bytes], query: bytes | None) -> None:
        """Any bytes are some kind of signature, or none."""
        signature = read_signature(Headers((b"Authorization", value) for value in authorizations), query)
        self.assertIsInstance(signature.form, SignatureForm)
        self.assertTrue(signature.understood or signature.covers(b"range"))


def check_unknown(case: SynchronousTestCase, authorization: bytes | None, query: bytes | None) -> None:
    case.assertIs(read(authorization, query).form, SignatureForm.UNKNOWN)


add_rows(
    ReadSignatureTests,
    "unknown",
    [
        (b"", None),
        (b"Basic eDp5", None),
        (b"Bearer abc", None),
        (b"AWS", None),
        (b"AWS AKID", None),
        (b"AWS AKID:", None),
        (b"AWS :sig", None),
        (b"AWS4-HMAC-SHA256", None),
        (b"AWS4-HMAC-SHA512 Credential=" + SCOPE + b", SignedHeaders=host, Signature=a", None),
        (b"aws4-hmac-sha256 Credential=" + SCOPE + b", SignedHeaders=host, Signature=a", None),
        (b"AWS4-HMAC-SHA256 comment Credential= SignedHeaders= Signature=", None),
        (b"AWS4-HMAC-SHA256 Credential=" + SCOPE + b", SignedHeaders=host", None),
        (b"AWS4-HMAC-SHA256 Credential=" + SCOPE + b", Signature=a", None),
        (b"AWS4-HMAC-SHA256 SignedHeaders=host, Signature=a", None),
        (b"AWS4-HMAC-SHA256 Credential=" + SCOPE + b", SignedHeaders=host, Signature=", None),
        (b"AWS4-HMAC-SHA256 Credential=" + SCOPE + b", SignedHeaders=, Signature=a", None),
        (b"AWS4-HMAC-SHA256 Credential=" + SCOPE + b", SignedHeaders=host;;date, Signature=a", None),
        (b"AWS4-HMAC-SHA256 Credential=" + SCOPE + b", SignedHeaders=ho st, Signature=a", None),
        (b"AWS4-HMAC-SHA256 Credential=AK/20240115/s3/aws4_request, SignedHeaders=host, Signature=a", None),
        (b"AWS4-HMAC-SHA256 Credential=AK/20240115/r/s3/aws5_request, SignedHeaders=host, Signature=a", None),
        (b"AWS4-HMAC-SHA256 Credential=/20240115/r/s3/aws4_request, SignedHeaders=host, Signature=a", None),
        (HEADER_V4 + b", Signature=b", None),
        (HEADER_V4 + b", Extra=b", None),
        (HEADER_V4, presigned()),
        (b"AWS AKID:sig", b"AWSAccessKeyId=AK&Signature=x&Expires=1"),
        (None, presigned() + b"&AWSAccessKeyId=AK&Signature=x&Expires=1"),
        (None, presigned(expires=b"604801")),
        (None, presigned(expires=b"0")),
        (None, presigned(expires=b"-1")),
        (None, presigned(expires=b"abc")),
        (None, presigned(expires=b"")),
        (None, presigned(expires=b"1e3")),
        (None, presigned(expires=b"9" * 400)),
        (None, presigned(date=b"20240115T1200Z")),
        (None, presigned(date=b"19690101T000000Z", expires=b"60")),
        (None, presigned(date=b"20241315T120000Z")),
        (None, presigned(date=b"20240115T250000Z")),
        (None, presigned(date=b"20240115T120000")),
        (None, presigned(date=b"2024-01-15T12:00:00Z")),
        (None, presigned(Algorithm=b"AWS4-HMAC-SHA512")),
        (None, presigned(Algorithm=b"")),
        (None, presigned(SignedHeaders=b"")),
        (None, presigned(Signature=b"")),
        (None, presigned(Credential=b"AK")),
        (None, presigned() + b"&X-Amz-Expires=60"),
        (None, presigned() + b"&x-amz-expires=60"),
        (None, presigned().replace(b"X-Amz-Expires=3600&", b"")),
        (None, presigned().replace(b"X-Amz-Date=20240115T120000Z&", b"")),
        (None, presigned().replace(b"X-Amz-Date", b"x-amz-date")),
        (None, b"X-Amz-Signature=abc"),
        (None, b"Signature=x"),
        (None, b"AWSAccessKeyId=AK&Signature=x"),
        (None, b"AWSAccessKeyId=AK&Signature=x&Expires=soon"),
        (None, b"AWSAccessKeyId=AK&Signature=x&Expires=-1"),
        (None, b"AWSAccessKeyId=AK&Signature=x&Expires=" + b"9" * 400),
        (None, b"AWSAccessKeyId=AK&Signature=x&Expires=1&Expires=2"),
        (None, b"AWSAccessKeyId=&Signature=x&Expires=1"),
    ],
    check_unknown,
)


class TwoAuthorizationsTests(SynchronousTestCase):
    """A request with two Authorization fields."""

    def test_unknown(self) -> None:
        """Nobody knows which one counts."""
        headers = Headers([(b"Authorization", HEADER_V4), (b"authorization", HEADER_V4)])
        self.assertIs(read_signature(headers, None).form, SignatureForm.UNKNOWN)


class ExpiryTests(SynchronousTestCase):
    """Presigned requests at 2024-01-15T13:00:00Z."""


def check_expiry(case: SynchronousTestCase, date: bytes, expires: bytes, understood: bool, expired: bool) -> None:
    signature = read(query=presigned(date, expires))
    case.assertIs(signature.understood, understood)
    case.assertIs(signature.is_expired(NOON + 3600), expired)


# The vectors of doc/faults.md.
add_rows(
    ExpiryTests,
    "V7",
    [
        (b"20240115T120000Z", b"3600", True, False),
        (b"20240115T120000Z", b"3599", True, True),
        (b"20240115T120000Z", b"604800", True, False),
        (b"20240115T120000Z", b"604801", False, False),
        (b"20240115T120000Z", b"0", False, False),
        (b"20240115T120000Z", b"-1", False, False),
        (b"20240115T120000Z", b"abc", False, False),
        (b"20240115T1200Z", b"3600", False, False),
        (b"19690101T000000Z", b"60", False, False),
    ],
    check_expiry,
)
add_rows(
    ExpiryTests,
    "at_one_o_clock",
    [
        (b"20240115T120000Z", b"1", True, True),
        (b"20240108T130000Z", b"604800", True, False),
        (b"20240108T125959Z", b"604800", True, True),
        (b"19700101T000000Z", b"60", True, True),
        (b"99991231T235959Z", b"604800", True, False),
    ],
    check_expiry,
)


class RedactionTests(SynchronousTestCase):
    """What must not be shown is not shown."""

    @given(st.binary(max_size=120))
    def test_takes_anything(self, target: bytes) -> None:
        """Any bytes can be redacted; doing it twice changes nothing more."""
        once = redact_target(target)
        self.assertEqual(redact_target(once), once)

    @given(
        st.sampled_from(
            [b"X-Amz-Signature", b"X-Amz-Credential", b"X-Amz-Security-Token", b"AWSAccessKeyId", b"Signature"]
        ),
        st.integers(0, 3),
        st.data(),
    )
    def test_encoded_names(self, name: bytes, depth: int, data: st.DataObject) -> None:
        """A name is known in any case, with any of its letters encoded, several times over."""
        for _ in range(depth):
            index = data.draw(st.integers(0, len(name) - 1))
            name = name[:index] + b"%%%02x" % name[index] + name[index + 1 :]
        name = data.draw(st.sampled_from([name, name.lower(), name.upper()]))
        shown = redact_target(b"/b/k?a=b&" + name + b"=SeCrEt&c=d")
        self.assertNotIn(b"SeCrEt", shown)
        self.assertTrue(shown.startswith(b"/b/k?a=b&") and shown.endswith(b"&c=d"))


def check_redaction(case: SynchronousTestCase, target: bytes, shown: bytes) -> None:
    case.assertEqual(redact_target(target), shown)


add_rows(
    RedactionTests,
    "target",
    [
        (b"/b/k", b"/b/k"),
        (b"", b""),
        (b"/b/k?", b"/b/k?"),
        (b"/b/k?uploads&x=", b"/b/k?uploads&x="),
        (b"/b/k?X-Amz-Signature=abc", b"/b/k?X-Amz-Signature=REDACTED"),
        (b"/b/k?X-Amz-Signature", b"/b/k?X-Amz-Signature"),
        (b"/b/k?X-Amz-Signature=", b"/b/k?X-Amz-Signature=REDACTED"),
        (b"/b/k?X-Amz-Date=1&X-Amz-Credential=AK%2F1&a=b", b"/b/k?X-Amz-Date=1&X-Amz-Credential=REDACTED&a=b"),
        (b"/k?AWSAccessKeyId=AK&Signature=a=&Expires=1", b"/k?AWSAccessKeyId=REDACTED&Signature=REDACTED&Expires=1"),
        (b"/k?x-amz-security-token=a;b#c", b"/k?x-amz-security-token=REDACTED"),
        (b"/k?X-Amz-Security-Token=a%26b%3Dc&d=e", b"/k?X-Amz-Security-Token=REDACTED&d=e"),
        (b"/k?X-Amz-S3session-Token=abc", b"/k?X-Amz-S3session-Token=REDACTED"),
        (b"/k?%58-Amz-Signature=abc", b"/k?%58-Amz-Signature=REDACTED"),
        (b"/k?%2558-Amz-Signature=abc", b"/k?%2558-Amz-Signature=REDACTED"),
        (b"/k%3FX-Amz-Signature%3Dabc%26a%3Db", b"/k%3FX-Amz-Signature%3DREDACTED%26a%3Db"),
        (b"/k%253FX-Amz-Signature%253Dabc", b"/k%253FX-Amz-Signature%253DREDACTED"),
        (b"http://h/k?X-Amz-Signature=abc", b"http://h/k?X-Amz-Signature=REDACTED"),
        (b"http://u:p@h/k@x", b"http://REDACTED@h/k@x"),
        (b"/k?signatures=abc", b"/k?signatures=abc"),
        (b"/X-Amz-Signature=abc", b"/X-Amz-Signature=abc"),
        (b"/k?x-amz-server-side-encryption-customer-key=abc", b"/k?x-amz-server-side-encryption-customer-key=REDACTED"),
    ],
    check_redaction,
)
