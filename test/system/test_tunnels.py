"""Real clients through all that is no plain listener: port 443, CONNECT, the TLS listener; and what is refused."""

import atexit
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from test.support.certificates import CertificateAuthority, ServerCertificate
from test.support.content import content
from test.support.fake_control import RemoteFakeS3
from test.support.proxy_process import ProxyProcess, clean_environment
from test.support.waiting import poll
from test.tunnel.hellos import real_hello
from typing import Any, ClassVar

import boto3  # type: ignore[import-untyped]
from botocore.config import Config  # type: ignore[import-untyped]
from twisted.trial.unittest import SynchronousTestCase

HOST = "s3.us-east-1.amazonaws.com"
SIZE = 24 << 20
SECONDS = 20


class _Scene(SynchronousTestCase):
    """A fake behind TLS, and one proxy for all tests of a class."""

    mode: ClassVar[str]
    config: ClassVar[dict[str, Any]] = {}

    folder: ClassVar[Path]
    fake: ClassVar[RemoteFakeS3]
    proxy: ClassVar[ProxyProcess]
    authority: ClassVar[CertificateAuthority]
    certificate: ClassVar[ServerCertificate]

    def setUp(self) -> None:
        if "proxy" not in type(self).__dict__:
            type(self)._begin()

    def tearDown(self) -> None:
        output = self.proxy.app_log() + self.proxy.output()
        self.assertNotIn("Traceback", output)
        self.assertNotIn("Unhandled", output)

    @classmethod
    def _begin(cls) -> None:
        """Start everything, to be ended with the run."""
        cls.folder = Path(tempfile.mkdtemp(prefix="s3proxy-"))
        cls.fake = RemoteFakeS3(names=(HOST, "localhost"))
        cls.fake.create_bucket("b")
        cls.fake.put_generated("b", b"k", 5, SIZE)
        cls.authority = CertificateAuthority(cls.folder)
        cls.certificate = cls.authority.issue(["localhost", "127.0.0.1"])
        upstream = [f"127.0.0.1:{cls.fake.tls_port}"]
        cls.proxy = ProxyProcess(
            {
                "server": {
                    "mode": cls.mode,
                    "tls": {
                        "enabled": True,
                        "cert_path": str(cls.certificate.certificate),
                        "key_path": str(cls.certificate.key),
                    },
                },
                "connection_pool": {
                    "endpoint_overrides": {HOST: upstream, "localhost": upstream},
                    "upstream_overrides": {f"{HOST}:80": {"scheme": "https", "ca_file": str(cls.fake.ca_file)}},
                },
                "cache": {"get_ttl": "1h"},
            }
        )
        cls.proxy.configure(cls.config)
        atexit.register(cls._end)
        cls.proxy.start()

    @classmethod
    def _end(cls) -> None:
        cls.proxy.stop()
        cls.fake.stop()
        shutil.rmtree(cls.folder)

    @property
    def tls_port(self) -> int:
        found: int = self.proxy.config["server"]["tls"]["tls_proxy_port"]
        return found

    def boto3(self, endpoint: str, **options: Any) -> Any:
        """A client that trusts the fake's authority."""
        credential = self.fake.credential
        options["config"] = Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}).merge(
            options.get("config", Config())
        )
        return boto3.client(
            "s3",
            aws_access_key_id=credential.access_key,
            aws_secret_access_key=credential.secret_key,
            region_name="us-east-1",
            endpoint_url=endpoint,
            verify=str(self.fake.ca_file),
            **options,
        )

    def check_round_trip(self, client: Any) -> None:
        """Read a large object, write and read a small one, list."""
        body = client.get_object(Bucket="b", Key="k")["Body"].read()
        self.assertTrue(body == content(5, 0, SIZE))
        client.put_object(Bucket="b", Key="small", Body=b"text")
        self.assertEqual(client.get_object(Bucket="b", Key="small")["Body"].read(), b"text")
        names = [item["Key"] for item in client.list_objects_v2(Bucket="b")["Contents"]]
        self.assertIn("small", names)

    def aws(self, *arguments: str, **environment: str) -> str:
        """What the AWS CLI prints."""
        credential = self.fake.credential
        config = self.folder / "aws.config"
        config.write_text("[default]\nregion = us-east-1\ns3 =\n  addressing_style = path\n")
        done = subprocess.run(
            [sys.executable, "-c", "import sys; from awscli.clidriver import main; sys.exit(main())", *arguments],
            env={
                **clean_environment(),
                "AWS_ACCESS_KEY_ID": credential.access_key,
                "AWS_SECRET_ACCESS_KEY": credential.secret_key,
                "AWS_CONFIG_FILE": str(config),
                "AWS_EC2_METADATA_DISABLED": "true",
                "AWS_MAX_ATTEMPTS": "1",
                **environment,
            },
            capture_output=True,
            timeout=120,
        )
        self.assertEqual(done.returncode, 0, done.stderr.decode(errors="replace"))
        return done.stdout.decode()

    def check_aws(self, endpoint: str, **environment: str) -> None:
        """Copy the large object down, and list."""
        target = self.folder / f"copy-{time.monotonic_ns()}"
        # For an https: endpoint, the AWS CLI looks in its bundle for the authority of the proxy, too.
        bundle = self.folder / "bundle.pem"
        bundle.write_bytes(Path(str(self.fake.ca_file)).read_bytes() + self.authority.ca_file.read_bytes())
        options = ("--endpoint-url", endpoint, "--ca-bundle", str(bundle))
        self.aws("s3", "cp", "s3://b/k", str(target), *options, **environment)
        self.assertTrue(target.read_bytes() == content(5, 0, SIZE))
        self.assertIn("k", self.aws("s3", "ls", "s3://b/", *options, **environment))

    def ask(self, port: int, request: bytes, *, tls: bool = False) -> bytes:
        """The whole answer to some bytes, by whom it may concern."""
        sock: socket.socket = socket.create_connection(("127.0.0.1", port), SECONDS)
        if tls:
            sock = ssl.create_default_context(cafile=str(self.authority.ca_file)).wrap_socket(
                sock, server_hostname="localhost"
            )
        with sock:
            sock.sendall(request)
            found = bytearray()
            while data := sock.recv(65536):
                found += data
            return bytes(found)

    def tunnel_lines(self) -> list[list[str]]:
        """Lines of the access log about tunnels, as words."""
        return [line.split() for line in self.proxy.access_log().splitlines() if " TUNNEL " in line]


