"""The ways in which S3 names buckets and access points, each with a real client through the proxy, to frontends that
DNS leads to: the right key, the right place, and a signature that holds there.
"""

from test.support.raw_client import RawClient
from test.support.sigv4 import sign_request
from test.system.network import AWS, NetworkCase
from typing import Any

import boto3  # type: ignore[import-untyped]
from botocore.config import Config  # type: ignore[import-untyped]
from botocore.exceptions import ClientError  # type: ignore[import-untyped]

POINT = "my-ap-123456789012"
POINT_ARN = "arn:aws:s3:us-east-1:123456789012:accesspoint/my-ap"
ALIAS = "my-ap-abcdef123456-s3alias"
MULTI_REGION = "mfzwi23gnjvgw.mrap"
MULTI_REGION_ARN = f"arn:aws:s3::123456789012:accesspoint/{MULTI_REGION}"
KEY = "data/file.txt"


class EndpointCase(NetworkCase):
    """One frontend, on which each name of a bucket has another content."""

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.fake = self.frontend(1)
        for name in (POINT, ALIAS, MULTI_REGION, "bucket", "my.company.logs"):
            self.fake.create_bucket(name)
            self.fake.put_object(name, KEY.encode(), b"content of " + name.encode())

    def client(self, endpoint: str | None, **config: Any) -> Any:
        """boto3, which goes through the proxy to this endpoint."""
        return boto3.client(
            "s3",
            aws_access_key_id=self.credential.access_key,
            aws_secret_access_key=self.credential.secret_key,
            region_name="us-east-1",
            endpoint_url=None if endpoint is None else f"http://{endpoint}:{self.port}",
            use_ssl=endpoint is not None,
            config=Config(
                proxies={"http": f"http://127.0.0.1:{self.proxy.port}"}, retries={"total_max_attempts": 1}, **config
            ),
        )

    def _read(self, client: Any, bucket: str) -> tuple[bytes, str]:
        answer = client.get_object(Bucket=bucket, Key=KEY)
        return answer["Body"].read(), answer["ResponseMetadata"]["HTTPHeaders"]["x-cache"]

    async def reads(self, client: Any, bucket: str, name: str, host: str) -> None:
        """The client reads the right object twice, the second time from the cache; S3 was asked once, as this host,
        by a signature that holds.
        """
        self.fake.requests.clear()
        expected = b"content of " + name.encode()
        self.assertEqual(await self.work(self._read, client, bucket), (expected, "MISS"))
        self.assertEqual(await self.work(self._read, client, bucket), (expected, "HIT"))
        (request,) = self.fake.requests
        self.assertEqual((request.status, request.access_key, request.tls), (200, self.credential.access_key, True))
        self.assertEqual((request.header(b"host") or b"").partition(b":")[0], host.encode())
        asked = {name for name, _, _ in self.dns.queries}
        self.assertIn(host.encode(), asked)


class GuideTests(EndpointCase):
    """The table of endpoints for access points."""

    async def test_alias_at_the_regional_endpoint(self) -> None:
        """An access point's alias, at S3's endpoint of the region, is cached in either form."""
        host = f"s3.us-east-1.{AWS}"
        self.name(host, f"{ALIAS}.{host}")
        await self.start()
        await self.reads(self.client(host), ALIAS, ALIAS, host)
        virtual = self.client(host, s3={"addressing_style": "virtual"})
        self.assertEqual(await self.work(self._read, virtual, ALIAS), (b"content of " + ALIAS.encode(), "HIT"))

    async def test_arn_at_the_endpoint_of_access_points(self) -> None:
        """An access point's ARN, at the endpoint of access points, is cached; the client makes the host of it."""
        base = f"s3-accesspoint.us-east-1.{AWS}"
        self.name(f"{POINT}.{base}")
        await self.start()
        await self.reads(self.client(base), POINT_ARN, POINT, f"{POINT}.{base}")

    async def test_alias_at_the_endpoint_of_access_points(self) -> None:
        """An alias there is an error, at once: DNS does not know the name."""
        await self.start()
        client = self.client(f"s3-accesspoint.us-east-1.{AWS}")
        began = self.reactor.seconds()
        with self.assertRaises(ClientError) as caught:
            await self.work(self._read, client, ALIAS)
        self.assertLess(self.reactor.seconds() - began, 2.0)
        error = caught.exception.response["Error"]
        self.assertEqual(error["Code"], "BadGateway")
        self.assertIn(f"s3-accesspoint.us-east-1.{AWS}", error["Message"])
        self.assertEqual(len(self.fake.requests), 0)

    async def test_multi_region_alias(self) -> None:
        """A Multi-Region Access Point's alias, at their endpoint, is cached: in the path or in the host, it is one."""
        base = f"accesspoint.s3-global.{AWS}"
        self.name(base, f"{MULTI_REGION}.{base}")
        await self.start()
        await self.reads(self.client(base), MULTI_REGION, MULTI_REGION, base)
        virtual = self.client(base, s3={"addressing_style": "virtual"})
        self.assertEqual(
            await self.work(self._read, virtual, MULTI_REGION), (b"content of " + MULTI_REGION.encode(), "HIT")
        )

    async def test_multi_region_arn(self) -> None:
        """A Multi-Region Access Point's ARN is cached when the client uses HTTP; its signature is one for all regions.

        The endpoint's addresses are those of an override, and DNS is not asked.
        """
        host = f"{MULTI_REGION}.accesspoint.s3-global.{AWS}"
        await self.start(
            connection_pool={
                "endpoint_overrides": {f"*.accesspoint.s3-global.{AWS}": [f"127.0.3.1:{self.port}"]},
                "upstream_overrides": {f"{AWS}:80": {"scheme": "https", "ca_file": str(self.authority.ca_file)}},
            }
        )
        client = self.client(None)
        expected = b"content of " + MULTI_REGION.encode()
        self.assertEqual(await self.work(self._read, client, MULTI_REGION_ARN), (expected, "MISS"))
        self.assertEqual(await self.work(self._read, client, MULTI_REGION_ARN), (expected, "HIT"))
        (request,) = self.fake.requests
        self.assertEqual((request.status, request.header(b"host")), (200, host.encode()))
        self.assertTrue((request.header(b"authorization") or b"").startswith(b"AWS4-ECDSA-P256-SHA256 "))
        self.assertEqual(self.dns.queries, [])


