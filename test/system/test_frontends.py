"""Several addresses of S3 behind one name: load is spread, one that dies or is slow goes unnoticed, and returns."""

import json
from collections.abc import Callable
from test.support.content import content
from test.support.fake_dns import DNSAnswer, FakeDNS
from test.support.fake_s3 import FakeS3
from test.support.fake_script import Action, Match
from test.system.network import AWS, NetworkCase
from typing import Any

import boto3  # type: ignore[import-untyped]
from botocore.config import Config  # type: ignore[import-untyped]

HOST = f"s3.us-east-1.{AWS}"
SIZE = 5000
FIRST, SECOND = "127.0.3.1", "127.0.3.2"


class FrontendCase(NetworkCase):
    """Two frontends with the same objects, and a client that never tries twice."""

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.first, self.second = self.begin(1), self.begin(2)
        self.name(HOST, ips=(FIRST, SECOND), ttl=5)

    def begin(self, number: int) -> FakeS3:
        """Start a frontend, with the objects."""
        fake = self.frontend(number)
        fake.create_bucket("bucket")
        for key in range(60):
            fake.put_generated("bucket", b"key-%d" % key, key, SIZE)
        return fake

    def client(self) -> Any:
        """boto3, without any repetition."""
        return boto3.client(
            "s3",
            aws_access_key_id=self.credential.access_key,
            aws_secret_access_key=self.credential.secret_key,
            region_name="us-east-1",
            endpoint_url=f"http://{HOST}:{self.port}",
            config=Config(
                proxies={"http": f"http://127.0.0.1:{self.proxy.port}"},
                retries={"total_max_attempts": 1},
                s3={"addressing_style": "path"},
                read_timeout=20,
            ),
        )

    def read(self, client: Any, *keys: int) -> None:
        """Read these objects, and compare them."""
        for key in keys:
            body = client.get_object(Bucket="bucket", Key=f"key-{key}")["Body"].read()
            self.assertTrue(body == content(key, 0, SIZE))

    def asked(self) -> tuple[int, int]:
        """How many requests each frontend has had."""
        return len(self.first.requests), len(self.second.requests)


class DyingTests(FrontendCase):
    """A frontend that is gone."""

    async def test_dies_and_returns(self) -> None:
        """Both serve; one dies: no request fails; it is excluded, without further requests finding out; it returns:
        a probe finds it, and it serves again.
        """
        settings = {"health_probe_initial_cooldown": "1s", "health_probe_max_cooldown": "2s"}
        await self.start(connection_pool=settings)
        client = self.client()
        await self.work(self.read, client, *range(10))
        self.assertEqual(self.asked(), (5, 5))

        await self.second.stop()
        await self.work(self.read, client, *range(10, 30))
        self.assertEqual(self.asked(), (25, 5))

        async def excluded() -> bool:
            # Between two looks at the name servers the host may not be known.
            return bool((await self.upstream())["hosts"].get(HOST, {}).get("excluded") == [SECOND])

        await self.until(excluded)
        failures = (await self.upstream())["connect_failures"]
        await self.work(self.read, client, *range(30, 40))
        shown = await self.upstream()
        self.assertEqual(shown["connect_failures"], failures)
        self.assertEqual(self.proxy.metric("s3proxy_upstream_ips", state="excluded"), 1)
        self.assertEqual(self.proxy.metric("s3proxy_upstream_ip_exclusions_total"), 1)

        self.second = self.begin(2)

        async def returned() -> bool:
            return not await excluded()

        await self.until(returned)
        self.assertEqual(self.asked(), (35, 0))
        await self.work(self.read, client, *range(40, 60))
        self.assertEqual(self.asked(), (45, 10))
        self.assertGreaterEqual(self.proxy.metric("s3proxy_upstream_ip_probes_total", result="succeeded"), 1)
        await self.quiet()

    async def test_dies_in_the_middle(self) -> None:
        """One dies while many read: nobody fails."""
        await self.start()
        done = [self.work(self.read, self.client(), *range(start, 60, 6)) for start in range(6)]
        await self.pause(0.05)
        await self.second.stop()
        for each in done:
            await each
        await self.quiet()


class SlowTests(FrontendCase):
    """A frontend that takes requests and is in no hurry."""

    async def test_hedged(self) -> None:
        """With hedged requests every read is as quick as the other frontend; the late answers are given up."""
        self.proxy.cache_dir.mkdir(parents=True)
        rule = {"pattern": "bucket/**", "hedging_enabled": True, "hedge_trigger_after": "500ms"}
        (self.proxy.cache_dir / "cache_rules.json").write_text(json.dumps({"rules": [rule]}))
        await self.start()
        client = self.client()
        await self.work(self.read, client, 0, 1)
        self.second.script(Match(), Action(hold=True), times=None)
        await self.work(self.read, client, *range(2, 12))
        # A machine that is busy may be late by itself now and then: then there are some more, which change nothing.
        self.assertGreaterEqual(self.proxy.metric("s3proxy_hedges_total", outcome="won"), 5)
        self.assertEqual(self.proxy.metric("s3proxy_hedges_total", outcome="failed"), 0)
        self.assertEqual(self.proxy.metric("s3proxy_upstream_retries_total"), 0)

        async def let_go() -> bool:
            return self.second.open_connections <= 1

        await self.until(let_go)
        before = len(self.first.requests)
        await self.work(self.read, client, *range(12))
        self.assertEqual(len(self.first.requests), before, "each body was kept once, whole")
        await self.quiet()

    async def test_writes_are_not_hedged(self) -> None:
        """An upload whose answer is late is sent once."""
        self.proxy.cache_dir.mkdir(parents=True)
        rule = {"pattern": "**", "hedging_enabled": True, "hedge_trigger_after": "50ms"}
        (self.proxy.cache_dir / "cache_rules.json").write_text(json.dumps({"rules": [rule]}))
        await self.start()
        for fake in (self.first, self.second):
            fake.script(Match(operation="PutObject"), Action(delay_head=0.5), times=None)
        client = self.client()
        await self.work(lambda: client.put_object(Bucket="bucket", Key="new", Body=b"text"))
        await self.work(lambda: client.delete_object(Bucket="bucket", Key="new"))
        self.assertEqual(sum(self.asked()), 2)
        self.assertEqual(self.proxy.metric("s3proxy_hedges_total"), 0)

    async def test_not_hedged(self) -> None:
        """Without, a silent frontend costs the time until the first byte is overdue, and then the request is repeated
        elsewhere.
        """
        await self.start(connection_pool={"upstream_first_byte_timeout": "1s"})
        client = self.client()
        self.second.script(Match(), Action(hold=True), times=None)
        await self.work(self.read, client, *range(6))
        shown = await self.upstream()
        self.assertEqual((shown["hedges"]["won"], shown["excluded"]), (0, [f"{SECOND}:{self.port}"]))


