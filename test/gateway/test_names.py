"""What requests name, remembered."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.gateway import names
from s3proxy.gateway.names import LONGEST_TARGET, read_name
from s3proxy.s3.address import locate
from s3proxy.s3.errors import S3Error
from s3proxy.s3.headers import Headers
from s3proxy.s3.operation import Operation, classify
from s3proxy.s3.target import parse_target

HOSTS = st.sampled_from([b"b.s3.amazonaws.com", b"s3.amazonaws.com:80", b"store.test", b"b.store.test", b"", b"a b"])
TARGETS = st.sampled_from(
    [
        b"/b/k",
        b"/b/k?x-id=GetObject",
        b"/b/k?x-id=HeadObject",
        b"/b/k?acl&x-id=GetObject",
        b"/b/k?acl?x-id=GetObject",
        b"/b/k?partNumber=1",
        b"/b/a+b",
        b"/",
        b"*",
        b"k",
        b"http://s3.amazonaws.com/b/k",
        b"/b/" + b"k" * LONGEST_TARGET,
    ]
)


class ReadNameTests(SynchronousTestCase):
    """read_name"""

    @given(HOSTS, TARGETS, st.sampled_from([(), ("store.test",)]), st.integers(0, 2))
    def test_same_as_without_memory(self, host: bytes, target: bytes, domains: tuple[str, ...], hosts: int) -> None:
        """It says what the functions behind it say, the second time as well."""
        headers = Headers([(b"Host", host)] * hosts)
        try:
            parsed = parse_target(target, headers)
            address = locate(parsed, domains)
        except S3Error as error:
            for _ in range(2):
                found = self.assertRaises(S3Error, read_name, target, headers, domains)
                self.assertEqual((found.code, found.message), (error.code, error.message))
            return
        kinds = [classify(method, address, parsed.query, headers) for method in (b"GET", b"HEAD")]
        for _ in range(2):
            name = read_name(target, headers, domains)
            self.assertEqual((name.target, name.address), (parsed, address))
            self.assertEqual(name.ordinary, kinds == [Operation.GetObject, Operation.HeadObject])

    def test_what_is_remembered(self) -> None:
        """Neither presigned targets, which never come again, nor long ones."""
        headers = Headers([(b"Host", b"store.test")])
        before = names._remembered.cache_info().currsize
        for target in (b"/b/k?X-Amz-Signature=%d", b"/" + b"k" * LONGEST_TARGET + b"%d"):
            for number in range(10):
                read_name(target % number, headers)
        self.assertEqual(names._remembered.cache_info().currsize, before)
