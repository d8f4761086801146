"""Errors in S3's form."""

from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.s3 import errors
from s3proxy.s3.errors import S3Error, render
from test.s3.table import add_rows


def elements(document: bytes) -> list[tuple[str, str]]:
    root = ElementTree.fromstring(document)
    assert root.tag == "Error"
    return [(child.tag, child.text or "") for child in root]


class FactoryTests(SynchronousTestCase):
    """Status and code of every error that the proxy makes."""

    def test_all_are_here(self) -> None:
        """The table below has every factory."""
        factories = set(errors.__all__) - {"CONTENT_TYPE", "S3Error", "render"}
        self.assertEqual(factories, {row[0] for row in ROWS})

    def test_slow_down(self) -> None:
        """Overload tells the client when to come back."""
        self.assertEqual(errors.slow_down().headers, ((b"Retry-After", b"5"),))

    def test_invalid_range(self) -> None:
        """416 says how large the object is, in the field and in the elements that SDKs read."""
        error = errors.invalid_range(0, b"bytes=0-8388607")
        self.assertEqual(error.headers, ((b"Content-Range", b"bytes */0"),))
        self.assertEqual(
            elements(render(error, "R", b"/b/k")),
            [
                ("Code", "InvalidRange"),
                ("Message", "The requested range is not satisfiable"),
                ("RangeRequested", "bytes=0-8388607"),
                ("ActualObjectSize", "0"),
                ("Resource", "/b/k"),
                ("RequestId", "R"),
            ],
        )

    def test_expired(self) -> None:
        """An expired request is told both times; one in an impossible year does not fail."""
        error = errors.access_denied_expired(1705323600, 1705323601.9)
        self.assertEqual(
            error.fields, (("Expires", "2024-01-15T13:00:00Z"), ("ServerTime", "2024-01-15T13:00:01Z"))
        )
        self.assertEqual(errors.access_denied_expired(1e18, 0).fields[0], ("Expires", "never"))

    def test_announced_size(self) -> None:
        """A size is only quoted when the client gave one."""
        self.assertEqual(
            errors.entity_too_large(10, 11).fields, (("ProposedSize", "11"), ("MaxSizeAllowed", "10"))
        )
        self.assertEqual(errors.entity_too_large(10).fields, (("MaxSizeAllowed", "10"),))


def check_factory(case: SynchronousTestCase, name: str, arguments: tuple[object, ...], status: int, code: str) -> None:
    error = getattr(errors, name)(*arguments)
    case.assertIsInstance(error, S3Error)
    case.assertEqual((error.status, error.code), (status, code))
    case.assertIn(code, str(error))
    case.assertEqual(dict(elements(render(error, "R", b"/")))["Code"], code)


ROWS = [
    ("slow_down", (), 503, "SlowDown"),
    ("bad_gateway", (), 502, "BadGateway"),
    ("gateway_timeout", (), 504, "GatewayTimeout"),
    ("internal_error", (), 500, "InternalError"),
    ("request_timeout", (), 400, "RequestTimeout"),
    ("invalid_range", (5, b"bytes=9-"), 416, "InvalidRange"),
    ("missing_host", (), 400, "MissingHostHeader"),
    ("invalid_request", ("why",), 400, "InvalidRequest"),
    ("invalid_uri", (), 400, "InvalidURI"),
    ("malformed_xml", (), 400, "MalformedXML"),
    ("uri_too_long", (16384,), 414, "RequestURITooLong"),
    ("header_too_large", (32768,), 431, "RequestHeaderSectionTooLarge"),
    ("entity_too_large", (5,), 413, "EntityTooLarge"),
    ("access_denied", (), 403, "AccessDenied"),
    ("access_denied_expired", (1.0, 2.0), 403, "AccessDenied"),
    ("method_not_allowed", (b"CONNECT",), 405, "MethodNotAllowed"),
    ("upstream_tls_validation_failed", ("h",), 400, "UpstreamTLSValidationFailed"),
]
add_rows(FactoryTests, "factory", ROWS, check_factory)


class RenderTests(SynchronousTestCase):
    """The document."""

    def test_escapes(self) -> None:
        """Markup in anything that came from outside stays text; what XML can't hold is replaced."""
        error = S3Error(400, "X", "a<b>&\x00\ud800", fields=(("Tag", "]]>\x0b"),))
        document = render(error, "id", b"/<script>&\xff\x01")
        self.assertEqual(
            elements(document),
            [
                ("Code", "X"),
                ("Message", "a<b>&\ufffd\ufffd"),
                ("Tag", "]]>\ufffd"),
                ("Resource", "/<script>&\\xff\ufffd"),
                ("RequestId", "id"),
            ],
        )
        self.assertNotIn(b"<script>", document)

    def test_no_query(self) -> None:
        """A query string, which may hold credentials, is not repeated."""
        document = render(errors.access_denied(), "id", b"/b/k?X-Amz-Signature=secret")
        self.assertNotIn(b"secret", document)
        self.assertIn(b"<Resource>/b/k</Resource>", document)

    @given(st.text(max_size=40), st.binary(max_size=40))
    def test_always_well_formed(self, message: str, resource: bytes) -> None:
        """Whatever goes wrong, the client gets a document that it can read."""
        document = render(S3Error(400, "X", message, fields=(("Y", message),)), "id", resource)
        self.assertEqual([tag for tag, _ in elements(document)], ["Code", "Message", "Y", "Resource", "RequestId"])
