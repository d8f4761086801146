"""A network on loopback: a DNS server, frontends of S3 with TLS at several addresses, and the proxy before them.

Everything but the proxy runs in the reactor of the tests; what blocks, such as a client, runs in a thread.
"""

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from test.support.certificates import CertificateAuthority
from test.support.fake_dns import DNSAnswer, FakeDNS
from test.support.fake_s3 import FakeS3
from test.support.proxy_process import ProxyProcess
from test.support.sigv4 import Credential
from test.support.waiting import free_ports
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

__all__ = ["AWS", "ENDPOINTS", "NetworkCase"]

Result = TypeVar("Result")

AWS = "amazonaws.com"
#: Names before which a bucket, or the name of an access point, may stand.
ENDPOINTS = (
    f"s3.{AWS}",
    f"s3.us-east-1.{AWS}",
    f"s3-us-east-1.{AWS}",
    f"s3.dualstack.us-east-1.{AWS}",
    f"s3-fips.us-east-1.{AWS}",
    f"s3-fips.dualstack.us-east-1.{AWS}",
    f"s3-accelerate.{AWS}",
    f"s3-accelerate.dualstack.{AWS}",
    f"s3.cn-north-1.{AWS}.cn",
    f"s3-accesspoint.us-east-1.{AWS}",
    f"accesspoint.s3-global.{AWS}",
)


class NetworkCase(TestCase):
    """Frontends at 127.0.3.1 and on, all on one port, which clients have to name: ``http://HOST:PORT``."""

    timeout = 120
    credential = Credential("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")

    async def setUp(self) -> None:  # type: ignore[override]
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.folder = Path(tempfile.mkdtemp(prefix="s3proxy-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.authority = CertificateAuthority(self.folder)
        names = [name for endpoint in ENDPOINTS for name in (endpoint, f"*.{endpoint}")]
        names.append(f"*.mrap.accesspoint.s3-global.{AWS}")
        self.certificate = self.authority.issue(names).options()
        self.dns = FakeDNS(reactor)
        self.dns_port = self.dns.listen()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.dns.stop()))
        (self.port,) = free_ports(1)
        self.frontends: dict[str, FakeS3] = {}
        self.proxy = ProxyProcess()

    def frontend(self, number: int) -> FakeS3:
        """Start the frontend at 127.0.3.*number*."""
        ip = f"127.0.3.{number}"
        fake = FakeS3(self.reactor, domains=[name.encode() for name in ENDPOINTS], region=None)
        fake.listen(self.port, interface=ip, tls=self.certificate)
        self.frontends[ip] = fake
        self.addCleanup(fake.stop)
        return fake

    def name(self, *hosts: str, ips: Sequence[str] = ("127.0.3.1",), ttl: int = 60) -> None:
        """Let DNS know these names."""
        for host in hosts:
            self.dns.set(host.encode(), DNSAnswer(ipv4=tuple(ips), ttl=ttl))

    async def start(self, mode: str = "proxy_only", **sections: Mapping[str, Any]) -> None:
        """Start the proxy. It trusts the frontends' authority, and resolves by the fake DNS."""
        trusting = {"scheme": "https", "ca_file": str(self.authority.ca_file)}
        self.proxy.configure(
            {
                "server": {"mode": mode},
                "connection_pool": {
                    "dns_servers": [f"127.0.0.1:{self.dns_port}"],
                    "upstream_overrides": {f"{AWS}:{self.port}": trusting, f"{AWS}.cn:{self.port}": trusting},
                },
                "cache": {"get_ttl": "1h", "head_ttl": "1h"},
            }
        )
        self.proxy.configure(sections)
        self.addCleanup(lambda: self.work(self.proxy.stop))
        await self.work(self.proxy.start)

    def work(self, call: Callable[..., Result], *args: Any, **names: Any) -> "Deferred[Result]":
        """Do something that blocks, in a thread."""
        return deferToThread(call, *args, **names)

    def pause(self, seconds: float) -> "Deferred[None]":
        """Let time pass."""
        done: Deferred[None] = deferLater(self.reactor, seconds)
        return done

    async def upstream(self) -> Any:
        """What the health page says of the upstream side."""
        document = await self.work(self.proxy.health)
        return next(part for part in document["components"] if part["name"] == "upstream")["data"]

    async def until(self, true: Callable[[], Any], seconds: float = 20) -> None:
        """Wait until an async condition holds."""
        limit = self.reactor.seconds() + seconds
        while not await true():
            if self.reactor.seconds() > limit:
                self.fail("it did not come about")
            await self.pause(0.1)

    async def quiet(self) -> None:
        """Nothing unexpected was logged."""
        output = self.proxy.app_log() + self.proxy.output()
        self.assertNotIn("Traceback", output)
        self.assertNotIn("Unhandled", output)
