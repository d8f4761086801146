"""Faults known from caches of this kind: wrong, short, foreign or wrongly described bytes.

The ids are those of the table in doc/faults.md.
"""

from test.gateway.model_case import ModelTestCase, signed
from test.gateway.test_read import BODY, ReadTestCase, error, ok
from test.support.content import checksum_text
from test.support.gateway import HOST, FakeClient, FakeResponse

from twisted.python.failure import Failure

from s3proxy.upstream.interfaces import UpstreamError, UpstreamUnreachable

LARGE = bytes(range(251)) * 800
CHECKSUM = (b"x-amz-checksum-crc32", checksum_text("crc32", [BODY]))


class ScopeTests(ModelTestCase):
    """What is said of a part of an object is not said of the object."""

    def setUp(self) -> None:
        super().setUp()
        self.s3.put(b"key", LARGE, parts=(100_000, 80_000, 20_800))

    def whole(self) -> None:
        """HEAD and GET tell of, and give, the whole object."""
        self.assertEqual(self.harness.head().length, len(LARGE))
        self.exactly(self.harness.get(), LARGE)
        self.assertEqual(self.harness.head().length, len(LARGE))

    def test_dc01_head_of_a_part_cold(self) -> None:
        """DC-01: the length that a HEAD with partNumber tells never becomes the object's, whatever comes first."""
        self.assertEqual(self.harness.head(b"/key?partNumber=3").length, 20_800)
        self.whole()

    def test_dc01_head_of_a_part_warm(self) -> None:
        """DC-01: the same when the object is cached, and again after it has expired."""
        self.exactly(self.harness.get(), LARGE)
        for _ in range(2):
            self.assertEqual(self.harness.head(b"/key?partNumber=1").length, 100_000)
            self.whole()
            self.later()

    def test_dc01_get_of_a_part(self) -> None:
        """DC-01: the same for a GET with partNumber."""
        client = self.harness.get(b"/key?partNumber=2")
        self.exactly(client, LARGE[100_000:180_000], 206)
        self.whole()

    def test_dc10_slice(self) -> None:
        """DC-10: a range inside of what is cached is cut out of it to the byte."""
        self.read_range(0, 1001)
        client = self.read_range(100, 201)
        self.exactly(client, LARGE[100:201], 206)
        self.assertEqual((client.length, client.header(b"content-range")), (101, b"bytes 100-200/%d" % len(LARGE)))
        self.is_hit(client)

    def test_dc17_part_without_known_bounds(self) -> None:
        """DC-17: a part is never guessed out of a whole object; it has its own bounds and the count of parts."""
        self.exactly(self.harness.get(), LARGE)
        for _ in range(2):
            client = self.harness.get(b"/key?partNumber=2")
            self.exactly(client, LARGE[100_000:180_000], 206)
            self.assertEqual(client.header(b"content-range"), b"bytes 100000-179999/%d" % len(LARGE))
            self.assertEqual(client.header(b"x-amz-mp-parts-count"), b"3")

    def test_dc29_range_is_not_the_object(self) -> None:
        """DC-29: bytes are filed where S3's Content-Range says; a cold range is not taken for the whole object."""
        self.exactly(self.read_range(0, 100), LARGE[:100], 206)
        self.exactly(self.harness.get(), LARGE)


