"""Ten things that caches of this kind are known to get wrong, with the real process, and an S3 that keeps to its rules.

The ids, X-01 to X-10, are those of the table in doc/faults.md.
"""

import base64
import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from test.support.content import content
from test.support.fake_script import Action, Match
from test.support.raw_client import RawClient, RawResponse, signed_request_bytes
from test.support.sigv4 import UNSIGNED, Credential, Pair
from test.support.waiting import poll
from test.system.stage import HOST, MIB, Stage, at_once

from twisted.trial.unittest import SynchronousTestCase

WRITES = 1000
UNCHANGED = 100 * MIB
CLIENTS = 100
STRANGER = Credential("AKIDSTRANGER", "a-secret-that-S3-does-not-know")


class ComparisonCase(SynchronousTestCase):
    """One proxy with an empty cache."""

    config: dict[str, dict[str, object]] = {}

    def setUp(self) -> None:
        """Start it."""
        self.stage = Stage(self.config)
        self.addCleanup(self.stage.stop)

    def get(self, key: bytes, *headers: Pair) -> RawResponse:
        """A GET over a connection of its own."""
        return self.stage.ask(b"GET", key, headers=headers)

    def is_object(self, answer: RawResponse, seed: int, start: int, stop: int, status: int = 200) -> None:
        """The answer has exactly these bytes of the content with that seed."""
        self.assertEqual((answer.status, len(answer.body)), (status, stop - start))
        self.assertTrue(answer.body == content(seed, start, stop))

    def put(self, client: RawClient, key: bytes, body: bytes, headers: Sequence[Pair] = ()) -> RawResponse:
        """A PUT over this connection."""
        fields = (*headers, (b"Content-Length", b"%d" % len(body)))
        client.send(self.stage.request(b"PUT", key, headers=fields, body=body))
        return client.read_response(b"PUT")


class ReadComparisons(ComparisonCase):
    """Reads."""

    def test_x01_cold_suffix(self) -> None:
        """X-01: the last bytes of a cold object are not stored as its first ones."""
        self.stage.put(b"key", 1, 1000)
        self.is_object(self.get(b"key", (b"Range", b"bytes=-8")), 1, 992, 1000, 206)
        self.is_object(self.get(b"key", (b"Range", b"bytes=0-7")), 1, 0, 8, 206)
        self.is_object(self.get(b"key"), 1, 0, 1000)

    def test_x02_older_version(self) -> None:
        """X-02: an older version that is fetched past the cache does not become the current one."""
        self.stage.bucket += "-versioned"
        self.stage.fake.create_bucket(self.stage.bucket, versioned=True)
        self.stage.put(b"key", 1, 1000)
        old = self.get(b"key").header(b"x-amz-version-id") or b""
        self.stage.put(b"key", 2, 2000)
        target = b"key?versionId=" + old
        self.is_object(self.get(target, (b"Cache-Control", b"no-cache")), 1, 0, 1000)
        self.is_object(self.get(b"key", (b"Cache-Control", b"no-cache")), 2, 0, 2000)
        self.is_object(self.get(target), 1, 0, 1000)
        self.is_object(self.get(b"key"), 2, 0, 2000)

    def test_x08_buckets_in_dashed_host_names(self) -> None:
        """X-08: two buckets behind Amazon's older, dashed host names have equal paths and different objects."""
        domain = b"s3-us-west-2.amazonaws.com"
        self.stage.stop()
        address = f"127.0.0.1:{self.stage.fake.port}"
        self.stage = Stage(
            {
                "connection_pool": {
                    "endpoint_overrides": {f"*.{domain.decode()}": [address]},
                    "upstream_overrides": {f"{domain.decode()}:80": {"scheme": "http"}},
                }
            }
        )
        self.addCleanup(self.stage.stop)
        buckets = [f"{self.stage.bucket}-{number}" for number in (1, 2)]
        for seed, bucket in enumerate(buckets, 1):
            self.stage.fake.create_bucket(bucket)
            self.stage.fake.put_generated(bucket, b"a/key", seed, 1000)
        for _ in range(2):
            for seed, bucket in enumerate(buckets, 1):
                with self.stage.connect() as client:
                    host = bucket.encode() + b"." + domain
                    client.send(signed_request_bytes(b"GET", b"/a/key", host, self.stage.fake.credential))
                    self.is_object(client.read_response(), seed, 0, 1000)
        self.assertEqual(len(self.stage.fake.requests.reads_with_body(b"a/key")), 2)


