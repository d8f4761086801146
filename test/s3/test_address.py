"""Which object a request is about, for every family of hosts."""

from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.s3.address import AddressStyle, ObjectAddress, certificate_host, locate
from s3proxy.s3.headers import Headers
from s3proxy.s3.target import parse_target
from test.s3.table import add_rows

PATH, VIRTUAL = AddressStyle.PATH, AddressStyle.VIRTUAL_HOSTED
POINT, MULTI = AddressStyle.ACCESS_POINT, AddressStyle.MULTI_REGION_ACCESS_POINT
WEST, CHINA, GOV = "us-west-2", "cn-north-1", "us-gov-west-1"
AWS = "amazonaws.com"


def address(target: bytes, host: bytes, *base_domains: str) -> ObjectAddress | None:
    return locate(parse_target(target, Headers([(b"Host", host)])), base_domains)


class HostFamilyTests(SynchronousTestCase):
    """Store, bucket and key by host."""


def check_cached(
    case: SynchronousTestCase,
    host: str,
    path: str,
    store: str,
    bucket: str,
    key: str,
    region: str | None = None,
    style: AddressStyle = PATH,
) -> None:
    """The row holds, also in upper case, with a trailing dot, with a port of AWS's, and in absolute-form."""
    expected = ObjectAddress(
        store=store, bucket=bucket.encode(), key=key.encode(), region=region, style=style, cacheable=True
    )
    spellings = [host, host.upper(), host + "."]
    if store.startswith("aws"):
        spellings += [host + ":80", host + ":8080"]
    for spelling in spellings:
        case.assertEqual(address(path.encode(), spelling.encode()), expected, spelling)
    case.assertEqual(address(f"http://{host}:80{path}".encode(), host.encode()), expected)


def check_uncached(
    case: SynchronousTestCase, host: str, path: str, bucket: str, key: str, style: AddressStyle
) -> None:
    found = address(path.encode(), host.encode())
    case.assertIsNotNone(found)
    case.assertEqual((found.bucket, found.key), (bucket.encode(), key.encode()))
    case.assertIs(found.style, style)
    case.assertFalse(found.cacheable)