class DNSTests(FrontendCase):
    """The servers of connection_pool.dns_servers."""

    async def cold(self, call: Callable[[Any], Any]) -> None:
        """The first request after the start is answered within two seconds."""
        await self.start()
        client = self.client()
        began = self.reactor.seconds()
        await self.work(call, client)
        self.assertLess(self.reactor.seconds() - began, 2.0)

    async def test_cold_upload(self) -> None:
        """A PutObject comes first."""
        await self.cold(lambda client: client.put_object(Bucket="bucket", Key="new", Body=b"text"))

    async def test_cold_head(self) -> None:
        """A HEAD comes first."""
        await self.cold(lambda client: client.head_object(Bucket="bucket", Key="key-1"))

    async def test_cold_list(self) -> None:
        """A list comes first."""
        await self.cold(lambda client: client.list_objects_v2(Bucket="bucket"))

    async def test_cold_delete(self) -> None:
        """A deletion comes first."""
        await self.cold(lambda client: client.delete_object(Bucket="bucket", Key="key-1"))

    async def test_first_server_is_dead(self) -> None:
        """So, too, when the server that is listed first does not answer."""
        dead = FakeDNS(self.reactor)
        port = dead.listen()
        self.addCleanup(dead.stop)
        dead.set(HOST.encode(), DNSAnswer(silent=True))
        self.proxy.configure({"connection_pool": {"dns_servers": [f"127.0.0.1:{port}"]}})
        await self.start(connection_pool={"dns_servers": [f"127.0.0.1:{port}", f"127.0.0.1:{self.dns_port}"]})
        began = self.reactor.seconds()
        await self.work(self.read, self.client(), 1)
        self.assertLess(self.reactor.seconds() - began, 2.0)
        self.assertTrue(dead.queries)

    async def test_servers_go_silent(self) -> None:
        """Addresses that were found go on being used when no server answers any more, and nobody waits for that."""
        await self.start(connection_pool={"dns_refresh_interval": "1s"})
        client = self.client()
        await self.work(self.read, client, 0)
        self.dns.set(HOST.encode(), DNSAnswer(silent=True))
        await self.pause(6.5)
        began = self.reactor.seconds()
        await self.work(self.read, client, *range(1, 11))
        self.assertLess(self.reactor.seconds() - began, 3.0)

    async def test_address_changes(self) -> None:
        """When DNS says otherwise, traffic follows."""
        self.name(HOST, ips=(FIRST,), ttl=1)
        await self.start(connection_pool={"dns_refresh_interval": "1s"})
        client = self.client()
        await self.work(self.read, client, 0, 1)
        self.name(HOST, ips=(SECOND,), ttl=1)
        await self.pause(5.5)
        await self.work(self.read, client, 2)
        await self.pause(0.5)
        self.first.requests.clear()
        await self.work(self.read, client, *range(3, 9))
        self.assertEqual(len(self.first.requests), 0)
        self.assertEqual((await self.upstream())["hosts"][HOST]["addresses"], [SECOND])


class LimitTests(FrontendCase):
    """connection_pool.max_connections."""

    async def test_queue(self) -> None:
        """More readers than connections: all are served, over no more connections than that."""
        for fake in (self.first, self.second):
            fake.script(Match(), Action(delay_head=0.1), times=None)
        await self.start(connection_pool={"max_connections": 4})
        readers = [self.work(self.read, self.client(), *range(start, 24, 8)) for start in range(8)]
        for reader in readers:
            await reader
        self.assertLessEqual(self.first.accepted + self.second.accepted, 8)
        self.assertGreater(self.proxy.metric("s3proxy_upstream_waits_total"), 0)
        self.assertEqual(self.proxy.metric("s3proxy_upstream_connections_limit"), 4)
        self.assertEqual((await self.upstream())["requests_waiting"], 0)

    async def test_turned_away(self) -> None:
        """Who waits too long is answered 503 SlowDown."""
        for fake in (self.first, self.second):
            fake.script(Match(), Action(hold=True), times=None)
        await self.start(connection_pool={"max_connections": 1, "connection_timeout": "1s"})
        first = self.work(self.read, self.client(), 0)
        first.addErrback(lambda reason: None)
        await self.pause(0.3)

        def refused() -> str:
            client = self.client()
            try:
                self.read(client, 1)
            except client.exceptions.ClientError as error:
                return f"{error.response['ResponseMetadata']['HTTPStatusCode']} {error.response['Error']['Code']}"
            return "served"

        self.assertEqual(await self.work(refused), "503 SlowDown")
        for fake in (self.first, self.second):
            fake.behave()
        await first
        await self.quiet()