class WriteComparisons(ComparisonCase):
    """Reads after writes through the proxy."""

    config = {"cache": {"write_cache_max_object_size": MIB}}

    def test_x03_tagging(self) -> None:
        """X-03: a document about an object is not the object."""
        self.stage.put(b"key", 1, 1000)
        document = b"<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>"
        for read in (False, True):
            if read:
                self.is_object(self.get(b"key"), 1, 0, 1000)
            self.assertEqual(self.stage.ask(b"PUT", b"key?tagging", body=document).status, 200)
            self.is_object(self.get(b"key"), 1, 0, 1000)

    def test_x04_copy(self) -> None:
        """X-04, ST-02: a copy onto a cached key shows in ranges, in the length and in the whole."""
        self.stage.put(b"source", 1, 300_000)
        self.stage.put(b"target", 2, 1000)
        self.is_object(self.get(b"target"), 2, 0, 1000)
        source = b"/" + self.stage.bucket.encode() + b"/source"
        self.assertEqual(self.stage.ask(b"PUT", b"target", headers=[(b"x-amz-copy-source", source)]).status, 200)
        self.is_object(self.get(b"target", (b"Range", b"bytes=0-99")), 1, 0, 100, 206)
        self.is_object(self.get(b"target"), 1, 0, 300_000)
        self.assertEqual(self.stage.ask(b"HEAD", b"target").header(b"content-length"), b"300000")

    def test_x05_too_big_to_keep(self) -> None:
        """X-05: an upload that is too big to be kept takes the older object away all the same."""
        self.stage.put(b"key", 1, 1000)
        self.is_object(self.get(b"key"), 1, 0, 1000)
        self.assertEqual(self.stage.upload(b"key", 2, 3 * MIB).status, 200)
        self.assertTrue(self.stage.read(b"key", 2, 3 * MIB).exact)

    def test_x06_several_deletions(self) -> None:
        """X-06, ST-03: what DeleteObjects names is gone here, too, and what it does not name is not."""
        for key in (b"a", b"b", b"c"):
            self.stage.put(key, 1, 1000)
            self.is_object(self.get(key), 1, 0, 1000)
        body = b"<Delete><Object><Key>a</Key></Object><Object><Key>b</Key></Object><Quiet>true</Quiet></Delete>"
        digest = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest())
        self.assertEqual(self.stage.ask(b"POST", b"?delete", headers=[(b"Content-MD5", digest)], body=body).status, 200)
        self.assertEqual([self.get(key).status for key in (b"a", b"b", b"c")], [404, 404, 200])

    def test_x07_write_and_read(self) -> None:
        """X-07: whoever reads after his own write was acknowledged never reads the value before it."""
        values = (b"one value", b"another one, which is longer")
        with self.stage.connect() as client:
            for number in range(WRITES):
                value = values[number % 2]
                self.assertEqual(self.put(client, b"key", value).status, 200)
                client.send(self.stage.request(b"GET", b"key"))
                answer = client.read_response()
                self.assertEqual((number, answer.status, answer.body), (number, 200, value))

    def test_written_headers(self) -> None:
        """DC-19, DC-20, DC-22, DC-34, DC-35, DC-37: right after an upload, HEAD, GET and a range show the headers that
        S3 shows, no more and no fewer, and the bytes that were sent.
        """
        body = b"5\r\nhello\r\n0\r\n\r\n" * 10
        sets: tuple[tuple[Pair, ...], ...] = (
            (),
            ((b"Content-Type", b"application/x-odd; a=b"),),
            (
                (b"Content-Encoding", b"gzip"),
                (b"Content-Disposition", b"attachment"),
                (b"Cache-Control", b"max-age=1"),
                (b"x-amz-meta-colour", b"blue"),
            ),
        )
        for number, headers in enumerate(sets):
            key = b"written-%d" % number
            with self.stage.connect() as client:
                self.assertEqual(self.put(client, key, body, headers).status, 200)
            shown: dict[bytes, RawResponse] = {method: self.stage.ask(method, key) for method in (b"HEAD", b"GET")}
            truth = _direct(self.stage, key)
            self.assertEqual(shown[b"GET"].body, body)
            self.assertEqual(self.get(key, (b"Range", b"bytes=3-8")).body, body[3:9])
            for answer in shown.values():
                self.assertEqual(_of_the_object(answer), _of_the_object(truth))