add_rows(
    HostFamilyTests,
    "path_style",
    [
        (f"s3.{AWS}", "/b/k", "aws", "b", "k"),
        (f"s3.{AWS}", "/b", "aws", "b", ""),
        (f"s3.{AWS}", "/b/", "aws", "b", ""),
        (f"s3.{AWS}", "/", "aws", "", ""),
        (f"s3.{AWS}", "/b//x", "aws", "b", "/x"),
        (f"s3.{AWS}", "/b//", "aws", "b", "/"),
        (f"s3.{AWS}", "/b/x/../y", "aws", "b", "x/../y"),
        (f"s3.{AWS}", "/b/..", "aws", "b", ".."),
        (f"s3.{AWS}", "/My_Bucket/K", "aws", "My_Bucket", "K"),
        (f"s3.{AWS}", "/my%2Dbucket/K", "aws", "my-bucket", "K"),
        (f"s3.{AWS}", "/b/k?versions", "aws", "b", "k"),
        (f"s3-external-1.{AWS}", "/b/k", "aws", "b", "k"),
        (f"s3.us-east-1.{AWS}", "/b/k", "aws", "b", "k", "us-east-1"),
        (f"s3.{WEST}.{AWS}", "/b/k", "aws", "b", "k", WEST),
        (f"s3.{WEST}.{AWS}", "/my-alias-abc-s3alias/k", "aws", "my-alias-abc-s3alias", "k", WEST),
        (f"s3-{WEST}.{AWS}", "/b/k", "aws", "b", "k", WEST),
        (f"s3.dualstack.{WEST}.{AWS}", "/b/k", "aws", "b", "k", WEST),
        (f"s3-fips.{WEST}.{AWS}", "/b/k", "aws", "b", "k", WEST),
        (f"s3-fips.dualstack.{WEST}.{AWS}", "/b/k", "aws", "b", "k", WEST),
        (f"s3.ap-southeast-2.{AWS}", "/b/k", "aws", "b", "k", "ap-southeast-2"),
        (f"s3.ap-northeast-3.{AWS}", "/b/k", "aws", "b", "k", "ap-northeast-3"),
        (f"s3.eu-central-1.{AWS}", "/b/k", "aws", "b", "k", "eu-central-1"),
        (f"s3.il-central-1.{AWS}", "/b/k", "aws", "b", "k", "il-central-1"),
        (f"s3.mx-central-1.{AWS}", "/b/k", "aws", "b", "k", "mx-central-1"),
        (f"s3.{GOV}.{AWS}", "/b/k", "aws-us-gov", "b", "k", GOV),
        (f"s3-{GOV}.{AWS}", "/b/k", "aws-us-gov", "b", "k", GOV),
        (f"s3-fips-{GOV}.{AWS}", "/b/k", "aws-us-gov", "b", "k", GOV),
        (f"s3-fips.{GOV}.{AWS}", "/b/k", "aws-us-gov", "b", "k", GOV),
        (f"s3.dualstack.us-gov-east-1.{AWS}", "/b/k", "aws-us-gov", "b", "k", "us-gov-east-1"),
        (f"s3.{CHINA}.{AWS}.cn", "/b/k", "aws-cn", "b", "k", CHINA),
        (f"s3-{CHINA}.{AWS}.cn", "/b/k", "aws-cn", "b", "k", CHINA),
        (f"s3.dualstack.cn-northwest-1.{AWS}.cn", "/b/k", "aws-cn", "b", "k", "cn-northwest-1"),
        (f"s3.{AWS}.cn", "/b/k", "aws-cn", "b", "k"),
        ("s3.us-iso-east-1.c2s.ic.gov", "/b/k", "aws-iso", "b", "k", "us-iso-east-1"),
        ("s3.us-isob-east-1.sc2s.sgov.gov", "/b/k", "aws-iso-b", "b", "k", "us-isob-east-1"),
        ("s3.eu-isoe-west-1.cloud.adc-e.uk", "/b/k", "aws-iso-e", "b", "k", "eu-isoe-west-1"),
        ("s3.us-isof-south-1.csp.hci.ic.gov", "/b/k", "aws-iso-f", "b", "k", "us-isof-south-1"),
        ("s3.eusc-de-east-1.amazonaws.eu", "/b/k", "aws-eusc", "b", "k", "eusc-de-east-1"),
        (f"bucket.vpce-1a2b-5e6f.s3.{WEST}.vpce.{AWS}", "/b/k", "aws", "b", "k", WEST),
        (f"bucket.vpce-1a2b-5e6f-us-west-2a.s3.{WEST}.vpce.{AWS}", "/b/k", "aws", "b", "k", WEST),
        (f"bucket.vpce-1a2b.s3.{CHINA}.vpce.{AWS}.cn", "/b/k", "aws-cn", "b", "k", CHINA),
        (f"s3-accesspoint.{WEST}.{AWS}", "/my-alias-abc-s3alias/k", "aws", "my-alias-abc-s3alias", "k", WEST),
        (f"s3-accesspoint.dualstack.{WEST}.{AWS}", "/al-s3alias/k", "aws", "al-s3alias", "k", WEST),
        (f"accesspoint.vpce-1a2b.s3.{WEST}.vpce.{AWS}", "/al-s3alias/k", "aws", "al-s3alias", "k", WEST),
    ],
    check_cached,
)