class IdentityTests(ModelTestCase):
    """Different objects never share an entry, and one object has one entry only."""

    def both(self, first: dict[bytes, bytes], second: dict[bytes, bytes], target: bytes = b"/x/y") -> None:
        """Two endpoints hold different bytes under one path; both are read twice."""
        hosts = (first[b"Host"], second[b"Host"])
        bodies = dict(zip(hosts, (b"one", b"other")))
        self.harness.s3 = lambda request: ok(bodies[request.headers.get(b"host") or b""])
        for _ in range(2):
            for host in hosts:
                self.exactly(self.harness.send(b"GET", target, {b"Host": host}), bodies[host])
        self.assertEqual(len(self.upstream.asked), 2)

    def test_dc05_virtual_hosts(self) -> None:
        """DC-05: two virtual-hosted buckets of a store that is not Amazon's have equal paths and different bytes."""
        self.both({b"Host": b"a.store.example"}, {b"Host": b"b.store.example"})

    def test_dc06_ports(self) -> None:
        """DC-06: two stores on one machine differ by their port."""
        self.both({b"Host": b"s.example:9001"}, {b"Host": b"s.example:9002"}, b"/bucket/key")

    def test_dc07_access_points(self) -> None:
        """DC-07: an access point, one of the same name elsewhere, and a bucket of that name are three things."""
        region = b"name-123456789012.s3-accesspoint.%s.amazonaws.com"
        west, east = region % b"us-west-2", region % b"us-east-1"
        self.both({b"Host": west}, {b"Host": east})
        self.upstream.asked.clear()
        self.both(
            {b"Host": b"name-123456789012.s3.amazonaws.com"}, {b"Host": b"al.accesspoint.s3-global.amazonaws.com"}
        )

    def test_dc13_colons(self) -> None:
        """DC-13: keys that look like somebody's internal names are keys."""
        keys = [b"k", b"k:range:0-9", b"k:part:1", b"k:", b":k", b"k:head"]
        for number, key in enumerate(keys):
            self.s3.put(key, b"body %d" % number, b'"%d"' % number)
        for _ in range(2):
            for number, key in enumerate(keys):
                self.exactly(self.harness.get(b"/" + key), b"body %d" % number)
                self.exactly(self.read_range(0, 3, b"/" + key), b"bod", 206)
        self.assertEqual(len(self.upstream.asked), len(keys))

    def test_dc24_similar_keys(self) -> None:
        """DC-24: keys that are equal for a thousand bytes, differ in case only, or would share a file name."""
        keys = [b"p" * 1000 + b"a" * 24, b"p" * 1000 + b"a" * 23 + b"b", b"K", b"k", b"a:b", b"a b", b"a/b", b"a//b"]
        for number, key in enumerate(keys):
            self.s3.put(key, b"body %d" % number, b'"%d"' % number)
        for _ in range(2):
            for number, key in enumerate(keys):
                self.exactly(self.harness.get(b"/" + key.replace(b" ", b"%20")), b"body %d" % number)
        self.assertEqual(len(self.upstream.asked), len(keys))

    def test_dc25_spellings(self) -> None:
        """DC-25: what is written under one spelling of a key is not served stale under another."""
        for one, other in ((b"/~x", b"/%7Ex"), (b"/a/b", b"/a%2Fb"), (b"/%c3%a9", b"/%C3%A9")):
            key = {b"/~x": b"~x", b"/a/b": b"a/b", b"/%c3%a9": b"\xc3\xa9"}[one]
            self.s3.put(key, b"old")
            self.exactly(self.harness.get(one), b"old")
            self.is_hit(self.harness.get(other))
            self.s3.put(key, b"new", b'"v2"')
            self.assertEqual(self.harness.send(b"PUT", other).status, 200)
            self.exactly(self.harness.get(one), b"new", etag=b'"v2"')
            self.assertEqual(self.upstream.asked[-2].request.target, other)


