"""A whole network in namespaces of its own: two DNS servers, two frontends of S3, two proxies, and clients that know
nothing of any of them. :mod:`test.system.test_scene` runs this module there.

==============  =====================================================================================
10.77.0.53      the clients' DNS server: for it, S3 is the first proxy. ``/etc/resolv.conf`` names it
10.77.0.54      the DNS server of ``connection_pool.dns_servers``: for it, S3 is the two frontends
10.77.0.11, 12  the frontends, port 443
10.77.0.1       a proxy in mode ``standard``: ports 80, 443 and, under TLS, 3129
10.77.0.2       a proxy in mode ``proxy_only``: port 3128
==============  =====================================================================================
"""

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from test.support.certificates import CertificateAuthority
from test.support.content import content
from test.support.fake_dns import DNSAnswer, FakeDNS
from test.support.fake_s3 import FakeS3
from test.support.fake_store import FakeStore
from test.support.proxy_process import ProxyProcess, clean_environment
from test.support.sigv4 import Credential
from typing import Any, TypeVar

import boto3  # type: ignore[import-untyped]
from botocore.config import Config  # type: ignore[import-untyped]
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

Result = TypeVar("Result")

HOST = "s3.us-east-1.amazonaws.com"
BUCKET = f"bucket.{HOST}"
CLIENTS_DNS, PROXYS_DNS = "10.77.0.53", "10.77.0.54"
FRONTENDS = ("10.77.0.11", "10.77.0.12")
STANDARD, FORWARD = "10.77.0.1", "10.77.0.2"
OBJECTS = 400
SIZE = 30000

_SET_FLAGS, _SET_ADDRESS = 0x8914, 0x8916
_UP = 0x41