add_rows(
    HostFamilyTests,
    "virtual_hosted",
    [
        (f"b.s3.{AWS}", "/k", "aws", "b", "k", None, VIRTUAL),
        (f"b.s3.{AWS}", "/", "aws", "b", "", None, VIRTUAL),
        (f"b.s3.{AWS}", "//k", "aws", "b", "/k", None, VIRTUAL),
        (f"b.s3.{AWS}", "/b/k", "aws", "b", "b/k", None, VIRTUAL),
        (f"b.s3.{AWS}", "/../k", "aws", "b", "../k", None, VIRTUAL),
        (f"b.s3.{AWS}", "/./k", "aws", "b", "./k", None, VIRTUAL),
        (f"b.s3.{AWS}", "/a/", "aws", "b", "a/", None, VIRTUAL),
        (f"my.company.logs.s3.{AWS}", "/k", "aws", "my.company.logs", "k", None, VIRTUAL),
        (f"s3.s3.{AWS}", "/k", "aws", "s3", "k", None, VIRTUAL),
        (f"b.s3-external-1.{AWS}", "/k", "aws", "b", "k", None, VIRTUAL),
        (f"b.s3.{WEST}.{AWS}", "/k", "aws", "b", "k", WEST, VIRTUAL),
        (f"my.company.logs.s3.{WEST}.{AWS}", "/k", "aws", "my.company.logs", "k", WEST, VIRTUAL),
        (f"a.s3.us-east-1.s3.{WEST}.{AWS}", "/k", "aws", "a.s3.us-east-1", "k", WEST, VIRTUAL),
        (f"dualstack.s3.{WEST}.{AWS}", "/k", "aws", "dualstack", "k", WEST, VIRTUAL),
        (f"bucket.s3.{WEST}.{AWS}", "/k", "aws", "bucket", "k", WEST, VIRTUAL),
        (f"s3-us-east-1.s3.{AWS}", "/k", "aws", "s3-us-east-1", "k", None, VIRTUAL),
        (f"my-alias-abc-s3alias.s3.{WEST}.{AWS}", "/k", "aws", "my-alias-abc-s3alias", "k", WEST, VIRTUAL),
        (f"b.s3-{WEST}.{AWS}", "/k", "aws", "b", "k", WEST, VIRTUAL),
        (f"my.b.s3-{WEST}.{AWS}", "/k", "aws", "my.b", "k", WEST, VIRTUAL),
        (f"b.s3.dualstack.{WEST}.{AWS}", "/k", "aws", "b", "k", WEST, VIRTUAL),
        (f"my.b.s3.dualstack.{WEST}.{AWS}", "/k", "aws", "my.b", "k", WEST, VIRTUAL),
        (f"b.s3-fips.{WEST}.{AWS}", "/k", "aws", "b", "k", WEST, VIRTUAL),
        (f"b.s3-fips.dualstack.{WEST}.{AWS}", "/k", "aws", "b", "k", WEST, VIRTUAL),
        (f"b.s3-accelerate.{AWS}", "/k", "aws", "b", "k", None, VIRTUAL),
        (f"b.s3-accelerate.dualstack.{AWS}", "/k", "aws", "b", "k", None, VIRTUAL),
        (f"b.s3.{GOV}.{AWS}", "/k", "aws-us-gov", "b", "k", GOV, VIRTUAL),
        (f"b.s3-fips.{GOV}.{AWS}", "/k", "aws-us-gov", "b", "k", GOV, VIRTUAL),
        (f"b.s3-fips-{GOV}.{AWS}", "/k", "aws-us-gov", "b", "k", GOV, VIRTUAL),
        (f"b.s3.{CHINA}.{AWS}.cn", "/k", "aws-cn", "b", "k", CHINA, VIRTUAL),
        (f"b.s3-{CHINA}.{AWS}.cn", "/k", "aws-cn", "b", "k", CHINA, VIRTUAL),
        (f"b.s3.dualstack.{CHINA}.{AWS}.cn", "/k", "aws-cn", "b", "k", CHINA, VIRTUAL),
        ("b.s3.us-iso-east-1.c2s.ic.gov", "/k", "aws-iso", "b", "k", "us-iso-east-1", VIRTUAL),
        ("b.s3.eusc-de-east-1.amazonaws.eu", "/k", "aws-eusc", "b", "k", "eusc-de-east-1", VIRTUAL),
        (f"b.bucket.vpce-1a2b-5e6f.s3.{WEST}.vpce.{AWS}", "/k", "aws", "b", "k", WEST, VIRTUAL),
        (f"my.b.bucket.vpce-1a2b-5e6f.s3.{WEST}.vpce.{AWS}", "/k", "aws", "my.b", "k", WEST, VIRTUAL),
        (f"b.bucket.vpce-1a2b.s3.{GOV}.vpce.{AWS}", "/k", "aws-us-gov", "b", "k", GOV, VIRTUAL),
    ],
    check_cached,
)

