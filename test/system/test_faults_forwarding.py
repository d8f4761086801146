"""Faults known from proxies of this kind: requests that do not reach S3 as they were sent, and answers that do not come
back.

The ids are those of the table in doc/faults.md. S3 is a socket here that keeps the very bytes.
"""

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from test.support.certificates import CertificateAuthority
from test.support.proxy_process import ProxyProcess
from test.support.raw_client import RawClient, RawResponse, request_bytes
from test.support.raw_server import RawRequest, RawServer
from test.support.waiting import poll
from typing import Any, ClassVar

from twisted.trial.unittest import SynchronousTestCase

HOST = b"s3.us-east-1.amazonaws.com"
SCOPE = b"AKIAEXAMPLE/20231114/us-east-1/s3/aws4_request"
MIB = 1 << 20
FORBIDDEN = (
    b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml\r\nContent-Length: 42\r\nConnection: close\r\n\r\n"
    b"<Error><Code>AccessDenied</Code> </Error>\n"
)
Pair = tuple[bytes, bytes]


def signed(*names: bytes, algorithm: bytes = b"AWS4-HMAC-SHA256") -> Pair:
    """An Authorization that covers these fields."""
    listed = b";".join(sorted((b"host", b"x-amz-date", *names)))
    return (
        b"Authorization",
        b"%s Credential=%s, SignedHeaders=%s, Signature=%s" % (algorithm, SCOPE, listed, b"0" * 64),
    )


class ForwardingCase(SynchronousTestCase):
    """One proxy for all tests of a class."""

    config: ClassVar[dict[str, Any]] = {}
    server: ClassVar[RawServer]
    proxy: ClassVar[ProxyProcess]

    def setUp(self) -> None:
        """Start it once."""
        if "proxy" not in vars(type(self)):
            type(self)._start()
        self.server.reset()

    @classmethod
    def _start(cls) -> None:
        cls.server = RawServer()
        proxy = ProxyProcess(
            {
                "connection_pool": {
                    "endpoint_overrides": {HOST.decode(): [f"127.0.0.1:{cls.server.port}"]},
                    "upstream_overrides": {f"{HOST.decode()}:80": {"scheme": "http"}},
                }
            }
        )
        proxy.configure(cls.config)
        atexit.register(proxy.stop)
        proxy.start()
        cls.proxy = proxy

    def connect(self) -> RawClient:
        """A connection to the proxy."""
        client = RawClient("127.0.0.1", self.proxy.port)
        self.addCleanup(client.close)
        return client

    def send(
        self, method: bytes, target: bytes, headers: Sequence[Pair] = (), body: bytes = b"", host: bytes = HOST
    ) -> RawResponse:
        """One request and its answer."""
        client = self.connect()
        client.send(request_bytes(method, target, [(b"Host", host), *headers], body))
        return client.read_response(method)

    def arrived(self) -> RawRequest:
        """The only request that S3 has got."""
        (request,) = self.server.requests
        return request