def bring_up(addresses: tuple[str, ...]) -> None:
    """Start the loopback interface of this namespace, with these addresses besides its own."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SET_FLAGS, struct.pack("16sh14x", b"lo", _UP))
        for number, address in enumerate(addresses):
            name = b"lo:%d" % number
            request = struct.pack("16sHH4s8x", name, socket.AF_INET, 0, socket.inet_aton(address))
            fcntl.ioctl(control, _SET_ADDRESS, request)


class Reads:
    """Reads objects, each once, one after the other, until it is told to stop; what went wrong stops it, too."""

    def __init__(self, client: Any, first: int) -> None:
        self._client = client
        self._next = first
        self.stopping = False
        self.done = 0
        self.retried: list[int] = []

    def run(self) -> None:
        """Blocks."""
        while not self.stopping:
            self.read()

    def read(self) -> None:
        """One object."""
        key = self._next % OBJECTS
        self._next += 1
        answer = self._client.get_object(Bucket="bucket", Key=f"key-{key}")
        if answer["Body"].read() != content(key, 0, SIZE):
            raise AssertionError("another body")
        self.done += 1
        self.retried.append(answer["ResponseMetadata"]["RetryAttempts"])


class SceneTests(TestCase):
    """Clients of both kinds, on every way there is."""

    timeout = 300
    credential = Credential("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")

    async def setUp(self) -> None:  # type: ignore[override]
        from twisted.internet import reactor

        self.reactor: Any = reactor
        bring_up((CLIENTS_DNS, PROXYS_DNS, *FRONTENDS, STANDARD, FORWARD))
        self.folder = Path(tempfile.mkdtemp(prefix="s3proxy-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.authority = CertificateAuthority(self.folder)
        self.certificate = self.authority.issue([HOST, f"*.{HOST}"]).options()
        own = self.authority.issue([STANDARD, FORWARD, HOST])
        # What the proxies take for the system's authorities.
        os.environ["SSL_CERT_FILE"] = str(self.authority.ca_file)
        for address, ips in ((CLIENTS_DNS, (STANDARD,)), (PROXYS_DNS, FRONTENDS)):
            dns = FakeDNS(reactor)
            for name in (HOST, BUCKET):
                dns.set(name.encode(), DNSAnswer(ipv4=ips, ttl=5))
            dns.listen(53, address)
            self.addCleanup(lambda dns=dns: Deferred.fromCoroutine(dns.stop()))
        self.store = FakeStore(time.time)
        self.store.create_bucket(b"bucket")
        for key in range(OBJECTS):
            self.store.put_generated(self.store.buckets[b"bucket"], b"key-%d" % key, key, SIZE)
        self.frontends = [self.frontend(ip) for ip in FRONTENDS]
        files = {"cert_path": str(own.certificate), "key_path": str(own.key)}
        pool = {
            "dns_servers": [PROXYS_DNS],
            "system_ca": True,
            "health_probe_initial_cooldown": "1s",
            "health_probe_max_cooldown": "2s",
        }
        cache = {"get_ttl": "1h", "head_ttl": "1h"}
        standard = {
            "bind_addresses": [STANDARD], "http_port": 80, "https_port": 443, "tls": {**files, "enabled": True},
        }  # fmt: skip
        forward = {"mode": "proxy_only", "bind_addresses": [FORWARD], "proxy_port": 3128}
        self.proxies = [
            ProxyProcess({"server": server, "connection_pool": pool, "cache": cache}) for server in (standard, forward)
        ]
        self.tls_port = self.proxies[0].config["server"]["tls"]["tls_proxy_port"]
        for proxy in self.proxies:
            self.addCleanup(self.work, proxy.stop)
        await gatherResults([self.work(proxy.start) for proxy in self.proxies])

    def frontend(self, ip: str) -> FakeS3:
        """Start one. All have the same objects, as those of S3 have."""
        fake = FakeS3(self.reactor, domains=[HOST.encode()], region=None)
        fake.store = self.store
        fake.listen(443, ip, self.certificate)
        self.addCleanup(fake.stop)
        return fake

    def work(self, call: Callable[..., Result], *args: Any) -> "Deferred[Result]":
        """Do something that blocks, in a thread."""
        return deferToThread(call, *args)

    def boto3(self, scheme: str, proxy: str | None = None, retries: int = 0, **options: Any) -> Any:
        """A client that speaks to S3's own name, directly or through a proxy."""
        return boto3.client(
            "s3",
            aws_access_key_id=self.credential.access_key,
            aws_secret_access_key=self.credential.secret_key,
            region_name="us-east-1",
            endpoint_url=f"{scheme}://{HOST}",
            verify=str(self.authority.ca_file),
            config=Config(
                retries={"total_max_attempts": 1 + retries, "mode": "standard"},
                proxies={} if proxy is None else {"http": proxy, "https": proxy},
                proxies_config={"proxy_ca_bundle": str(self.authority.ca_file)},
                connect_timeout=5,
                read_timeout=20,
            ),
        )

    def aws(self, *arguments: str, proxy: str | None = None) -> str:
        """What the AWS CLI prints. It tries once."""
        environment = {
            **clean_environment(),
            "AWS_ACCESS_KEY_ID": self.credential.access_key,
            "AWS_SECRET_ACCESS_KEY": self.credential.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_S3_US_EAST_1_REGIONAL_ENDPOINT": "regional",
            "AWS_CONFIG_FILE": str(self.folder / "none"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",
            "AWS_CA_BUNDLE": str(self.authority.ca_file),
        }
        if proxy is not None:
            environment.update(HTTP_PROXY=proxy, HTTPS_PROXY=proxy)
        done = subprocess.run(
            [sys.executable, "-c", "import sys; from awscli.clidriver import main; sys.exit(main())", *arguments],
            env=environment,
            capture_output=True,
            timeout=120,
        )
        self.assertEqual(done.returncode, 0, done.stderr.decode(errors="replace"))
        return done.stdout.decode()

    def ways(self) -> dict[str, tuple[str, str | None]]:
        """The scheme of the endpoint and the proxy, by name."""
        return {
            "http by DNS": ("http", None),
            "https by DNS": ("https", None),
            "http by HTTP_PROXY": ("http", f"http://{FORWARD}:3128"),
            "https by HTTP_PROXY": ("https", f"http://{FORWARD}:3128"),
            "http by HTTP_PROXY on port 80": ("http", f"http://{STANDARD}:80"),
            "http by HTTP_PROXY under TLS": ("http", f"https://{STANDARD}:{self.tls_port}"),
            "https by HTTP_PROXY under TLS": ("https", f"https://{STANDARD}:{self.tls_port}"),
        }

    def asked(self) -> list[int]:
        """Requests that each frontend has had."""
        return [len(frontend.requests) for frontend in self.frontends]

    async def excluded(self) -> list[list[str]]:
        """The addresses that each proxy leaves out."""
        found = []
        for proxy in self.proxies:
            document = await self.work(proxy.health)
            data = next(part for part in document["components"] if part["name"] == "upstream")["data"]
            found.append(data["excluded"])
        return found

    async def until(self, what: str, true: Callable[[], Any]) -> None:
        """Wait until an async condition holds."""
        limit = self.reactor.seconds() + 30
        while not await true():
            if self.reactor.seconds() > limit:
                self.fail(f"it did not come about: {what}")
            await deferLater(self.reactor, 0.2)

    async def test_scene(self) -> None:
        """Every way works; then a frontend dies, and returns."""
        await self.every_way_with_boto3()
        await self.every_way_with_the_aws_cli()
        await self.one_dies_and_returns()
        for proxy in self.proxies:
            output = proxy.app_log() + proxy.output()
            self.assertNotIn("Traceback", output)
            self.assertNotIn("Unhandled", output)

    async def every_way_with_boto3(self) -> None:
        """Over http what is read twice comes from the cache; over https nobody in between has a say."""

        def exchange(name: str, scheme: str, proxy: str | None) -> None:
            client = self.boto3(scheme, proxy)
            key = name.replace(" ", "-")
            client.put_object(Bucket="bucket", Key=key, Body=name.encode())
            for _ in range(3):
                answer = client.get_object(Bucket="bucket", Key=key)
                self.assertEqual(answer["Body"].read(), name.encode())
            source = answer["ResponseMetadata"]["HTTPHeaders"].get("x-cache")
            self.assertEqual(source, "HIT" if scheme == "http" else None, name)
            self.assertEqual(client.head_object(Bucket="bucket", Key=key)["ContentLength"], len(name))
            names = [item["Key"] for item in client.list_objects_v2(Bucket="bucket", Prefix=key)["Contents"]]
            self.assertIn(key, names)
            client.delete_object(Bucket="bucket", Key=key)
            client.close()

        for name, (scheme, proxy) in self.ways().items():
            before = self.asked()
            await self.work(exchange, name, scheme, proxy)
            self.assertGreater(sum(self.asked()), sum(before), name)
        self.assertGreater(min(self.asked()), 0)

    async def every_way_with_the_aws_cli(self) -> None:
        """Up, down, and a list."""
        source, target = self.folder / "source", self.folder / "target"
        source.write_bytes(content(99, 0, 9 << 20))

        def exchange(scheme: str, proxy: str | None) -> None:
            # Without an endpoint the AWS CLI speaks https to the bucket's own host.
            options = ("--endpoint-url", f"http://{HOST}") if scheme == "http" else ()
            self.aws("s3", "cp", str(source), "s3://bucket/large", *options, proxy=proxy)
            target.unlink(missing_ok=True)
            self.aws("s3", "cp", "s3://bucket/large", str(target), *options, proxy=proxy)
            self.assertTrue(target.read_bytes() == source.read_bytes())
            self.assertIn("large", self.aws("s3", "ls", "s3://bucket/lar", *options, proxy=proxy))

        for name in ("http by DNS", "https by DNS", "http by HTTP_PROXY", "https by HTTP_PROXY"):
            await self.work(exchange, *self.ways()[name])

    async def one_dies_and_returns(self) -> None:
        """Who goes through the proxy over http notices nothing at all; who has a connection of his own to the frontend
        repeats one request. Then nobody finds out again, until a probe has found the frontend back.
        """
        ways = self.ways()
        names = ("http by DNS", "https by DNS", "http by HTTP_PROXY", "https by HTTP_PROXY")
        readers = [
            Reads(self.boto3(*ways[name], retries=int(ways[name][0] == "https")), first=number * OBJECTS // 4)
            for number, name in enumerate(names)
        ]
        at_work = [self.work(reader.run) for reader in readers]

        async def have_read(more: int) -> None:
            goals = [reader.done + more for reader in readers]

            async def done() -> bool:
                failed = [each for each in at_work if each.called]
                return bool(failed) or all(reader.done >= goal for reader, goal in zip(readers, goals))

            await self.until("reads", done)

        await have_read(15)
        await self.frontends[1].stop()
        await have_read(30)
        fresh = [self.boto3(*ways[name]) for name in names if ways[name][0] == "https"]
        # Connections of their own, while one of two addresses is dead: each finds the other.
        for client in fresh:
            for key in range(8):
                reader = Reads(self.boto3("https", ways["https by HTTP_PROXY"][1] if client is fresh[1] else None), key)
                await self.work(reader.read)

        async def left_out() -> bool:
            return all(found == [f"{FRONTENDS[1]}:443"] for found in await self.excluded())

        await self.until("the exclusion", left_out)
        before = self.asked()[0]
        retried = [sum(reader.retried) for reader in readers]
        await have_read(10)
        self.assertGreater(self.asked()[0], before)
        self.assertEqual([sum(reader.retried) for reader in readers], retried)
        for name, count in zip(names, retried):
            self.assertLessEqual(count, int(ways[name][0] == "https"), name)

        self.frontends[1] = self.frontend(FRONTENDS[1])

        async def back() -> bool:
            return not any(await self.excluded())

        await self.until("the return", back)
        for reader in readers:
            reader.stopping = True
        for each in at_work:
            await each
        self.frontends[1].requests.clear()
        for name in names:
            for key in range(4):
                await self.work(Reads(self.boto3(*ways[name]), OBJECTS // 2 + key).read)
        self.assertGreater(len(self.frontends[1].requests), 0)
        for proxy in self.proxies:
            probes = await self.work(lambda: proxy.metric("s3proxy_upstream_ip_probes_total", result="succeeded"))
            self.assertGreaterEqual(probes, 1)
        self.assertEqual([sum(reader.retried) for reader in readers], retried)