AP_WEST, AP_EAST = f"aws.s3-accesspoint.{WEST}", "aws.s3-accesspoint.us-east-1"
AP_NAME = "ap-123456789012"
add_rows(
    HostFamilyTests,
    "access_point",
    [
        (f"{AP_NAME}.s3-accesspoint.{WEST}.{AWS}", "/k", AP_WEST, AP_NAME + "-s3alias", "k", WEST, POINT),
        (f"{AP_NAME}.s3-accesspoint.us-east-1.{AWS}", "/k", AP_EAST, AP_NAME + "-s3alias", "k", "us-east-1", POINT),
        (f"{AP_NAME}.s3-accesspoint.{WEST}.{AWS}", "/a/b", AP_WEST, AP_NAME + "-s3alias", "a/b", WEST, POINT),
        (f"{AP_NAME}-s3alias.s3-accesspoint.{WEST}.{AWS}", "/k", AP_WEST, AP_NAME + "-s3alias", "k", WEST, POINT),
        (f"{AP_NAME}.s3-accesspoint.dualstack.{WEST}.{AWS}", "/k", AP_WEST, AP_NAME + "-s3alias", "k", WEST, POINT),
        (f"{AP_NAME}.s3-accesspoint-fips.{WEST}.{AWS}", "/k", AP_WEST, AP_NAME + "-s3alias", "k", WEST, POINT),
        (
            f"{AP_NAME}.s3-accesspoint-fips.dualstack.{GOV}.{AWS}",
            "/k",
            f"aws-us-gov.s3-accesspoint.{GOV}",
            AP_NAME + "-s3alias",
            "k",
            GOV,
            POINT,
        ),
        (
            f"{AP_NAME}.s3-accesspoint.{CHINA}.{AWS}.cn",
            "/k",
            f"aws-cn.s3-accesspoint.{CHINA}",
            AP_NAME + "-s3alias",
            "k",
            CHINA,
            POINT,
        ),
        (
            f"{AP_NAME}.accesspoint.vpce-1a2b-5e6f.s3.{WEST}.vpce.{AWS}",
            "/k",
            AP_WEST,
            AP_NAME + "-s3alias",
            "k",
            WEST,
            POINT,
        ),
        (f"mfz123.mrap.accesspoint.s3-global.{AWS}", "/k", "aws.s3-global", "mfz123.mrap", "k", None, MULTI),
        (f"mfz123.accesspoint.s3-global.{AWS}", "/k", "aws.s3-global", "mfz123.mrap", "k", None, MULTI),
        (f"accesspoint.s3-global.{AWS}", "/mfz123.mrap/k", "aws.s3-global", "mfz123.mrap", "k", None, MULTI),
        (f"mfz123.mrap.accesspoint.s3-global.{AWS}", "/", "aws.s3-global", "mfz123.mrap", "", None, MULTI),
    ],
    check_cached,
)