class CompletenessTests(ReadTestCase):
    """Bodies that are not what was promised."""

    def test_dc04_cut_short(self) -> None:
        """DC-04: what S3 cut short is never served as complete; the next reader gets all of it."""
        body = LARGE * 3
        client = self.harness.get()
        response = self.asks(1).respond(ok(None, length=len(body)))
        response.sink.data_received(body[: len(body) // 3])
        response.sink.stream_failed(Failure(UpstreamError("reset", sent=True)))
        while client.ended is None:
            self.upstream.last.fail(UpstreamUnreachable("down"))
        self.assertEqual(client.ended, "aborted")
        again = self.harness.get()
        self.upstream.last.respond(ok(body))
        self.assertEqual((again.status, again.ended), (200, "finished"))
        self.assertTrue(again.answer == body)

    def test_dc11_errors_are_no_objects(self) -> None:
        """DC-11: the document of an error is not kept as the object, whatever its headers look like."""
        for number, status in enumerate((500, 503, 403, 404, 301, 203, 204)):
            client = self.harness.get(b"/%d" % status)
            answer = error(status, b"Some")
            answer.headers = answer.headers.adding((b"ETag", b'"v1"'))
            self.upstream.last.respond(answer)
            self.assertEqual((client.status, client.ended), (status, "finished"))
            client = self.harness.get(b"/%d" % status)
            self.asks(2 * number + 2).respond(ok())
            self.served(client, b"MISS")

    def test_dc21_unknown_length(self) -> None:
        """DC-21: a length that is not known is not zero: nothing is kept, and a range goes to S3 as it came."""
        client = self.harness.get()
        response = self.asks(1).respond(ok(None))
        response.sink.data_received(BODY)
        response.sink.stream_ended()
        self.assertEqual((client.answer, client.ended), (BODY, "finished"))
        self.harness.get(range=b"bytes=5-9")
        self.assertEqual(self.asks(2).header(b"range"), b"bytes=5-9")

    def test_dc21_empty_object(self) -> None:
        """DC-21: an object without bytes is one, for HEAD and GET, and a range of it can't be had."""
        client = self.harness.get()
        self.asks(1).respond(ok(b""))
        self.served(client, b"MISS", b"")
        self.served(self.harness.get(), b"HIT", b"")
        self.assertEqual(self.harness.head().length, 0)
        client = self.harness.get(range=b"bytes=0-0")
        if len(self.upstream.asked) == 2:
            self.upstream.last.respond(error(416, b"InvalidRange"))
        self.assertEqual(client.status, 416)


class PassThroughTests(ModelTestCase):
    """Reads that are not plain reads of the object leave its entry alone, and are not answered from it."""

    def passes(self, target: bytes, status: int = 200) -> bytes:
        """A GET that S3 answers by itself, with a body of its own; the body."""
        body = b"answer %d" % len(self.upstream.asked)
        self.harness.s3 = lambda request: ok(body, b'"another"')
        client = self.harness.get(target)
        self.harness.s3 = self.s3
        self.exactly(client, body, status)
        self.assertEqual(self.upstream.last.request.target, target)
        return body

    def plain(self, body: bytes = BODY) -> None:
        """A plain GET gives the object."""
        self.exactly(self.harness.get(), body, etag=b'"v1"')

    def setUp(self) -> None:
        super().setUp()
        self.s3.put(b"key", BODY)

    def test_dc14_versions(self) -> None:
        """DC-14: an older version that is asked for by its id is neither taken from the entry nor put into it."""
        for _ in range(2):
            self.passes(b"/key?versionId=v0")
            self.plain()
            self.passes(b"/key?versionId=v0")

    def test_dc15_unknown_parameters(self) -> None:
        """DC-15: a parameter that nobody knows may mean anything."""
        for query in (b"foo=bar", b"policy", b"cors", b"location", b"prefix=a", b"torrent", b"x-new-thing=1"):
            self.assertNotEqual(self.passes(b"/key?" + query), self.passes(b"/key?" + query))
            self.plain()

    def test_dc16_overridden_headers(self) -> None:
        """DC-16: headers that one request overrides are for that request only."""
        for name in (b"type", b"disposition", b"encoding", b"language"):
            target = b"/key?response-content-%s=x" % name
            self.passes(target)
            self.plain()
            self.passes(target)
        self.plain()

    def test_dc18_list_of_parts(self) -> None:
        """DC-18: partNumber beside uploadId is no read of the object."""
        for _ in range(2):
            self.passes(b"/key?partNumber=1&uploadId=x")
        self.plain()


class HeaderTests(ModelTestCase):
    """The headers of a hit are S3's."""

    def fields(self, client: FakeClient) -> list[tuple[bytes, bytes]]:
        """The answer's fields without those that differ by right between two answers."""
        own = {b"x-cache", b"cache-status", b"age", b"date", b"x-amz-request-id", b"accept-ranges"}
        return sorted(pair for pair in client.answer_headers if pair[0].lower() not in own)

    def test_dc26_checksum_of_the_whole(self) -> None:
        """DC-26: the checksum of the whole object does not go with a part of it."""
        self.s3.put(b"key", BODY, checksums=(CHECKSUM,))
        full = self.harness.get(x_amz_checksum_mode=b"ENABLED")
        self.assertEqual(full.header(CHECKSUM[0]), CHECKSUM[1])
        client = self.read_range(0, 100, x_amz_checksum_mode=b"ENABLED")
        self.exactly(client, BODY[:100], 206)
        self.is_hit(client)
        self.assertIsNone(client.header(CHECKSUM[0]))

    def test_dc27_type_of_the_checksum(self) -> None:
        """DC-27: a composite checksum comes with its type and suffix, byte for byte, also out of the cache."""
        fields = ((b"x-amz-checksum-crc32", b"AAAAAA==-3"), (b"x-amz-checksum-type", b"COMPOSITE"))
        self.s3.put(b"key", BODY, checksums=fields)
        for outcome in (b"MISS", b"HIT"):
            client = self.harness.get(x_amz_checksum_mode=b"ENABLED")
            self.served(client, outcome)
            self.assertEqual([client.header(name) for name, _ in fields], [value for _, value in fields])

    def test_dc28_checksums_that_were_not_asked_for(self) -> None:
        """DC-28: who asks for checksums gets them, although the entry was made by somebody who did not."""
        self.s3.put(b"key", BODY, checksums=(CHECKSUM,))
        self.assertIsNone(self.harness.get().header(CHECKSUM[0]))
        for _ in range(2):
            client = self.harness.get(x_amz_checksum_mode=b"ENABLED")
            self.exactly(client, BODY)
            self.assertEqual(client.header(CHECKSUM[0]), CHECKSUM[1])
        self.is_hit(client)

    def test_dc32_any_bytes(self) -> None:
        """DC-32: values that are not ASCII, and fields that come twice, stay as they are: to S3, from S3 and on a
        hit.
        """
        sent = [(b"Host", HOST), (b"x-amz-meta-a", b"gr\xc3\xbcn"), (b"X-Twice", b"2"), (b"x-twice", b"1")]
        answered = [
            (b"x-amz-meta-b", b"\xff\xfe"),
            (b"X-Amz-Meta-C", b"1"),
            (b"x-amz-meta-c", b"2"),
            (b"ETag", b'"v1"'),
        ]
        for outcome in (b"MISS", b"HIT"):
            client = FakeClient(b"GET", b"/key")
            client.headers = type(client.headers)(sent)
            response = ok()
            response.headers = type(client.headers)(answered)
            self.harness.gateway.handle(client)
            if outcome == b"MISS":
                self.upstream.last.respond(response)
            self.served(client, outcome)
            found = [pair for pair in client.answer_headers if pair in answered]
            self.assertEqual(found, answered)
        self.assertEqual([pair for pair in self.asks(1).request.headers if pair in sent], sent)

    def test_dc33_encoded_content(self) -> None:
        """DC-33: Content-Encoding describes the object; nobody decodes it, whatever the client accepts."""
        body = b"\x1f\x8b\x08\x00 not really"
        self.s3.put(b"key", body, headers=((b"Content-Encoding", b"gzip"), (b"Content-Type", b"text/plain")))
        accepted: tuple[dict[str, bytes], ...] = ({}, {"accept_encoding": b"identity"}, {"accept_encoding": b"gzip"})
        clients = [self.harness.get(**headers) for headers in accepted]
        for client in clients:
            self.exactly(client, body)
            self.assertEqual(self.fields(client), self.fields(clients[0]))
            self.assertEqual(client.header(b"content-encoding"), b"gzip")

    def test_hit_has_all_headers(self) -> None:
        """DC-28, DC-32: a hit has every field that S3 sent with the object, known or not, and none that it did not."""
        headers = (
            (b"Content-Type", b"a/b"),
            (b"Cache-Control", b"max-age=5"),
            (b"Content-Disposition", b"attachment"),
            (b"x-amz-version-id", b"v"),
            (b"x-amz-server-side-encryption", b"aws:kms"),
            (b"x-amz-storage-class", b"STANDARD_IA"),
            (b"x-amz-meta-colour", b"blue"),
            (b"x-amz-invented-tomorrow", b"yes"),
        )
        self.s3.put(b"key", BODY, headers=headers)
        miss, hit = self.harness.get(), self.harness.get()
        self.is_hit(hit)
        self.assertEqual(self.fields(miss), self.fields(hit))
        head = self.harness.head()
        self.is_hit(head)
        self.assertEqual(self.fields(miss), self.fields(head))


class DiskTests(ModelTestCase):
    """What is on disk is given back as it was, or not at all."""

    def test_dc08_every_tier(self) -> None:
        """DC-08: the bytes are the same on a miss, from memory and from disk, whatever the name of the object."""
        for key in (b"a.zip", b"a.txt", b"b.zip", b"b.txt"):
            body = LARGE if key.startswith(b"b") else BODY
            self.s3.put(key, body)
            for _ in range(4):
                self.exactly(self.harness.get(b"/" + key), body)
            self.restart()
            for _ in range(2):
                client = self.harness.get(b"/" + key)
                self.exactly(client, body)
                self.is_hit(client)

    def test_dc09_other_settings(self) -> None:
        """DC-09: what one configuration stored is read exactly under another."""
        bodies = {b"/empty": b"", b"/small": BODY, b"/large": LARGE}
        for settings in ({}, {"small_object_bytes": 0}, {"small_object_bytes": 1 << 20}, {"ram_cache_enabled": False}):
            self.restart(**settings)
            for target, body in bodies.items():
                self.s3.put(target[1:], body)
                self.exactly(self.harness.get(target), body)
                self.s3.put(target[1:] + b"/part", LARGE)
                self.exactly(self.read_range(10, 20, target + b"/part"), LARGE[10:20], 206)
        self.assertEqual(len(self.upstream.asked), 2 * len(bodies))

    def test_dc23_damaged_entry(self) -> None:
        """DC-23: an entry of which one bit is wrong, in its description or in a small body, is a miss, and the next
        answer mends it.
        """
        self.s3.put(b"key", BODY)
        self.harness.get()
        (path,) = self.files()
        for eighth in range(8):
            self.asks(1 + eighth)
            data = bytearray(path.read_bytes())
            data[len(data) * eighth // 8 + 7] ^= 1
            path.write_bytes(data)
            self.restart()
            self.exactly(self.harness.get(), BODY)
            client = self.harness.get()
            self.exactly(client, BODY)
            self.is_hit(client)

    def test_dc23_truncated_range(self) -> None:
        """DC-23: a file of a range that lost its end is a miss."""
        self.s3.put(b"key", LARGE)
        self.exactly(self.read_range(0, 150_000), LARGE[:150_000], 206)
        path = max(self.files(), key=lambda path: path.stat().st_size)
        path.write_bytes(path.read_bytes()[:100_000])
        self.restart()
        self.exactly(self.read_range(90_000, 120_000), LARGE[90_000:120_000], 206)
        self.exactly(self.read_range(0, 150_000), LARGE[:150_000], 206)

    def test_dc36_unknown_format(self) -> None:
        """DC-36: an entry that another release wrote in a format of its own is not believed, and is replaced."""
        self.s3.put(b"key", BODY)
        self.harness.get()
        (path,) = self.files()
        data = path.read_bytes()
        for stranger in (b"", b"\x00" * len(data), b"FUTURE" + data[6:], data[:20]):
            path.write_bytes(stranger)
            self.restart()
            for _ in range(2):
                self.exactly(self.harness.get(), BODY)
        self.asks(5)


class WrittenTests(ModelTestCase):
    """What is read after a write."""

    def test_dc30_ranges_in_memory(self) -> None:
        """DC-30: an overwritten object leaves no range of its older version anywhere."""
        self.s3.put(b"key", LARGE)
        ranges = ((0, 100), (50_000, 60_000), (len(LARGE) - 5, len(LARGE)))
        for _ in range(3):
            for start, stop in ranges:
                self.exactly(self.read_range(start, stop), LARGE[start:stop], 206)
        new = LARGE[::-1]
        self.s3.put(b"key", new, b'"v2"')
        self.assertEqual(self.harness.send(b"PUT", b"/key").status, 200)
        for start, stop in ranges:
            self.exactly(self.read_range(start, stop), new[start:stop], 206, b'"v2"')

    def test_dc02_dc03_dc31_other_writes(self) -> None:
        """DC-02, DC-03, DC-31: what a copy, a sub-resource or an append carries is never taken for the object."""
        self.s3.put(b"key", BODY)
        for target, headers in (
            (b"/key", {b"x-amz-copy-source": b"/bucket/other"}),
            (b"/key?tagging", {}),
            (b"/key?acl", {}),
            (b"/key?retention", {}),
            (b"/key?legal-hold", {}),
            (b"/key", {b"x-amz-write-offset-bytes": b"1024"}),
        ):
            self.exactly(self.harness.get(), BODY)
            self.harness.send(b"PUT", target, {**headers, b"Authorization": signed()}, None)
            client = self.harness.get()
            self.exactly(client, BODY, etag=b'"v1"')
            self.assertEqual(client.header(b"x-cache"), b"MISS")
            self.assertEqual(self.harness.head().length, len(BODY))

    def test_dc12_form(self) -> None:
        """DC-12: the envelope of a form upload is not the object."""
        self.s3.put(b"key", BODY)
        self.exactly(self.harness.get(), BODY)
        boundary = b"x" * 20
        form = b'--%b\r\nContent-Disposition: form-data; name="key"\r\n\r\nkey\r\n--%b--\r\n' % (boundary, boundary)
        self.harness.s3 = None
        client = self.harness.send(b"POST", b"/", {b"Content-Type": b"multipart/form-data; boundary=" + boundary}, form)
        source = self.upstream.last.request.body
        assert source is not None
        source.start(_Nowhere())
        client.body.sink.data_received(form)
        client.body.sink.stream_ended()
        self.upstream.last.respond(FakeResponse(204))
        self.harness.s3 = self.s3
        self.exactly(self.harness.get(), BODY, etag=b'"v1"')


class _Nowhere:
    def data_received(self, data: bytes) -> None:
        """Nobody looks."""

    def stream_ended(self) -> None:
        """Nobody waits."""

    def stream_failed(self, reason: Failure) -> None:
        """Nobody minds."""