class RequestTests(ForwardingCase):
    """What S3 gets."""

    def test_sg01_sg05_targets(self) -> None:
        """SG-01, SG-05: the target of every method is forwarded byte for byte, its query and its spelling included."""
        targets = (
            b"/b/a+b%20c%2Fd%25e%2fx?X-Amz-Signature=a%2Fb&x-id=PutObject",
            b"/b//a/../b/./c",
            b"/b/k?uploads",
            b"/b/k?uploads=",
            b"/b/k?partNumber=1&uploadId=a%2Bb",
            b"/b/k?",
            b"/b/%E3%81%82!'()*;:@&=$,~?a=b?c&&d=%00",
        )
        for method in (b"PUT", b"GET", b"HEAD", b"DELETE", b"POST"):
            for target in targets:
                self.server.reset()
                target = target.replace(b"/b/", b"/%s/" % method.lower())
                self.send(method, target, [(b"Content-Length", b"0")])
                self.assertEqual(self.arrived().line, b"%s %s HTTP/1.1" % (method, target))

    def test_sg02_sigv4a(self) -> None:
        """SG-02: a request that is signed for several regions is signed: nothing of it is changed."""
        fields = [
            (b"Range", b"bytes=5-9"),
            (b"Referer", b"https://example.com/"),
            (b"x-amz-region-set", b"*"),
            signed(b"range", b"referer", b"x-amz-region-set", algorithm=b"AWS4-ECDSA-P256-SHA256"),
        ]
        self.send(b"GET", b"/b/sg02", fields)
        arrived = self.arrived()
        self.assertEqual([b"%s: %s" % field for field in fields], arrived.fields[1:5])

    def test_sg03_signed_cache_control(self) -> None:
        """SG-03: a header field that is signed reaches S3, whatever the proxy makes of it."""
        for value in (b"no-cache", b"no-store"):
            self.server.reset()
            fields = [(b"Cache-Control", value), (b"Pragma", b"no-cache"), signed(b"cache-control", b"pragma")]
            self.send(b"GET", b"/b/sg03", fields)
            arrived = self.arrived()
            self.assertEqual((arrived.values(b"cache-control"), arrived.values(b"pragma")), ([value], [b"no-cache"]))

    def test_sg04_referer(self) -> None:
        """SG-04: the proxy names itself in Referer only where that is neither there nor signed."""
        for number, (fields, expected) in enumerate(
            (
                ([(b"Referer", b"mine"), signed()], [b"mine"]),
                ([(b"Referer", b"mine"), signed(b"referer")], [b"mine"]),
                ([signed(b"referer")], []),
            )
        ):
            self.server.reset()
            self.send(b"GET", b"/b/sg04-%d" % number, fields)
            self.assertEqual(self.arrived().values(b"referer"), expected)
        self.server.reset()
        self.send(b"GET", b"/b/sg04", [signed()])
        (added,) = self.arrived().values(b"referer")
        self.assertTrue(added.startswith(b"s3proxy/"), added)

    def test_sg06_aliases(self) -> None:
        """SG-06: neither Host nor path is rewritten, also where the path begins with the alias of an access point."""
        alias = b"name-metadatametadatametadatametad-s3alias"
        self.send(b"GET", b"/%s/key" % alias, [signed()])
        arrived = self.arrived()
        self.assertEqual((arrived.target, arrived.values(b"host")), (b"/%s/key" % alias, [HOST]))

    def test_sg12_forms(self) -> None:
        """SG-12: the body of a form is a body."""
        body = b"a=b&c=%20d+e&" * (MIB // 13)
        fields = [(b"Content-Type", b"application/x-www-form-urlencoded"), (b"Content-Length", b"%d" % len(body))]
        self.assertEqual(self.send(b"POST", b"/b/sg12?x=y", fields, body).status, 200)
        self.assertTrue(self.arrived().body == body)

    def test_sg13_every_method(self) -> None:
        """SG-13: a browser's preflight, and methods that nobody knows, are S3's to answer."""
        for method in (b"OPTIONS", b"PATCH", b"PROPFIND", b"TRACE", b"FOO"):
            self.server.reset()
            self.assertEqual(self.send(method, b"/b/sg13", [(b"Origin", b"https://example.com")]).status, 200)
            self.assertEqual(self.arrived().line, b"%s /b/sg13 HTTP/1.1" % method)

    def test_sg14_header_lines(self) -> None:
        """SG-14: header fields keep their order, their spelling, their bytes, and come as often as they were sent."""
        fields = [
            (b"X-AMZ-meta-b", b"one"),
            (b"x-amz-meta-A", b"gr\xc3\xbcn, \xff"),
            (b"X-Amz-Meta-B", b"two"),
            (b"x-amz-date", b"20231114T221320Z"),
            signed(b"x-amz-meta-a", b"x-amz-meta-b"),
        ]
        for method in (b"GET", b"PUT"):
            self.server.reset()
            self.send(method, b"/b/sg14", [*fields, (b"Content-Length", b"0")])
            self.assertEqual(self.arrived().fields[1 : 1 + len(fields)], [b"%s: %s" % field for field in fields])

    def test_sg15_words_of_a_signature(self) -> None:
        """SG-15: the words of a signature somewhere in Authorization are no signature, and S3 judges the request."""
        words = b'Other realm="AWS4-HMAC-SHA256 Credential=a, SignedHeaders=host, Signature=b"'
        for _ in range(2):
            answer = self.send(b"GET", b"/b/sg15", [(b"Authorization", words)])
            self.assertEqual(answer.header(b"x-cache"), b"BYPASS")
        self.assertEqual([request.values(b"authorization") for request in self.server.requests], [[words]] * 2)

    def test_sg19_lengths(self) -> None:
        """SG-19: an empty upload says that it is empty; a body in chunks stays one in chunks."""
        self.send(b"PUT", b"/b/sg19", [(b"Content-Length", b"0")])
        self.assertEqual(self.arrived().values(b"content-length"), [b"0"])
        self.server.reset()
        chunks = b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n"
        self.send(b"PUT", b"/b/sg19", [(b"Transfer-Encoding", b"chunked")], chunks)
        arrived = self.arrived()
        self.assertEqual((arrived.values(b"content-length"), arrived.chunked), ([], True))
        self.assertEqual(unchunked(arrived.body), b"hello world")
        self.server.reset()
        self.send(b"GET", b"/b/sg19", [(b"Content-Length", b"0"), signed(b"content-length")])
        self.assertEqual(self.arrived().values(b"content-length"), [b"0"])

    def test_sg20_long_targets(self) -> None:
        """SG-20: long presigned URLs and large headers are taken; what is too long gets a clean answer."""
        target = b"/b/sg20?X-Amz-Security-Token=" + b"x" * 12_000
        self.assertEqual(self.send(b"PUT", target, [(b"Content-Length", b"0"), (b"x-a", b"y" * 20_000)]).status, 200)
        self.assertEqual(self.arrived().target, target)
        self.assertIn(self.send(b"GET", b"/b/" + b"x" * 200_000).status, (400, 414, 431))

    def test_sg21_hosts(self) -> None:
        """SG-21: Host is read by the whole grammar; nonsense gets 400."""
        for host in (b"[::1", b"a:b:c", b"[::1]:x", b"a b", b""):
            self.assertEqual(self.send(b"GET", b"/b/sg21", host=host).status, 400, host)
        self.assertEqual(self.server.requests, [])

    def test_sg24_connection_fields(self) -> None:
        """SG-24: what belongs to the client's connection ends there; x-amz-trailer does not."""
        fields = [
            (b"Connection", b"x-drop, keep-alive"),
            (b"X-Drop", b"1"),
            (b"Keep-Alive", b"timeout=5"),
            (b"Proxy-Connection", b"keep-alive"),
            (b"Proxy-Authorization", b"Basic eA=="),
            (b"TE", b"trailers"),
            (b"x-amz-trailer", b"x-amz-checksum-crc32"),
            (b"Content-Length", b"0"),
        ]
        self.send(b"PUT", b"/b/sg24", fields)
        arrived = self.arrived()
        names = (b"x-drop", b"keep-alive", b"proxy-connection", b"proxy-authorization", b"te")
        self.assertEqual([arrived.values(name) for name in names], [[]] * 5)
        self.assertEqual(arrived.values(b"x-amz-trailer"), [b"x-amz-checksum-crc32"])


class AnswerTests(ForwardingCase):
    """What clients get, and when."""

    def test_sg10_refused_at_once(self) -> None:
        """SG-10: who asks with Expect whether to send his body hears S3's refusal, and sends nothing."""
        self.server.answer = lambda request: FORBIDDEN
        client = self.connect()
        fields = [(b"Host", HOST), (b"Content-Length", b"%d" % (64 * MIB)), (b"Expect", b"100-continue")]
        client.send(request_bytes(b"PUT", b"/b/sg10", fields))
        answer = client.read_response(b"PUT")
        self.assertEqual((answer.status, answer.interim, answer.body[-9:]), (403, (), b"</Error>\n"))
        self.assertEqual(self.arrived().values(b"expect"), [b"100-continue"])
        self.assertEqual(self.arrived().body, b"")

    def test_sg10_continued(self) -> None:
        """SG-10: the client is told to continue when S3 says so, or says nothing for a second."""
        for says in (True, False):
            self.server.reset()
            self.server.answer = lambda request: b"HTTP/1.1 100 Continue\r\n\r\n" if says else b""
            client = self.connect()
            fields = [(b"Host", HOST), (b"Content-Length", b"5"), (b"Expect", b"100-continue")]
            client.send(request_bytes(b"PUT", b"/b/sg10", fields))
            self.assertEqual(client.read_continue(), 100)
            client.send(b"hello")
            poll(lambda: self.arrived().complete, 10, "the body")
            self.assertEqual(self.arrived().body, b"hello")
            client.close()

    def test_sg10_refused_while_it_uploads(self) -> None:
        """SG-10: an early refusal reaches a client that goes on sending, complete."""
        self.server.answer = lambda request: FORBIDDEN if not request.body else None
        body = b"x" * (8 * MIB)
        answer = self.send(b"PUT", b"/b/sg10", [(b"Content-Length", b"%d" % len(body))], body)
        self.assertEqual((answer.status, answer.body[-9:]), (403, b"</Error>\n"))

    def test_sg11_bodies_stream(self) -> None:
        """SG-11: S3 gets the first bytes of a body before the client has sent the last, whatever the method."""
        for method in (b"PUT", b"POST", b"PATCH"):
            self.server.reset()
            client = self.connect()
            body = b"y" * MIB
            client.send(request_bytes(method, b"/b/sg11", [(b"Host", HOST), (b"Content-Length", b"%d" % len(body))]))
            # The proxy may hold back one piece, as it came from the connection.
            client.send(body[: 3 * MIB // 4])
            self.server.wait()
            poll(lambda: len(self.arrived().body) > MIB // 4, 10, "the first bytes")
            self.assertFalse(self.arrived().complete)
            client.send(body[3 * MIB // 4 :])
            self.assertEqual(client.read_response(method).status, 200)
            self.assertTrue(self.arrived().body == body)

    def test_sg16_redirects(self) -> None:
        """SG-16: redirects are for the client; the proxy neither follows nor keeps them."""
        for status in (301, 307):
            for method in (b"GET", b"PUT"):
                self.server.reset()
                location = b"http://b.s3.eu-west-1.amazonaws.com/sg16"
                body = b"<Error><Code>PermanentRedirect</Code></Error>"
                self.server.answer_in_the_end = lambda request: (
                    b"HTTP/1.1 %d Moved\r\nLocation: %s\r\nx-amz-bucket-region: eu-west-1\r\n"
                    b"Content-Length: %d\r\n\r\n%s" % (status, location, len(body), body)
                )
                for _ in range(2):
                    answer = self.send(method, b"/b/sg16", [(b"Content-Length", b"0")])
                    self.assertEqual((answer.status, answer.header(b"location"), answer.body), (status, location, body))
                    self.assertEqual(answer.header(b"x-amz-bucket-region"), b"eu-west-1")
                self.assertEqual(len(self.server.requests), 2)

    def test_sg23_plain_store(self) -> None:
        """SG-23: a store without TLS, on any port, can be in front of which the proxy stands."""
        self.assertEqual(self.send(b"GET", b"/b/sg23").status, 200)
        self.assertEqual(self.arrived().values(b"host"), [HOST])


class FixedEndpointTests(ForwardingCase):
    """All of S3's names lead to one place."""

    config: ClassVar[dict[str, Any]] = {}

    @classmethod
    def _start(cls) -> None:
        super()._start()
        cls.proxy.stop()
        cls.proxy.configure(
            {
                "connection_pool": {
                    "endpoint_overrides": {"*.amazonaws.com": [f"127.0.0.1:{cls.server.port}"]},
                    "upstream_overrides": {"amazonaws.com:80": {"scheme": "http"}},
                }
            }
        )
        cls.proxy.start()

    def test_sg22_any_host(self) -> None:
        """SG-22: whichever host a client means, it is served from the one endpoint that is configured, and Host stays
        the client's.
        """
        for host in (HOST, b"bucket.s3.eu-west-1.amazonaws.com", b"s3.dualstack.ap-south-1.amazonaws.com"):
            self.server.reset()
            for method in (b"PUT", b"GET"):
                answer = self.send(method, b"/b/sg22", [(b"Content-Length", b"0")] * (method == b"PUT"), host=host)
                self.assertEqual(answer.status, 200)
            self.assertEqual([request.values(b"host") for request in self.server.requests], [[host]] * 2)


class ForwardProxyTests(ForwardingCase):
    """Mode proxy_only, and the same under TLS."""

    folder: ClassVar[Path]

    @classmethod
    def _start(cls) -> None:
        cls.folder = Path(tempfile.mkdtemp(prefix="forwarding-"))
        atexit.register(shutil.rmtree, cls.folder)
        cls.authority = CertificateAuthority(cls.folder)
        certificate = cls.authority.issue(["127.0.0.1"])
        tls = {"enabled": True, "cert_path": str(certificate.certificate), "key_path": str(certificate.key)}
        cls.config = {"server": {"mode": "proxy_only", "tls": tls}}
        super()._start()

    def absolute(self, tls: bool) -> RawResponse:
        """A GET as clients send it to a forward proxy."""
        port = self.proxy.config["server"]["tls"]["tls_proxy_port"] if tls else self.proxy.port
        with RawClient("127.0.0.1", port, ca_file=self.authority.ca_file if tls else None) as client:
            client.send(request_bytes(b"GET", b"http://%s:80/b/sg17" % HOST, [(b"Host", HOST)]))
            return client.read_response()

    def test_sg17_sg18_forms(self) -> None:
        """SG-17, SG-18: requests in absolute-form for port 80 are served on both listeners, and share one entry with
        those in origin-form.
        """
        self.server.answer_in_the_end = lambda request: (
            b'HTTP/1.1 200 OK\r\nETag: "x"\r\nLast-Modified: Tue, 14 Nov 2023 22:13:20 GMT\r\n'
            b"Content-Length: 4\r\n\r\nbody"
        )
        answers = [self.absolute(tls=True), self.absolute(tls=False), self.send(b"GET", b"/b/sg17")]
        self.assertEqual([(answer.status, answer.body) for answer in answers], [(200, b"body")] * 3)
        self.assertEqual(self.arrived().target, b"/b/sg17")


def unchunked(body: bytes) -> bytes:
    """The content of a body in HTTP chunks."""
    found = b""
    while True:
        size, _, rest = body.partition(b"\r\n")
        count = int(size.partition(b";")[0], 16)
        if count == 0:
            return found
        found += rest[:count]
        body = rest[count + 2 :]