add_rows(
    HostFamilyTests,
    "other_store",
    [
        ("minio.example", "/b/k", "minio.example:80", "b", "k"),
        ("minio.example", "/b/a/k", "minio.example:80", "b", "a/k"),
        ("minio.example", "/b", "minio.example:80", "b", ""),
        ("minio.example", "/", "minio.example:80", "", ""),
        ("b.minio.example", "/a/k", "b.minio.example:80", "a", "k"),
        ("127.0.0.1", "/b/k", "127.0.0.1:80", "b", "k"),
        ("localhost", "/b/k", "localhost:80", "b", "k"),
        ("s3", "/b/k", "s3:80", "b", "k"),
        ("amazonaws.com", "/b/k", "amazonaws.com:80", "b", "k"),
        ("s3.amazonaws.com.example", "/b/k", "s3.amazonaws.com.example:80", "b", "k"),
        ("xamazonaws.com", "/b/k", "xamazonaws.com:80", "b", "k"),
        ("s3.xamazonaws.com", "/b/k", "s3.xamazonaws.com:80", "b", "k"),
        (f"ec2-1-2-3-4.compute-1.{AWS}", "/b/k", f"ec2-1-2-3-4.compute-1.{AWS}:80", "b", "k"),
        (f"s3-minio-123.{WEST}.elb.{AWS}", "/b/k", f"s3-minio-123.{WEST}.elb.{AWS}:80", "b", "k"),
        (f"sqs.{WEST}.{AWS}", "/b/k", f"sqs.{WEST}.{AWS}:80", "b", "k"),
        ("storage.googleapis.com", "/b/k", "storage.googleapis.com:80", "b", "k"),
        ("s3.us-west-004.backblazeb2.com", "/b/k", "s3.us-west-004.backblazeb2.com:80", "b", "k"),
        ("acct.r2.cloudflarestorage.com", "/b/k", "acct.r2.cloudflarestorage.com:80", "b", "k"),
    ],
    check_cached,
)

add_rows(
    HostFamilyTests,
    "never_cached",
    [
        (f"b.s3-website-us-east-1.{AWS}", "/k", "b", "k", AddressStyle.WEBSITE),
        (f"b.s3-website.eu-central-1.{AWS}", "/k", "b", "k", AddressStyle.WEBSITE),
        (f"my.b.s3-website.{CHINA}.{AWS}.cn", "/", "my.b", "", AddressStyle.WEBSITE),
        (f"{AP_NAME}.s3-object-lambda.{WEST}.{AWS}", "/k", AP_NAME, "k", AddressStyle.OBJECT_LAMBDA),
        (f"{AP_NAME}.s3-object-lambda-fips.{WEST}.{AWS}", "/k", AP_NAME, "k", AddressStyle.OBJECT_LAMBDA),
        (f"ol-alias--ol-s3.s3.{WEST}.{AWS}", "/k", "ol-alias--ol-s3", "k", AddressStyle.OBJECT_LAMBDA),
        (f"s3.{WEST}.{AWS}", "/ol-alias--ol-s3/k", "ol-alias--ol-s3", "k", AddressStyle.OBJECT_LAMBDA),
        (f"{AP_NAME}.op-01ac.s3-outposts.{WEST}.{AWS}", "/k", f"{AP_NAME}.op-01ac", "k", AddressStyle.OUTPOST),
        (f"al--op-s3.op-01ac.s3-outposts.{WEST}.{AWS}", "/k", "al--op-s3.op-01ac", "k", AddressStyle.OUTPOST),
        (f"s3.{WEST}.{AWS}", "/al--op-s3/k", "al--op-s3", "k", AddressStyle.OUTPOST),
        (
            f"b--usw2-az1--x-s3.s3express-usw2-az1.{WEST}.{AWS}",
            "/k",
            "b--usw2-az1--x-s3",
            "k",
            AddressStyle.DIRECTORY_BUCKET,
        ),
        (
            f"b--usw2-az1--x-s3.s3express-fips-usw2-az1.dualstack.{WEST}.{AWS}",
            "/k",
            "b--usw2-az1--x-s3",
            "k",
            AddressStyle.DIRECTORY_BUCKET,
        ),
        (f"s3express-control.{WEST}.{AWS}", "/b--x-s3", "b--x-s3", "", AddressStyle.DIRECTORY_BUCKET),
        (f"s3.{WEST}.{AWS}", "/b--usw2-az1--x-s3/k", "b--usw2-az1--x-s3", "k", AddressStyle.DIRECTORY_BUCKET),
        (f"ap--usw2-az1--xa-s3.s3.{WEST}.{AWS}", "/k", "ap--usw2-az1--xa-s3", "k", AddressStyle.DIRECTORY_BUCKET),
        (f"123456789012.s3-control.{WEST}.{AWS}", "/v20180820/x", "v20180820", "x", AddressStyle.UNKNOWN),
        (f"control.vpce-1a2b.s3.{WEST}.vpce.{AWS}", "/b/k", "b", "k", AddressStyle.UNKNOWN),
        (f"my.b.s3-accelerate.{AWS}", "/k/x", "k", "x", AddressStyle.UNKNOWN),
        (f"s3-accelerate.{AWS}", "/b/k", "b", "k", AddressStyle.UNKNOWN),
        (f"s3-w.us-east-1.{AWS}", "/b/k", "b", "k", AddressStyle.UNKNOWN),
        (f"s3-1-w.{AWS}", "/b/k", "b", "k", AddressStyle.UNKNOWN),
        (f"b.s3-new-thing.{WEST}.{AWS}", "/b/k", "b", "k", AddressStyle.UNKNOWN),
        (f"s3.{CHINA}.{AWS}", "/b/k", "b", "k", AddressStyle.UNKNOWN),
        (f"s3.{WEST}.{AWS}.cn", "/b/k", "b", "k", AddressStyle.UNKNOWN),
        (f"s3.{GOV}.{AWS}.cn", "/b/k", "b", "k", AddressStyle.UNKNOWN),
        (f"s3-outposts.{WEST}.api.aws", "/b/k", "b", "k", AddressStyle.UNKNOWN),
        (f"x.y.s3-accesspoint.{WEST}.{AWS}", "/b/k", "b", "k", AddressStyle.UNKNOWN),
    ],
    check_uncached,
)