class PassthroughTests(_Scene):
    """Mode standard: port 443, and port 80 beside it."""

    mode = "standard"

    @property
    def endpoint(self) -> str:
        return f"https://localhost:{self.proxy.config['server']['https_port']}"

    def test_boto3(self) -> None:
        """TLS from end to end; every tunnel is written down, with its bytes."""
        client = self.boto3(self.endpoint)
        self.check_round_trip(client)
        client.close()
        # Eight digits, at least, were sent.
        poll(lambda: any(len(words[14]) > 7 for words in self.tunnel_lines()), SECONDS, "the line of the tunnel")
        words = next(words for words in self.tunnel_lines() if len(words[14]) > 7)
        self.assertGreater(int(words[14]), SIZE)
        self.assertIn('"-', words)
        self.assertEqual((words[-2], words[-5]), ("finished", "ok"), words)
        self.assertGreater(int(words[-1]), 500)
        self.assertGreater(self.proxy.metric("s3proxy_tunnel_bytes_total", listener="https", direction="sent"), SIZE)
        self.assertEqual(self.proxy.metric("s3proxy_http_requests_total"), 0)

    def test_aws_cli(self) -> None:
        """The same for the AWS CLI, with many connections."""
        self.check_aws(self.endpoint)

    def test_what_is_no_tls(self) -> None:
        """HTTP on 443 is closed without a word, and counted."""
        port = self.proxy.config["server"]["https_port"]
        self.assertEqual(self.ask(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"), b"")
        self.assertEqual(self.proxy.metric("s3proxy_tunnels_ended_total", listener="https", reason="http"), 1)

    def test_forbidden_names(self) -> None:
        """Names without an address, or with one that nobody may reach, lead nowhere."""
        port = self.proxy.config["server"]["https_port"]
        self.assertEqual(self.ask(port, real_hello("other.localhost"))[:5], b"\x15\x03\x03\x00\x02")
        self.assertEqual(self.proxy.metric("s3proxy_tunnels_ended_total", listener="https", reason="refused"), 1)

    def test_connect_on_the_plain_listener(self) -> None:
        """Port 80 is no place for CONNECT."""
        answer = self.ask(
            self.proxy.port, b"CONNECT %b:443 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % HOST.encode()
        )
        self.assertTrue(answer.startswith(b"HTTP/1.1 405 "), answer)


class ForwardProxyTests(_Scene):
    """Mode proxy_only: absolute-form, CONNECT, and both again under TLS."""

    mode = "proxy_only"

    def environment(self, scheme: str) -> dict[str, str]:
        """For the AWS CLI."""
        port = self.proxy.port if scheme == "http" else self.tls_port
        url = f"{scheme}://localhost:{port}"
        # urllib3 looks for the authority of a proxy where OpenSSL does.
        return {"HTTP_PROXY": url, "HTTPS_PROXY": url, "SSL_CERT_FILE": str(self.authority.ca_file)}

    def proxies(self, scheme: str) -> Config:
        """For boto3."""
        port = self.proxy.port if scheme == "http" else self.tls_port
        url = f"{scheme}://localhost:{port}"
        return Config(
            proxies={"http": url, "https": url}, proxies_config={"proxy_ca_bundle": str(self.authority.ca_file)}
        )

    def test_connect_with_boto3(self) -> None:
        """HTTPS_PROXY=http://…"""
        self.check_round_trip(self.boto3(f"https://{HOST}", config=self.proxies("http")))

    def test_connect_with_the_aws_cli(self) -> None:
        """HTTPS_PROXY=http://…"""
        self.check_aws(f"https://{HOST}", **self.environment("http"))

    def test_connect_under_tls_with_boto3(self) -> None:
        """HTTPS_PROXY=https://…: TLS within TLS."""
        self.check_round_trip(self.boto3(f"https://{HOST}", config=self.proxies("https")))

    def test_connect_under_tls_with_the_aws_cli(self) -> None:
        """HTTPS_PROXY=https://…"""
        self.check_aws(f"https://{HOST}", **self.environment("https"))

    def test_cached_with_boto3(self) -> None:
        """HTTP_PROXY=https://…: what TLS hides from others is cached."""
        client = self.boto3(f"http://{HOST}", config=self.proxies("https"))
        self.check_round_trip(client)
        found = client.get_object(Bucket="b", Key="k")
        self.assertTrue(found["Body"].read() == content(5, 0, SIZE))
        self.assertEqual(found["ResponseMetadata"]["HTTPHeaders"]["x-cache"], "HIT")
        part = client.get_object(Bucket="b", Key="k", Range="bytes=1000000-3000000")["Body"].read()
        self.assertTrue(part == content(5, 1000000, 3000001))
        for _ in range(3):
            client.get_object(Bucket="b", Key="small")["Body"].read()

        def lines() -> list[list[str]]:
            found = [line.split() for line in self.proxy.access_log().splitlines()]
            return [words for words in found if "REST.GET.OBJECT" in words and "aws-cli" not in " ".join(words)]

        # The last three were answered by the fast lane.
        poll(lambda: len(lines()) >= 7, SECONDS, "lines of requests")
        for words in lines():
            self.assertIn("TLSv1.3", words)
            self.assertTrue(any(word.startswith("TLS_") for word in words), words)

    def test_cached_with_the_aws_cli(self) -> None:
        """HTTP_PROXY=https://…"""
        self.check_aws(f"http://{HOST}", **self.environment("https"))
        self.check_aws(f"http://{HOST}", **self.environment("http"))

    def test_endpoint_under_tls(self) -> None:
        """The TLS listener takes requests in origin-form, too."""
        answer = self.ask(
            self.tls_port, b"GET /b?x HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % HOST.encode(), tls=True
        )
        self.assertTrue(answer.startswith(b"HTTP/1.1 403 "), answer)

    def test_forbidden_destinations(self) -> None:
        """Nothing inside can be reached, by CONNECT or by a request, in whatever spelling."""
        hosts = (
            "127.0.0.1", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "0.0.0.0", "localhost.", "a.localhost",
            "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]", "[fd00:ec2::254]", "10.0.0.1",
            "192.168.1.1", "172.16.0.1", "[::]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]",
        )  # fmt: skip
        for host in hosts:
            name = host.encode()
            for tls in (False, True):
                port = self.tls_port if tls else self.proxy.port
                for request in (
                    b"CONNECT %b:443 HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % (name, name),
                    b"GET http://%b/latest/meta-data HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % (name, name),
                    b"GET /latest/meta-data HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % name,
                ):
                    if host == "localhost." and request.startswith(b"CONNECT"):
                        # The configuration of this test leads it to the fake.
                        continue
                    answer = self.ask(port, request, tls=tls)
                    self.assertRegex(answer[:13], rb"HTTP/1.1 (403|400) ", request)

    def test_other_ports(self) -> None:
        """CONNECT leads to port 443, and the proxy's own ports are none."""
        for port in (22, 80, 6379, self.proxy.port, self.tls_port):
            target = b"%b:%d" % (HOST.encode(), port)
            answer = self.ask(self.proxy.port, b"CONNECT %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % target)
            self.assertTrue(answer.startswith(b"HTTP/1.1 403 "), answer)
            self.assertIn(b"<Code>AccessDenied</Code>", answer)

    def test_malformed_connect(self) -> None:
        """What is no host and port is no destination; a body is none either."""
        for request in (
            b"CONNECT / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            b"CONNECT %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % HOST.encode(),
            b"CONNECT %b:443 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
            % HOST.encode(),
        ):
            self.assertTrue(self.ask(self.proxy.port, request).startswith(b"HTTP/1.1 400 "), request)

    def test_keep_alive_before_connect(self) -> None:
        """A connection on which a CONNECT was refused, and one that carried a request, can still become a tunnel."""
        with socket.create_connection(("127.0.0.1", self.proxy.port), SECONDS) as sock:
            for target in (b"10.0.0.1:443", HOST.encode() + b":443"):
                sock.sendall(b"CONNECT %b HTTP/1.1\r\nHost: x\r\n\r\n" % target)
                head = bytearray()
                while b"\r\n\r\n" not in head:
                    head += sock.recv(1)
                status = int(head.split()[1])
                if status == 403:
                    length = int(head.lower().split(b"content-length: ")[1].split(b"\r")[0])
                    while length:
                        length -= len(sock.recv(length))
            self.assertEqual(status, 200)
            context = ssl.create_default_context(cafile=str(self.fake.ca_file))
            with context.wrap_socket(sock, server_hostname=HOST) as tunnel:
                self.assertEqual(tunnel.version(), "TLSv1.3")


class ListTests(_Scene):
    """server.tls.connect_allowlist."""

    mode = "proxy_only"
    config = {"server": {"tls": {"connect_allowlist": ["*.amazonaws.com"]}}}

    def test_list(self) -> None:
        """What is in the list is served in every way, and nothing else is in any."""
        url = f"http://localhost:{self.proxy.port}"
        self.check_round_trip(self.boto3(f"https://{HOST}", config=Config(proxies={"https": url})))
        self.check_round_trip(self.boto3(f"http://{HOST}", config=Config(proxies={"http": url})))
        for request in (
            b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            b"CONNECT localhost:443 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            b"GET http://example.com/x HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n",
            b"PUT /x HTTP/1.1\r\nHost: 8.8.8.8\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        ):
            answer = self.ask(self.proxy.port, request)
            self.assertTrue(answer.startswith(b"HTTP/1.1 403 "), answer)
            self.assertIn(b"connect_allowlist", answer)


class CertificateTests(_Scene):
    """The certificate changes while the proxy runs."""

    mode = "proxy_only"

    def serial(self) -> int:
        """Of the certificate that the listener shows."""
        from cryptography import x509

        text = ssl.get_server_certificate(("127.0.0.1", self.tls_port), timeout=SECONDS)
        return x509.load_pem_x509_certificate(text.encode()).serial_number

    def put(self, new: ServerCertificate) -> None:
        """Put another one in the place of the first."""
        for source, target in ((new.certificate, self.certificate.certificate), (new.key, self.certificate.key)):
            os.replace(source, target)

    def component(self) -> dict[str, Any]:
        found: dict[str, Any] = next(
            part for part in self.proxy.health()["components"] if part["name"] == "tls"
        )
        return found

    def test_reload(self) -> None:
        """New files are in use after a look at them or a SIGHUP; open connections go on; a bad file changes nothing."""
        first = self.serial()
        context = ssl.create_default_context(cafile=str(self.authority.ca_file))
        sock = socket.create_connection(("127.0.0.1", self.tls_port), SECONDS)
        with context.wrap_socket(sock, server_hostname="localhost") as old:
            self.put(self.authority.issue(["localhost"]))
            poll(lambda: self.serial() != first, SECONDS, "the new certificate")
            second = self.serial()
            self.assertEqual(self.component()["status"], "healthy")
            old.sendall(b"GET / HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % HOST.encode())
            self.assertTrue(old.recv(65536).startswith(b"HTTP/1.1 "))
        self.certificate.key.write_text("no key")
        self.proxy.signal(signal.SIGHUP)
        poll(lambda: self.component()["status"] == "degraded", SECONDS, "the complaint")
        self.assertIn("can't be used", self.component()["message"])
        self.assertEqual(self.serial(), second)
        self.put(self.authority.issue(["localhost"], expired=True))
        self.proxy.signal(signal.SIGHUP)
        poll(lambda: "has expired" in self.component()["message"], SECONDS, "the end of its life")
        self.put(self.authority.issue(["localhost"]))
        self.proxy.signal(signal.SIGHUP)
        poll(lambda: self.component()["status"] == "healthy", SECONDS, "the cure")
        self.assertGreater(self.proxy.metric("s3proxy_tls_certificate_not_after_timestamp_seconds"), time.time())

    def test_plain_http_to_the_tls_port(self) -> None:
        """A client that speaks no TLS is closed, and counted."""
        self.ask(self.tls_port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        poll(lambda: self.proxy.metric("s3proxy_tls_handshakes_total", result="failure") >= 1, SECONDS, "the count")


class StopTests(_Scene):
    """SIGTERM."""

    mode = "standard"

    def test_stop(self) -> None:
        """An idle tunnel does not hold up the end of the proxy."""
        context = ssl.create_default_context(cafile=str(self.fake.ca_file))
        sock = socket.create_connection(("127.0.0.1", self.proxy.config["server"]["https_port"]), SECONDS)
        with context.wrap_socket(sock, server_hostname="localhost") as tunnel:
            began = time.monotonic()
            self.assertEqual(self.proxy.terminate(), 0)
            self.assertLess(time.monotonic() - began, 15)
            try:
                self.assertEqual(tunnel.recv(1), b"")
            except OSError:
                # Without a farewell of TLS, which only the far side could have sent.
                pass
        self.assertIn("shutdown", self.tunnel_lines()[0])
