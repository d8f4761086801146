"""Tests for the fake DNS server."""

import socket
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, TimeoutError
from twisted.names import client, dns, error
from twisted.trial.unittest import TestCase

from test.support.fake_dns import DNSAnswer, FakeDNS
from test.support.waiting import wait_until

NAME = b"s3.test"


class FakeDNSTests(TestCase):
    """A resolver gets the answers that were set, over UDP and TCP."""

    timeout = 20

    def setUp(self) -> None:
        """A server, and a resolver that asks only it."""
        self.server = FakeDNS(reactor)
        port = self.server.listen()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.server.stop()))
        self.resolver = client.Resolver(servers=[("127.0.0.1", port)], timeout=(1,), reactor=reactor)

    async def addresses(self, lookup: Any) -> list[str]:
        """The addresses of a look-up."""
        answers, _, _ = await lookup
        return [
            record.payload.dottedQuad()
            if record.type == dns.A
            else socket.inet_ntop(socket.AF_INET6, record.payload.address)
            for record in answers
            if record.type in (dns.A, dns.AAAA)
        ]

    async def test_addresses(self) -> None:
        """A and AAAA answers come in the order set, under any spelling of the name."""
        self.server.set(NAME, DNSAnswer(ipv4=("127.0.0.2", "127.0.0.1"), ipv6=("::1",)))
        found = await self.addresses(self.resolver.lookupAddress("S3.Test"))
        self.assertEqual(found, ["127.0.0.2", "127.0.0.1"])
        self.assertEqual(await self.addresses(self.resolver.lookupIPV6Address("s3.test")), ["::1"])
        self.assertEqual(self.server.queries, [(NAME, dns.A, "udp"), (NAME, dns.AAAA, "udp")])

    async def test_alias(self) -> None:
        """An alias leads to the addresses."""
        self.server.set(NAME, DNSAnswer(canonical_name=b"real.test", ipv4=("127.0.0.3",)))
        self.assertEqual(await self.addresses(self.resolver.lookupAddress("s3.test")), ["127.0.0.3"])

    async def test_unknown(self) -> None:
        """A name that was not set does not exist; a failure can be set."""
        with self.assertRaises(error.DNSNameError):
            await self.resolver.lookupAddress("other.test")
        self.server.set(NAME, DNSAnswer(rcode=dns.ESERVER))
        with self.assertRaises(error.DNSServerError):
            await self.resolver.lookupAddress("s3.test")

    async def test_truncated(self) -> None:
        """A truncated answer makes the resolver ask over TCP."""
        self.server.set(NAME, DNSAnswer(ipv4=("127.0.0.4",), truncated=True))
        self.assertEqual(await self.addresses(self.resolver.lookupAddress("s3.test")), ["127.0.0.4"])
        self.assertEqual([transport for _, _, transport in self.server.queries], ["udp", "tcp"])

    async def test_silence(self) -> None:
        """A server that says nothing makes the query time out."""
        self.server.set(NAME, DNSAnswer(silent=True))
        with self.assertRaises(TimeoutError):
            await self.resolver.lookupAddress("s3.test", (0.1,))

    async def test_delay(self) -> None:
        """An answer can come late; a delayed one that nobody waits for leaves nothing behind."""
        self.server.set(NAME, DNSAnswer(ipv4=("127.0.0.5",), delay=0.1))
        self.assertEqual(await self.addresses(self.resolver.lookupAddress("s3.test")), ["127.0.0.5"])
        self.server.set(NAME, DNSAnswer(ipv4=("127.0.0.5",), delay=60))
        late = self.resolver.lookupAddress("s3.test", (0.05,))
        late.addErrback(lambda failure: failure.trap(TimeoutError) and None)
        await wait_until(reactor, lambda: late.called and len(self.server.queries) == 2)