class BaseDomainTests(SynchronousTestCase):
    """Virtual-hosted stores that are configured."""


def check_base_domain(
    case: SynchronousTestCase, host: str, path: str, store: str, bucket: str, key: str, style: AddressStyle
) -> None:
    found = address(path.encode(), host.encode(), "s3.example", "deep.s3.example")
    case.assertEqual(
        found, ObjectAddress(store=store, bucket=bucket.encode(), key=key.encode(), style=style, cacheable=True)
    )


add_rows(
    BaseDomainTests,
    "base_domain",
    [
        ("s3.example", "/b/k", "s3.example:80", "b", "k", PATH),
        ("b.s3.example", "/k", "s3.example:80", "b", "k", VIRTUAL),
        ("B.S3.Example.", "/k", "s3.example:80", "b", "k", VIRTUAL),
        ("my.b.s3.example", "/k", "s3.example:80", "my.b", "k", VIRTUAL),
        ("b.s3.example", "/", "s3.example:80", "b", "", VIRTUAL),
        ("b.s3.example:9000", "/k", "s3.example:9000", "b", "k", VIRTUAL),
        ("deep.s3.example", "/b/k", "deep.s3.example:80", "b", "k", PATH),
        ("b.deep.s3.example", "/k", "deep.s3.example:80", "b", "k", VIRTUAL),
        ("xs3.example", "/b/k", "xs3.example:80", "b", "k", PATH),
        ("example", "/b/k", "example:80", "b", "k", PATH),
    ],
    check_base_domain,
)


class NothingSafeTests(SynchronousTestCase):
    """Paths that name no bucket or key for certain touch no entry."""


def check_none(case: SynchronousTestCase, path: bytes) -> None:
    for host in (b"s3.amazonaws.com", b"minio.example:9000"):
        case.assertIsNone(address(path, host))


def check_none_virtual(case: SynchronousTestCase, path: bytes) -> None:
    case.assertIsNone(address(path, b"b.s3.amazonaws.com"))


add_rows(
    NothingSafeTests,
    "path",
    [
        (path,)
        for path in (
            b"//k",
            b"//",
            b"/../etc/passwd",
            b"/./x",
            b"/..//x",
            b"/%2e%2e/x",
            b"/.%2E/x",
            b"/b%00/k",
            b"/b%0a/k",
            b"/b%7f/k",
            b"/b%2Fc/k",
            b"/b%5Cc/k",
            b"/b\\c/k",
            b"/b/%",
            b"/b/%zz",
            b"/b/%2",
            b"/%zz/k",
            b"/b/k#x",
            b"/b/k?x#y",
            b"*",
        )
    ],
    check_none,
)
add_rows(
    NothingSafeTests,
    "virtual_path",
    [(path,) for path in (b"/%", b"/%zz", b"/k%2", b"/k#x", b"*")],
    check_none_virtual,
)