class FamilyTests(EndpointCase):
    """All spellings of one bucket are one object; what they are sent to is what the client named."""

    async def ask(self, host: str, path: str) -> tuple[int, bytes, bytes]:
        """Status, body and source of a read with this Host."""
        field = f"{host}:{self.port}".encode()
        pairs = sign_request(b"GET", path.encode(), [(b"Host", field)], self.credential, when=self.reactor.seconds())
        head = b"".join(b"%b: %b\r\n" % pair for pair in pairs)

        def read() -> tuple[int, bytes, bytes]:
            with RawClient("127.0.0.1", self.proxy.port) as client:
                client.send(b"GET http://%b%b HTTP/1.1\r\n%b\r\n" % (field, path.encode(), head))
                answer = client.read_response(b"GET")
                return answer.status, answer.body, answer.header(b"x-cache") or b""

        return await self.work(read)

    async def test_spellings(self) -> None:
        """Regional, global, dash-style, dualstack, FIPS and accelerated hosts, in path- and in virtual-hosted style,
        share what is cached; each is asked at its own name.
        """
        endpoints = (
            f"s3.us-east-1.{AWS}", f"s3.{AWS}", f"s3-us-east-1.{AWS}", f"s3.dualstack.us-east-1.{AWS}",
            f"s3-fips.us-east-1.{AWS}", f"s3-fips.dualstack.us-east-1.{AWS}",
        )  # fmt: skip
        hosts = [(endpoint, f"/bucket/{KEY}") for endpoint in endpoints]
        accelerated = (f"s3-accelerate.{AWS}", f"s3-accelerate.dualstack.{AWS}")
        hosts += [(f"bucket.{endpoint}", f"/{KEY}") for endpoint in (*endpoints, *accelerated)]
        self.name(*(host for host, _ in hosts))
        await self.start(cache={"get_ttl": "0s", "head_ttl": "0s"})
        for number, (host, path) in enumerate(hosts):
            status, body, source = await self.ask(host, path)
            self.assertEqual((status, body), (200, b"content of bucket"), host)
            # Asked each time, and each time about the one copy: the cache is shared.
            self.assertEqual(source, b"REVALIDATED" if number else b"MISS", host)
        sent = [(request.header(b"host") or b"").partition(b":")[0].decode() for request in self.fake.requests]
        self.assertEqual(sent, [host for host, _ in hosts])
        self.assertEqual([request.status for request in self.fake.requests], [200] + [304] * (len(hosts) - 1))

    async def test_partitions(self) -> None:
        """A bucket of that name in China is another bucket."""
        here, there = f"s3.us-east-1.{AWS}", f"s3.cn-north-1.{AWS}.cn"
        self.name(here, there)
        await self.start()
        self.assertEqual((await self.ask(here, f"/bucket/{KEY}"))[2], b"MISS")
        self.assertEqual((await self.ask(there, f"/bucket/{KEY}"))[2], b"MISS")
        self.assertEqual((await self.ask(here, f"/bucket/{KEY}"))[2], b"HIT")

    async def test_dotted_bucket(self) -> None:
        """A bucket with dots before a name of S3 is reached, although no certificate can be for such a host."""
        host = f"my.company.logs.s3.us-east-1.{AWS}"
        self.name(host)
        await self.start()
        self.assertEqual((await self.ask(host, f"/{KEY}"))[:2], (200, b"content of my.company.logs"))
        await self.quiet()