def _direct(stage: Stage, key: bytes) -> RawResponse:
    """What S3 itself answers to a GET."""
    with RawClient("127.0.0.1", stage.fake.port) as client:
        client.send(stage.request(b"GET", key))
        return client.read_response()


def _of_the_object(answer: RawResponse) -> list[Pair]:
    """The fields of an answer that belong to the object."""
    others = {
        b"date",
        b"server",
        b"connection",
        b"x-amz-id-2",
        b"x-amz-request-id",
        b"x-cache",
        b"cache-status",
        b"age",
    }
    return sorted((name.lower(), value) for name, value in answer.headers if name.lower() not in others)


class AlwaysAskComparisons(ComparisonCase):
    """TTL 0: S3 decides about every reader."""

    config = {"cache": {"get_ttl": "0s", "head_ttl": "0s"}}

    def test_x09_unchanged_object(self) -> None:
        """X-09: ten readers of an unchanged object are ten requests to S3, and one transfer."""
        self.stage.put(b"key", 1, UNCHANGED)
        for _ in range(10):
            self.assertTrue(self.stage.read(b"key", 1, UNCHANGED).exact)
        asked = self.stage.fake.requests.of("GetObject", key=b"key")
        self.assertEqual([request.status for request in asked], [200] + [304] * 9)
        self.assertEqual(sum(request.body_sent for request in asked), UNCHANGED)

    def begin(self, credential: Credential) -> RawClient:
        """A client that has asked."""
        client = self.stage.connect(timeout=60)
        self.addCleanup(client.close)
        target = b"/%b/herd" % self.stage.bucket.encode()
        client.send(signed_request_bytes(b"GET", target, HOST, credential, payload=UNSIGNED))
        return client

    def herd(self, leader: Credential) -> None:
        """A hundred clients at once, half of whom S3 does not know."""
        size = 8 * MIB
        self.stage.put(b"herd", 3, size)
        script = self.stage.fake.script(Match(key=b"herd", operation="GetObject"), Action(hold=True))
        known = [self.stage.fake.credential, STRANGER]
        first = self.begin(leader)
        poll(lambda: script.held == 1, 10, "S3 to be asked")
        known.remove(leader)
        credentials = known + [self.stage.fake.credential, STRANGER] * (CLIENTS // 2 - 1)
        clients = [(leader, first), *((credential, self.begin(credential)) for credential in credentials)]
        in_flight = "s3proxy_http_requests_in_flight"
        poll(lambda: self.stage.proxy.metric(in_flight) == CLIENTS, 20, "all to have asked")
        script.release()

        def status(credential: Credential, client: RawClient) -> int:
            if credential is STRANGER:
                return client.read_response().status
            reading = self.stage.finish(client, 3, size)
            return reading.status if reading.exact else 0

        work: list[Callable[[], int]] = [partial(status, credential, client) for credential, client in clients]
        expected = [403 if credential is STRANGER else 200 for credential, _ in clients]
        self.assertEqual(at_once(work, 90), expected)
        self.assertLessEqual(self.stage.fake.requests.object_bytes(b"herd"), size * 101 // 100)

    def test_x10_half_of_a_herd_is_refused(self) -> None:
        """X-10: a hundred clients at once are one transfer; each of them is judged by S3, and who is not allowed to
        read gets 403.
        """
        self.herd(self.stage.fake.credential)

    def test_x10_led_by_a_stranger(self) -> None:
        """X-10: the same when the one who asks first is refused."""
        self.herd(STRANGER)