class KeyTests(SynchronousTestCase):
    """Keys are bytes, decoded exactly once."""

    @given(st.binary(min_size=1, max_size=80))
    def test_any_encoding_is_one_key(self, key: bytes) -> None:
        """A key is the same however much of it is percent-encoded, and different keys stay different."""
        for encoded in (quote(key, safe="/"), quote(key, safe=""), "".join(f"%{byte:02x}" for byte in key)):
            for target, host in ((f"/b/{encoded}", b"s3.amazonaws.com"), (f"/{encoded}", b"b.s3.amazonaws.com")):
                found = address(target.encode("ascii"), host)
                self.assertIsNotNone(found)
                self.assertEqual(found.identity, ("aws", b"b", key))

    @given(
        st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=60),
        st.sampled_from(["s3.amazonaws.com", "b.s3.amazonaws.com", "b.s3.example", "minio.example", "[::1]:9000"]),
    )
    def test_takes_any_target(self, rest: str, host: str) -> None:
        """Whatever parses as a target has an address or none, and never a bucket that could leave a directory."""
        found = address(b"/" + rest.encode("ascii"), host.encode("ascii"), "s3.example")
        if found is not None:
            self.assertNotIn(found.bucket, (b".", b".."))
            self.assertNotIn(b"/", found.bucket)
            self.assertNotIn(b"\x00", found.bucket)

    def test_ipv6_store(self) -> None:
        """An address and a port can't be mistaken for a longer address."""
        found = address(b"/b/k", b"[::1]:8081")
        self.assertEqual(found and found.store, "[::1]:8081")

    def test_port_is_part_of_other_stores(self) -> None:
        """Two ports of one machine are two stores."""
        self.assertEqual(
            [found and found.store for found in (address(b"/b/k", b"a.example:1"), address(b"/b/k", b"a.example:2"))],
            ["a.example:1", "a.example:2"],
        )

    def test_buckets_never_cross(self) -> None:
        """The same path in two buckets is two objects, for every spelling of a host."""
        for tail in ("s3-us-west-2", "s3.us-west-2", "s3", "s3-fips.us-west-2", "s3-accelerate"):
            one = address(b"/data/file", f"b1.{tail}.amazonaws.com".encode())
            two = address(b"/data/file", f"b2.{tail}.amazonaws.com".encode())
            self.assertNotEqual(one and one.identity, two and two.identity)

    def test_regions_of_access_points_never_cross(self) -> None:
        """Access points of one name in two regions are two, and neither is a bucket of that name."""
        identities = {
            found.identity
            for host in (
                b"ap-123456789012.s3-accesspoint.us-west-2.amazonaws.com",
                b"ap-123456789012.s3-accesspoint.us-east-1.amazonaws.com",
                b"ap-123456789012.s3.us-west-2.amazonaws.com",
                b"ap-123456789012-s3alias.s3.us-west-2.amazonaws.com",
            )
            if (found := address(b"/k", host)) is not None
        }
        self.assertEqual(len(identities), 4)


