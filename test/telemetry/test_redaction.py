"""Secrets in text."""

from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.telemetry.redaction import redact_text

_V4 = (
    "AWS4-HMAC-SHA256 Credential=SECRETKEYID/20260131/eu-west-1/s3/aws4_request, SignedHeaders=host;x-amz-date, "
    "Signature=SECRET0123456789abcdef"
)

_SECRETS = {
    "header_line": f"Authorization: {_V4}",
    "header_bytes": f"{{b'authorization': [b'{_V4}']}}",
    "pair_of_bytes": f"Headers([(b'Host', b'x'), (b'Authorization', b'{_V4}'), (b'Accept', b'*/*')])",
    "json": f'{{"Authorization": "{_V4}", "x": 1}}',
    "bare_version_4": f"bad credentials: {_V4}",
    "bare_version_2": "got AWS SECRETKEYID:SECRETfrJIUN8DYpKDtOLCwo=",
    "proxy_authorization": "proxy-authorization: Basic SECRETdXNlcjpwYXNz",
    "presigned": "GET /b/k?X-Amz-Credential=SECRETKEYID%2F2026&X-Amz-Expires=5&X-Amz-Signature=SECRET&a=b failed",
    "presigned_lower_case": "/b/k?x-amz-security-token=SECRET%2Fabc%3D",
    "presigned_encoded": "url=https%3A%2F%2Fb%2Fk%3FX-Amz-Signature%3DSECRET",
    "presigned_encoded_names": "/b/k?X%2DAmz%2DSignature=SECRET",
    "presigned_encoded_twice": "url=https%253A%252F%252Fb%252Fk%253FX-Amz-Signature%253DSECRET",
    "presigned_encoded_letters": "/b/k?X-Amz-%53ignature=SECRET and /b/k?%53ignature=SECRET",
    "form_field": 'name="X-Amz-Signature"\r\n\r\nSECRET',
    "form_field_repr": repr('name="x-amz-security-token"\r\n\r\nSECRET'),
    "signature_in_json": '{"X-Amz-Signature": "SECRET", "a": 1}',
    "environment": "aws_secret_access_key = SECRET; AWS_SESSION_TOKEN=SECRET",
    "presigned_version_2": "/b/k?AWSAccessKeyId=SECRETKEYID&Signature=SECRET%2Bx&Expires=1",
    "token_header": "x-amz-security-token: SECRET//token+==",
    "express_token": "(b'x-amz-s3session-token', b'SECRET')",
    "customer_key": "x-amz-server-side-encryption-customer-key: SECRETbase64=",
    "customer_key_md5": "'x-amz-server-side-encryption-customer-key-MD5': 'SECRETbase64='",
    "copy_source_key": "X-Amz-Copy-Source-Server-Side-Encryption-Customer-Key=SECRETbase64=",
    "url_with_password": "can't reach http://me:SECRET@collector.example:4318/v1",
    "cookie": "Cookie: session=SECRET",
}


class RedactionTests(SynchronousTestCase):
    def test_harmless_text_stays(self) -> None:
        """Text without secrets isn't touched, not even when it speaks of them."""
        for text in (
            "GET /b/k?versionId=3&X-Amz-Expires=60 took 5 ms",
            "The signature of the request does not match.",
            "x-amz-server-side-encryption-customer-algorithm: AES256",
            "x-amz-request-id: 0123456789ABCDEF",
            "listening on http://0.0.0.0:8080/health",
            "signature: there is none",
            "b/100%25 of it/%2Fx%20y",
            "",
        ):
            self.assertEqual(redact_text(text), text)

    def test_the_rest_stays(self) -> None:
        """Only the values go."""
        self.assertEqual(
            redact_text(_SECRETS["presigned"]),
            "GET /b/k?X-Amz-Credential=REDACTED&X-Amz-Expires=5&X-Amz-Signature=REDACTED&a=b failed",
        )
        self.assertIn("(b'Accept', b'*/*')", redact_text(_SECRETS["pair_of_bytes"]))

    def test_several_lines(self) -> None:
        """A header line ends at the end of its line."""
        self.assertEqual(
            redact_text("Authorization: SECRET\r\nHost: x"), "Authorization: REDACTED\r\nHost: x"
        )

    def test_hostile_text_takes_no_time(self) -> None:
        """Long runs of almost-matches end quickly."""
        for piece in ("authorization", "x-amz-signature=", "AWS A", "http://a", "authorization   [[[["):
            redact_text(piece * 20_000)


def _redaction_test(text: str) -> Callable[[RedactionTests], None]:
    def test(self: RedactionTests) -> None:
        redacted = redact_text(text)
        self.assertNotIn("SECRET", redacted)
        self.assertIn("REDACTED", redacted)

    test.__doc__ = f"No secret is left of: {text[:60]}"
    return test


for _name, _text in _SECRETS.items():
    setattr(RedactionTests, f"test_{_name}", _redaction_test(_text))