class CertificateTests(SynchronousTestCase):
    """For which other name a certificate may be."""

    def test_buckets_with_dots(self) -> None:
        """Dots of a bucket are taken for hyphens, those of the endpoint are not."""
        for host, expected in (
            (f"my.company.logs.s3.{WEST}.{AWS}", f"my-company-logs.s3.{WEST}.{AWS}"),
            (f"a.b.s3.{AWS}", f"a-b.s3.{AWS}"),
            (f"a.b.s3-{WEST}.{AWS}", f"a-b.s3-{WEST}.{AWS}"),
            (f"a.b.s3-fips.dualstack.{WEST}.{AWS}", f"a-b.s3-fips.dualstack.{WEST}.{AWS}"),
            (f"a.b.s3.{CHINA}.{AWS}.cn", f"a-b.s3.{CHINA}.{AWS}.cn"),
            (f"a.b.bucket.vpce-1a2b.s3.{WEST}.vpce.{AWS}", f"a-b.bucket.vpce-1a2b.s3.{WEST}.vpce.{AWS}"),
            (f"mfz123.mrap.accesspoint.s3-global.{AWS}", f"mfz123-mrap.accesspoint.s3-global.{AWS}"),
        ):
            self.assertEqual(certificate_host(host), expected)

    def test_no_other_name(self) -> None:
        """Whatever is no bucket with dots below one of Amazon's names is checked as it is."""
        for host in (
            f"b.s3.{WEST}.{AWS}", f"s3.{WEST}.{AWS}", f"{AP_NAME}.s3-accesspoint.{WEST}.{AWS}", f"a.b.{AWS}",
            "a.b.store.lan", f"a.b.s3.{WEST}.{AWS}.example.com", "192.0.2.1", "::1", "", ".", f".s3.{AWS}",
            f"x.y.s3-accesspoint.{WEST}.{AWS}",
        ):  # fmt: skip
            self.assertIsNone(certificate_host(host), host)


class PlusTests(SynchronousTestCase):
    """AWS reads a bare plus as a blank; nobody else does."""

    def test_aws(self) -> None:
        """The plus is a plus in the key, but the request is not cached, and a write counts for both objects."""
        found = address(b"/a+b%2Bc", b"b.s3.amazonaws.com")
        self.assertIsNotNone(found)
        self.assertEqual((found.key, found.twin_key, found.cacheable), (b"a+b+c", b"a b+c", False))
        self.assertEqual([each.key for each in found.affected()], [b"a+b+c", b"a b+c"])

    def test_encoded(self) -> None:
        """An encoded plus has one meaning."""
        found = address(b"/b/a%2Bb", b"s3.amazonaws.com")
        self.assertIsNotNone(found)
        self.assertEqual((found.key, found.twin_key, found.cacheable), (b"a+b", None, True))
        self.assertEqual(found.affected(), (found,))

    def test_other_stores(self) -> None:
        """Elsewhere a bare plus is a plus."""
        found = address(b"/b/a+b", b"minio.example:9000")
        self.assertIsNotNone(found)
        self.assertEqual((found.key, found.twin_key, found.cacheable), (b"a+b", None, True))


class InconsistentTests(SynchronousTestCase):
    """An authority that differs from the Host field."""

    def test_not_cacheable(self) -> None:
        """S3 goes by the Host field, so the address does; what comes from another endpoint is not cached under it."""
        target = parse_target(b"http://a.s3.amazonaws.com/k", Headers([(b"Host", b"b.s3.amazonaws.com")]))
        found = locate(target)
        self.assertIsNotNone(found)
        self.assertEqual(found.identity, ("aws", b"b", b"k"))
        self.assertFalse(found.cacheable)

    def test_default_port_is_no_difference(self) -> None:
        """A client that writes ``:80`` into the target only shares the entry of all others."""
        target = parse_target(b"http://a.s3.amazonaws.com:80/k", Headers([(b"Host", b"a.s3.amazonaws.com")]))
        found = locate(target)
        self.assertTrue(found is not None and found.cacheable)


class WithKeyTests(SynchronousTestCase):
    """Objects that a body names."""

    def test_known_bucket(self) -> None:
        """In a bucket that is known the key is taken as it is."""
        for target, host in ((b"/b?delete", b"s3.amazonaws.com"), (b"/?delete", b"b.s3.amazonaws.com")):
            found = address(target, host)
            self.assertIsNotNone(found)
            for key in (b"k", b"a/b", b"/x", b"a%2Fb", b"a+b"):
                self.assertEqual(found.with_key(key).identity, ("aws", b"b", key))

    def test_same_as_located(self) -> None:
        """A virtual-hosted store that is not configured deletes under the very identities under which it reads."""
        found = address(b"/?delete", b"b.minio.example")
        self.assertIsNotNone(found)
        for key in (b"a/b", b"a/b/c", b"a//c"):
            read = address(b"/" + key, b"b.minio.example")
            self.assertEqual(found.with_key(key).identity, read and read.identity)
