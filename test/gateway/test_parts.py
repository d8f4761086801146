"""GET and HEAD of single parts, by number, through the cache."""

from test.gateway.test_read import ReadTestCase, error, not_modified, ok, part
from test.support.gateway import FakeClient, FakeResponse, GatewayHarness
from test.support.streams import ManualThread

from twisted.python.failure import Failure

from s3proxy.cache.entry import ObjectId, ObjectVersion
from s3proxy.policy.cacheability import Storable, judge_answer
from s3proxy.s3.ranges import FromTo, parse_range
from s3proxy.upstream.interfaces import UpstreamUnreachable

SIZES = (50_000, 70_001, 10)
SIZE = sum(SIZES)
BODY = (bytes(range(256)) * (SIZE // 256 + 1))[:SIZE]
DATE = b"Wed, 21 Oct 2015 07:28:00 GMT"
ETAG = b'"0123456789abcdef0123456789abcdef-3"'
CRC = b"x-amz-checksum-crc32"


def bounds(number: int) -> tuple[int, int]:
    """Where a part is."""
    start = sum(SIZES[: number - 1])
    return (start, start + SIZES[number - 1])


def target(number: object) -> bytes:
    """The target of a part."""
    return f"/key?partNumber={number}".encode()


def answer(
    number: int, *, head: bool = False, etag: bytes = ETAG, body: bytes = BODY, deliver: bool = True, **headers: bytes
) -> FakeResponse:
    """S3's answer about a part, and after the object was overwritten (``body``) the same of that."""
    start, stop = bounds(number)
    fields = {
        b"ETag": etag,
        b"Last-Modified": DATE,
        b"Content-Type": b"text/plain",
        b"Content-Range": b"bytes %d-%d/%d" % (start, stop - 1, len(body)),
        b"x-amz-mp-parts-count": b"3",
        b"x-amz-meta-colour": b"green",
        b"x-amz-request-id": b"S3REQUEST",
    }
    fields.update({name.replace("_", "-").encode(): value for name, value in headers.items()})
    if head:
        return FakeResponse(206, fields, b"", length=0, claimed=stop - start)
    return FakeResponse(206, fields, body[start:stop] if deliver else None, stop - start)


def whole(body: bytes = BODY, **headers: bytes) -> FakeResponse:
    """S3's answer about the object."""
    return ok(body, ETAG, x_amz_meta_colour=b"green", **headers)


def span(start: int, stop: int) -> FakeResponse:
    """S3's answer about a range."""
    response = part(start, stop, BODY, ETAG)
    response.headers = response.headers.adding((b"Last-Modified", DATE), (b"x-amz-meta-colour", b"green"))
    return response


def described(size: int = SIZE, **headers: bytes) -> FakeResponse:
    """S3's answer to a HEAD of the object."""
    response = whole(b"", **headers)
    response.length, response.claimed_length = 0, size
    return response


class PartTestCase(ReadTestCase):
    """A harness, and an object that was uploaded in three parts."""

    def learn(self, *numbers: int) -> None:
        """Have these parts in the cache."""
        for number in numbers:
            client = self.harness.get(target(number))
            self.upstream.last.respond(answer(number))
            self.assertEqual(client.answer, BODY[slice(*bounds(number))])
        self.upstream.asked.clear()

    def got(self, client: FakeClient, outcome: bytes, number: int) -> None:
        """The client got exactly this part, with what describes it."""
        start, stop = bounds(number)
        self.assertEqual((client.status, client.ended), (206, "finished"))
        self.assertEqual(client.length, stop - start)
        self.assertEqual(client.answer, b"" if client.method == b"HEAD" else BODY[start:stop])
        for name, value in (
            (b"x-cache", outcome),
            (b"content-range", b"bytes %d-%d/%d" % (start, stop - 1, SIZE)),
            (b"x-amz-mp-parts-count", b"3"),
            (b"etag", ETAG),
            (b"last-modified", DATE),
            (b"content-type", b"text/plain"),
            (b"x-amz-meta-colour", b"green"),
        ):
            self.assertEqual(client.answer_headers.get_all(name), (value,), name)

    def not_asked(self) -> None:
        """S3 knows nothing of it."""
        self.assertEqual(self.upstream.asked, [])

    def object_is_right(self) -> None:
        """A HEAD and a GET of the object say and bring what S3 has; S3 answers if it is asked."""
        asked = len(self.upstream.asked)
        clients = (self.harness.head(), self.harness.get())
        for request in self.upstream.asked[asked:]:
            found = parse_range(request.header(b"range") or b"")
            if request.request.method == b"HEAD":
                request.respond(described())
            else:
                request.respond(span(found.first, found.last + 1) if isinstance(found, FromTo) else whole())
        for client in clients:
            self.assertEqual((client.status, client.length), (200, SIZE))
            self.assertIsNone(client.header(b"content-range"))
            self.assertIsNone(client.header(b"x-amz-mp-parts-count"))
            self.assertIsNone(client.header(CRC))
        self.assertEqual(client.answer, BODY)


class ServingTests(PartTestCase):
    """What the cache answers, and what not."""

    def test_miss_then_hits(self) -> None:
        """The first read of a part is S3's answer; then its GET and its HEAD are hits."""
        client = self.harness.get(target(2))
        self.assertEqual(self.asks(1).request.target, target(2))
        self.upstream.last.respond(answer(2))
        self.got(client, b"MISS", 2)
        self.assertEqual(client.header(b"x-amz-request-id"), b"S3REQUEST")
        self.harness.clock.advance(7)
        for client in (self.harness.get(target(2)), self.harness.head(target(2))):
            self.got(client, b"HIT", 2)
            self.assertEqual(client.header(b"age"), b"7")
            self.assertEqual(client.header(b"accept-ranges"), b"bytes")
            self.assertNotEqual(client.header(b"x-amz-request-id"), b"S3REQUEST")
        self.asks(1)
        self.assertEqual(
            [(record.operation, record.served_range, record.outcome) for record in self.harness.records],
            [
                ("GetObjectPart", "bytes=50000-120000", "MISS"),
                ("GetObjectPart", "bytes=50000-120000", "HIT"),
                ("HeadObjectPart", "bytes=50000-120000", "HIT"),
            ],
        )

    def test_rg21_parts_of_different_sizes(self) -> None:
        """Every part is served from where S3 said it is, in whatever order they came."""
        self.learn(3, 1, 2)
        for number in (1, 2, 3):
            self.got(self.harness.get(target(number)), b"HIT", number)
        self.not_asked()

    def test_parts_are_bytes_of_the_object(self) -> None:
        """What parts brought serves ranges and, once it is everything, the object; and the other way round."""
        self.learn(2)
        self.served(self.harness.get(range=b"bytes=60000-60009"), b"HIT", BODY[60_000:60_010], 206)
        self.learn(1, 3)
        client = self.harness.get()
        self.served(client, b"HIT", BODY)
        self.assertIsNone(client.header(b"x-amz-mp-parts-count"))
        self.not_asked()

    def test_dc17_unknown_part_of_a_cached_object(self) -> None:
        """Where a part is only S3 knows, although all its bytes are here."""
        self.cached_object()
        client = self.harness.get(target(2))
        self.asks(1).respond(answer(2))
        self.got(client, b"MISS", 2)
        self.got(self.harness.get(target(2)), b"HIT", 2)
        self.asks(1)
        self.served(self.harness.get(), b"HIT", BODY)

    def test_part_of_a_small_object(self) -> None:
        """The same when the object is so small that its entry holds it."""
        client = self.harness.get()
        self.upstream.last.respond(ok(b"0123456789", ETAG))
        self.upstream.asked.clear()
        tiny = FakeResponse(206, {b"ETag": ETAG, b"Content-Range": b"bytes 2-5/10"}, b"2345")
        client = self.harness.get(target(1))
        self.asks(1).respond(tiny)
        self.served(client, b"MISS", b"2345", 206)
        self.served(self.harness.get(target(1)), b"HIT", b"2345", 206)
        self.served(self.harness.get(), b"HIT", b"0123456789")
        self.harness.open()
        self.served(self.harness.get(target(1)), b"HIT", b"2345", 206)
        self.asks(1)

    def cached_object(self) -> None:
        """Have the whole object in the cache."""
        self.harness.get()
        self.upstream.last.respond(whole())
        self.upstream.asked.clear()

    def test_unknown_parts_are_forwarded(self) -> None:
        """A part that is not known, or does not exist, is S3's to answer; the entry stays."""
        self.learn(1)
        for count, number in enumerate((4, 10_000), 1):
            client = self.harness.get(target(number))
            self.asks(count).respond(error(416, b"InvalidPartNumber"))
            self.served(client, b"BYPASS", b"<Error><Code>InvalidPartNumber</Code></Error>", 416)
        self.got(self.harness.get(target(1)), b"HIT", 1)

    def test_no_numbers(self) -> None:
        """What is no part's number is passed through, whatever S3 makes of it."""
        self.learn(1)
        for count, number in enumerate((0, -1, 10_001, "x", "", "1&partNumber=2", "1&versionId=v", "1&a"), 1):
            for method in (b"GET", b"HEAD"):
                client = self.harness.send(method, target(number))
                self.upstream.last.respond(answer(1, head=method == b"HEAD"))
                self.assertEqual(client.header(b"x-cache"), b"BYPASS")
            self.asks(2 * count)

    def test_x18_part_and_range(self) -> None:
        """S3 refuses both together; so does nobody else."""
        self.learn(1)
        for count, name in enumerate((b"Range", b"If-Range"), 1):
            client = self.harness.send(b"GET", target(1), {name: b"bytes=0-9"})
            self.asks(count).respond(error(400, b"InvalidRequest"))
            self.served(client, b"BYPASS", b"<Error><Code>InvalidRequest</Code></Error>", 400)
            self.assertEqual(self.upstream.last.header(name.lower()), b"bytes=0-9")

    def test_dc18_parts_of_an_upload(self) -> None:
        """With an uploadId it is a listing, which is never kept."""
        for count in (1, 2):
            client = self.harness.get(b"/key?partNumber=1&uploadId=x")
            self.asks(count).respond(FakeResponse(200, {b"ETag": b'"x"'}, b"<ListPartsResult/>"))
            self.served(client, b"BYPASS", b"<ListPartsResult/>")

    def test_object_that_was_not_uploaded_in_parts(self) -> None:
        """It is its own first part, and S3 counts none."""
        client = self.harness.get(target(1))
        self.asks(1).respond(part(0, 10, BODY[:10]))
        self.served(client, b"MISS", BODY[:10], 206)
        client = self.harness.get(target(1))
        self.served(client, b"HIT", BODY[:10], 206)
        self.assertEqual(client.header(b"content-range"), b"bytes 0-9/10")
        self.assertIsNone(client.header(b"x-amz-mp-parts-count"))
        self.served(self.harness.get(), b"HIT", BODY[:10])

    def test_store_that_does_not_say_which_bytes(self) -> None:
        """A 200 to a part's number holds the object or the part, depending on the store: it is passed on, no more."""
        for count, body in enumerate((BODY, BODY[:50_000]), 1):
            client = self.harness.get(target(1))
            self.asks(count).respond(whole(body, x_amz_mp_parts_count=b"3"))
            self.served(client, b"MISS", body)
        client = self.harness.head(target(1))
        self.asks(3).respond(described(50_000, x_amz_mp_parts_count=b"3"))
        self.assertEqual(client.length, 50_000)
        self.object_is_right()
        self.asks(5)

    def test_rg24_no_or_wrong_content_range(self) -> None:
        """Neither is kept what does not say where it belongs, or contradicts itself."""
        for count, value in enumerate((b"", b"bytes 0-49999/*", b"bytes 0-9/120011", b"bytes 50000-0/120011"), 1):
            client = self.harness.get(target(1))
            self.asks(2 * count - 1).respond(answer(1, Content_Range=value))
            self.assertEqual(client.answer, BODY[:50_000])
            client = self.harness.head(target(1))
            self.asks(2 * count).respond(answer(1, head=True, Content_Range=value))
        self.object_is_right()

    def test_client_directives(self) -> None:
        """no-store passes through; no-cache asks S3 and keeps what it says."""
        self.learn(1)
        client = self.harness.get(target(1), cache_control=b"no-store")
        self.asks(1).respond(answer(1))
        self.got(client, b"BYPASS", 1)
        client = self.harness.get(target(2), cache_control=b"no-cache")
        self.asks(2).respond(answer(2))
        self.got(client, b"MISS", 2)
        self.got(self.harness.get(target(2)), b"HIT", 2)

    def test_js_client(self) -> None:
        """An API name in the query, and any spelling of it, change nothing."""
        self.learn(2)
        self.got(self.harness.get(b"/key?partNumber=2&x-id=GetObject"), b"HIT", 2)
        self.got(self.harness.get(b"/key?x-id=GetObject&%70artNumber=02"), b"HIT", 2)
        self.not_asked()


class ObjectTests(PartTestCase):
    """What an answer about a part says of the object: which version it is, and nothing else."""

    def test_dc01_head_of_a_part_comes_first(self) -> None:
        """HEAD of a part, then HEAD and GET of the object: its length and its bytes."""
        client = self.harness.head(target(3))
        self.asks(1).respond(answer(3, head=True))
        self.got(client, b"MISS", 3)
        self.object_is_right()
        self.asks(3)

    def test_dc01_get_of_a_part_comes_first(self) -> None:
        """GET of a part, then HEAD and GET of the object: its length and its bytes, and no checksum of the part."""
        self.harness.get(target(3), x_amz_checksum_mode=b"ENABLED")
        self.asks(1).respond(answer(3, x_amz_checksum_crc32=b"PART"))
        self.object_is_right()

    def test_description_stays(self) -> None:
        """A part's answer does not replace what is known of the object, even if it says something else."""
        self.harness.head()
        self.upstream.last.respond(described(Content_Type=b"image/png", x_amz_checksum_crc32=b"OBJECT"))
        self.learn(1)
        self.harness.head(target(2))
        self.upstream.last.respond(answer(2, head=True))
        self.upstream.asked.clear()
        for client in (self.harness.get(target(1)), self.harness.head(target(2)), self.harness.head()):
            self.assertEqual(client.header(b"content-type"), b"image/png")
        self.not_asked()

    def test_other_version_replaces(self) -> None:
        """A part of another version than the cache holds: that one is over."""
        newer = BODY[::-1] + b"more"
        for method in (b"GET", b"HEAD"):
            self.learn(1, 2)
            client = self.harness.send(method, target(3))
            self.asks(1).respond(answer(3, head=method == b"HEAD", etag=b'"v2-3"', body=newer))
            self.assertEqual(client.header(b"etag"), b'"v2-3"')
            client = self.harness.get(target(1))
            self.asks(2).respond(answer(1, etag=b'"v2-3"', body=newer))
            self.assertEqual(client.answer, newer[:50_000])
            client = self.harness.get(target(2))
            self.asks(3).respond(answer(2))
            self.assertEqual(client.answer, BODY[50_000:120_001])
            self.harness.send(b"DELETE", b"/key")
            self.upstream.last.respond(FakeResponse(204))
            self.upstream.asked.clear()

    def test_written_again_under_other_metadata(self) -> None:
        """The same bytes at another time: the entry's description is old, and a part is no new one."""
        self.learn(1)
        self.harness.clock.advance(50)
        self.harness.get(target(2))
        self.harness.head(target(3))
        later = b"Thu, 22 Oct 2015 07:28:00 GMT"
        self.upstream.asked[0].respond(answer(2, Last_Modified=later))
        self.upstream.asked[1].respond(answer(3, head=True, Last_Modified=later))
        self.harness.clock.advance(20)
        self.harness.get(target(1))
        self.assertEqual(self.asks(3).header(b"if-none-match"), ETAG)


class FreshnessTests(PartTestCase):
    """The one gate, and the caller's own question."""

    def test_renewed_with_a_304(self) -> None:
        """A stale part is confirmed without a body; what is known of parts survives."""
        self.learn(1, 2)
        for round in (1, 2):
            self.harness.clock.advance(61)
            client = self.harness.get(target(2))
            self.assertEqual(self.asks(round).header(b"if-none-match"), ETAG)
            self.upstream.last.respond(not_modified(ETAG))
            self.got(client, b"REVALIDATED", 2)
            self.got(self.harness.get(target(1)), b"HIT", 1)
        self.harness.clock.advance(61)
        client = self.harness.head(target(1))
        self.assertEqual(self.asks(3).header(b"if-none-match"), ETAG)
        self.upstream.last.respond(not_modified(ETAG))
        self.got(client, b"REVALIDATED", 1)

    def test_unknown_part_confirms(self) -> None:
        """S3's answer about a part, bytes or none, shows that the entry is current."""
        self.learn(1)
        self.harness.clock.advance(50)
        self.harness.get(target(2))
        self.asks(1).respond(answer(2))
        self.harness.clock.advance(50)
        self.got(self.harness.get(target(1)), b"HIT", 1)
        client = self.harness.head(target(3))
        self.assertIsNone(self.asks(2).header(b"if-none-match"))
        self.upstream.last.respond(answer(3, head=True))
        self.got(client, b"MISS", 3)
        self.harness.clock.advance(50)
        self.got(self.harness.get(target(1)), b"HIT", 1)
        self.got(self.harness.head(target(3)), b"HIT", 3)
        self.asks(2)

    def test_changed_meanwhile(self) -> None:
        """The newer version comes instead of a 304, and nothing of the older one is left."""
        self.learn(1, 2)
        self.harness.clock.advance(61)
        newer = BODY[::-1]
        client = self.harness.get(target(2))
        self.asks(1).respond(answer(2, etag=b'"v2-3"', body=newer))
        self.assertEqual((client.status, client.answer), (206, newer[50_000:120_001]))
        self.harness.get(target(1))
        self.asks(2).respond(answer(1, etag=b'"v2-3"', body=newer))
        client = self.harness.get(target(2))
        self.served(client, b"HIT", newer[50_000:120_001], 206)
        self.assertEqual(client.header(b"etag"), b'"v2-3"')

    def test_refused(self) -> None:
        """A caller whom S3 refuses gets no byte; the entry stays for the others."""
        self.learn(1)
        self.harness.clock.advance(61)
        client = self.harness.get(target(1))
        self.asks(1).respond(error(403, b"AccessDenied"))
        self.served(client, b"BYPASS", b"<Error><Code>AccessDenied</Code></Error>", 403)
        client = self.harness.get(target(1))
        self.asks(2).respond(not_modified(ETAG))
        self.got(client, b"REVALIDATED", 1)

    def test_gone(self) -> None:
        """A 404 ends the entry."""
        self.learn(1)
        self.harness.clock.advance(61)
        self.harness.head(target(1))
        self.asks(1).respond(error(404, b"NoSuchKey"))
        self.harness.get(target(1))
        self.assertIsNone(self.asks(2).header(b"if-none-match"))

    def test_written_through(self) -> None:
        """A write through the proxy ends what is known of parts."""
        self.harness.head(target(2))
        self.upstream.last.respond(answer(2, head=True))
        self.assertEqual(len(self.harness.cache._parts), 1)
        self.harness.send(b"DELETE", b"/key")
        self.upstream.last.respond(FakeResponse(204))
        self.assertEqual(len(self.harness.cache._parts), 0)
        self.learn(1)
        self.harness.send(b"DELETE", b"/key")
        self.upstream.last.respond(FakeResponse(204))
        client = self.harness.get(target(1))
        self.assertIsNone(self.asks(2).header(b"if-none-match"))
        self.upstream.last.respond(error(404, b"NoSuchKey"))
        self.assertEqual(client.status, 404)


class AlwaysAskTests(PartTestCase):
    """TTL 0."""

    settings = {"get_ttl": 0.0, "head_ttl": 0.0}

    def test_x18_every_caller_is_asked_about(self) -> None:
        """S3 says whether this caller may have the part; the bytes come once."""
        self.learn(1)
        for count, method in enumerate((b"GET", b"HEAD", b"GET"), 1):
            client = self.harness.send(method, target(1))
            self.assertEqual(self.asks(count).header(b"if-none-match"), ETAG)
            self.upstream.last.respond(not_modified(ETAG))
            self.got(client, b"REVALIDATED", 1)
        client = self.harness.get(target(1))
        self.asks(4).respond(error(403, b"AccessDenied"))
        self.assertEqual(client.status, 403)


class ConditionTests(PartTestCase):
    """The client's own conditions."""

    def test_judged_from_a_fresh_entry(self) -> None:
        """As for any other read."""
        self.learn(1)
        for method in (b"GET", b"HEAD"):
            client = self.harness.send(method, target(1), {b"If-None-Match": ETAG})
            self.assertEqual((client.status, client.answer, client.ended), (304, b"", "finished"))
            self.assertIsNone(client.header(b"content-range"))
            self.got(self.harness.send(method, target(1), {b"If-Match": ETAG}), b"HIT", 1)
            self.got(self.harness.send(method, target(1), {b"If-None-Match": b'"other"'}), b"HIT", 1)
            self.got(
                self.harness.send(method, target(1), {b"If-Modified-Since": b"Tue, 20 Oct 2015 07:28:00 GMT"}),
                b"HIT",
                1,
            )
        self.not_asked()

    def test_only_s3_refuses(self) -> None:
        """A failed precondition is S3's to tell."""
        self.learn(1)
        client = self.harness.get(target(1), if_match=b'"other"')
        self.assertEqual(self.asks(1).header(b"if-match"), b'"other"')
        self.upstream.last.respond(error(412, b"PreconditionFailed"))
        self.assertEqual(client.status, 412)
        self.got(self.harness.get(target(1)), b"HIT", 1)

    def test_unknown_part(self) -> None:
        """Whether a condition or the part's number counts first is S3's to tell, too."""
        self.learn(1)
        client = self.harness.get(target(9), if_none_match=ETAG)
        self.assertEqual(self.asks(1).header(b"if-none-match"), ETAG)
        self.upstream.last.respond(error(416, b"InvalidPartNumber"))
        self.assertEqual(client.status, 416)

    def test_owner_of_the_bucket(self) -> None:
        """Only S3 can tell whose the bucket is."""
        self.learn(1)
        client = self.harness.get(target(1), x_amz_expected_bucket_owner=b"123456789012")
        self.asks(1).respond(not_modified(ETAG))
        self.got(client, b"REVALIDATED", 1)


class ChecksumTests(PartTestCase):
    """Checksums of a part are the part's."""

    def test_sent_to_those_who_ask(self) -> None:
        """S3 is asked for them once; those who do not ask get none."""
        self.learn(1)
        for count, head in ((1, False), (1, True)):
            client = self.harness.send(b"HEAD" if head else b"GET", target(1), {b"x-amz-checksum-mode": b"ENABLED"})
            if not head:
                self.assertIsNone(self.asks(1).header(b"if-none-match"))
                self.upstream.last.respond(answer(1, x_amz_checksum_crc32=b"PART", x_amz_checksum_type=b"COMPOSITE"))
            self.asks(count)
            self.got(client, b"HIT" if head else b"MISS", 1)
            self.assertEqual(client.answer_headers.get_all(CRC), (b"PART",))
            self.assertEqual(client.answer_headers.get_all(b"x-amz-checksum-type"), (b"COMPOSITE",))
        client = self.harness.get(target(1))
        self.got(client, b"HIT", 1)
        self.assertIsNone(client.header(CRC))
        self.harness.open()
        client = self.harness.get(target(1), x_amz_checksum_mode=b"enabled")
        self.got(client, b"HIT", 1)
        self.assertEqual(client.header(CRC), b"PART")
        self.asks(1)

    def test_part_without_checksums(self) -> None:
        """That S3 states none is known, too: SDKs ask for them with every read."""
        client = self.harness.get(target(1), x_amz_checksum_mode=b"ENABLED")
        self.asks(1).respond(answer(1))
        client = self.harness.get(target(1), x_amz_checksum_mode=b"ENABLED")
        self.got(client, b"HIT", 1)
        self.asks(1)

    def test_dc26_never_those_of_the_object(self) -> None:
        """A part does not get the object's checksums, nor the object the part's."""
        client = self.harness.get(x_amz_checksum_mode=b"ENABLED")
        self.asks(1).respond(whole(x_amz_checksum_crc32=b"OBJECT-3", x_amz_checksum_type=b"COMPOSITE"))
        client = self.harness.get(target(1), x_amz_checksum_mode=b"ENABLED")
        self.asks(2).respond(answer(1, x_amz_checksum_crc32=b"PART"))
        self.assertEqual(client.answer_headers.get_all(CRC), (b"PART",))
        for _ in range(2):
            client = self.harness.get(target(1), x_amz_checksum_mode=b"ENABLED")
            self.got(client, b"HIT", 1)
            self.assertEqual(client.answer_headers.get_all(CRC), (b"PART",))
            client = self.harness.get(x_amz_checksum_mode=b"ENABLED")
            self.served(client, b"HIT", BODY)
            self.assertEqual(client.answer_headers.get_all(CRC), (b"OBJECT-3",))
            self.harness.open()

    def test_object_known_by_a_part_only(self) -> None:
        """Its checksums are not known, whatever the part's answer had."""
        self.harness.get(target(1), x_amz_checksum_mode=b"ENABLED")
        self.asks(1).respond(answer(1, x_amz_checksum_crc32=b"PART"))
        client = self.harness.head(x_amz_checksum_mode=b"ENABLED")
        self.asks(2).respond(described(x_amz_checksum_crc32=b"OBJECT"))
        self.assertEqual(client.header(CRC), b"OBJECT")
        self.assertEqual(self.harness.head(x_amz_checksum_mode=b"ENABLED").header(CRC), b"OBJECT")
        self.got(self.harness.get(target(1)), b"HIT", 1)
        self.asks(2)

    def test_unasked_checksums_are_not_replayed(self) -> None:
        """A store that sends them to everybody does not decide what others get."""
        self.harness.get(target(1))
        self.asks(1).respond(answer(1, x_amz_checksum_crc32=b"PART"))
        client = self.harness.get(target(1))
        self.got(client, b"HIT", 1)
        self.assertIsNone(client.header(CRC))
        self.harness.get(target(1), x_amz_checksum_mode=b"ENABLED")
        self.asks(2)


class SharingTests(PartTestCase):
    """Several clients at once."""

    def test_one_body_for_all(self) -> None:
        """Twenty clients of a cold part are one request; late ones get at once what is there."""
        clients = [self.harness.get(target(2)) for _ in range(10)]
        response = self.asks(1).respond(answer(2, deliver=False))
        self.asks(1)
        clients += [self.harness.get(target(2)) for _ in range(10)]
        start, stop = bounds(2)
        response.sink.data_received(BODY[start : start + 100])
        self.assertEqual({client.answer for client in clients}, {BODY[start : start + 100]})
        response.sink.data_received(BODY[start + 100 : stop])
        response.sink.stream_ended()
        self.got(clients[0], b"MISS", 2)
        for client in clients[1:]:
            self.got(client, b"COALESCED", 2)
        self.asks(1)

    def test_different_parts(self) -> None:
        """Each part is its own request, and all of them are known afterwards."""
        clients = {number: self.harness.get(target(number)) for number in (1, 2, 3)}
        responses = [self.upstream.asked[number - 1].respond(answer(number, deliver=False)) for number in (1, 2, 3)]
        for number, response in zip((1, 2, 3), responses):
            response.sink.data_received(BODY[slice(*bounds(number))])
            response.sink.stream_ended()
            self.got(clients[number], b"MISS", number)
        self.asks(3)
        for number in (1, 2, 3):
            self.got(self.harness.get(target(number)), b"HIT", number)
        self.asks(3)
        self.assertEqual(len(self.harness.cache._parts), 0, "all of it is on disk")

    def test_a_whole_body_is_on_its_way(self) -> None:
        """It is joined by those who want a part of which it is known where it is, and by nobody else."""
        self.learn(1)
        self.harness.head(target(2))
        self.upstream.last.respond(answer(2, head=True))
        self.upstream.asked.clear()
        first = self.harness.get(cache_control=b"no-cache")
        known, unknown = self.harness.get(target(2)), self.harness.get(target(3))
        self.assertEqual(self.asks(2).request.target, target(3))
        self.upstream.asked[0].respond(whole())
        self.upstream.asked[1].respond(answer(3))
        self.assertEqual(first.answer, BODY)
        self.got(known, b"COALESCED", 2)
        self.got(unknown, b"MISS", 3)
        self.asks(2)

    def test_leader_is_refused(self) -> None:
        """What S3 refuses one client is not refused to the others."""
        clients = [self.harness.get(target(1)) for _ in range(3)]
        self.asks(1).respond(error(403, b"AccessDenied"))
        self.assertEqual(clients[0].status, 403)
        for asked in self.upstream.asked[1:]:
            asked.respond(answer(1))
        for client in clients[1:]:
            self.assertEqual((client.status, client.answer), (206, BODY[:50_000]))

    def test_leader_leaves(self) -> None:
        """The body goes on for those who read it."""
        first, second = self.harness.get(target(2)), self.harness.get(target(2))
        response = self.asks(1).respond(answer(2, deliver=False))
        first.leave()
        response.sink.data_received(BODY[slice(*bounds(2))])
        response.sink.stream_ended()
        self.got(second, b"COALESCED", 2)

    def test_waiting_for_one_confirmation(self) -> None:
        """Many readers of a stale part are one question."""
        self.learn(1)
        self.harness.clock.advance(61)
        clients = [self.harness.get(target(1)) for _ in range(5)]
        self.asks(1).respond(not_modified(ETAG))
        self.got(clients[0], b"REVALIDATED", 1)
        for client in clients[1:]:
            self.got(client, b"COALESCED", 1)


class BrokenBodyTests(PartTestCase):
    """S3 breaks off in the middle of a part."""

    def broken(self, **headers: bytes) -> FakeClient:
        """A client that has 1000 bytes of part 2, of which no more comes."""
        client = self.harness.get(target(2), **headers)
        response = self.asks(1).respond(answer(2, deliver=False))
        response.sink.data_received(BODY[50_000:51_000])
        response.sink.stream_failed(Failure(UpstreamUnreachable("reset", sent=True)))
        return client

    def test_asked_for_again(self) -> None:
        """As the part it is, for S3 takes no Range beside a part's number; and of this version only."""
        client = self.broken()
        asked = self.asks(2)
        self.assertEqual(asked.request.target, target(2))
        self.assertIsNone(asked.header(b"range"))
        self.assertEqual(asked.header(b"if-match"), ETAG)
        asked.respond(answer(2))
        self.got(client, b"MISS", 2)
        self.got(self.harness.get(target(2)), b"HIT", 2)

    def test_of_another_version(self) -> None:
        """Two versions are never mixed: the answer is cut."""
        client = self.broken()
        self.asks(2).respond(answer(2, etag=b'"v2-3"', body=BODY[::-1]))
        self.assertEqual((client.answer, client.ended), (BODY[50_000:51_000], "aborted"))


class IncompletePartTests(PartTestCase):
    """A part of which the cache has some bytes."""

    settings = {"range_merge_gap_threshold": 0}

    def test_some_bytes_are_missing(self) -> None:
        """It is asked for as a whole, with the caller's own request."""
        self.harness.get(range=b"bytes=60000-60009")
        self.upstream.last.respond(span(60_000, 60_010))
        self.harness.head(target(2))
        self.upstream.last.respond(answer(2, head=True))
        self.got(self.harness.head(target(2)), b"HIT", 2)
        client = self.harness.get(target(2))
        self.assertEqual(self.asks(3).request.target, target(2))
        self.assertIsNone(self.upstream.last.header(b"range"))
        self.upstream.last.respond(answer(2))
        self.got(client, b"MISS", 2)
        self.got(self.harness.get(target(2)), b"HIT", 2)


class LastingTests(PartTestCase):
    """What is known of parts is kept with the entry."""

    def test_survives_a_restart(self) -> None:
        """Parts that came one after the other, and all at once."""
        self.learn(1)
        for number in (2, 3):
            self.harness.get(target(number))
        for number, asked in zip((2, 3), list(self.upstream.asked)):
            asked.respond(answer(number))
        self.upstream.asked.clear()
        self.harness.open()
        for number in (1, 2, 3):
            self.got(self.harness.get(target(number)), b"HIT", number)
        self.not_asked()

    def test_survives_renewals_and_new_descriptions(self) -> None:
        """A 304, a HEAD with other headers, a whole body."""
        self.learn(1, 2)
        self.harness.clock.advance(61)
        self.harness.get(target(1))
        self.asks(1).respond(not_modified(ETAG))
        self.harness.head(cache_control=b"no-cache")
        self.asks(2).respond(described(x_amz_storage_class=b"STANDARD_IA"))
        self.harness.get(cache_control=b"no-cache")
        self.asks(3).respond(whole(x_amz_storage_class=b"GLACIER_IR"))
        self.harness.open()
        client = self.harness.get(target(2))
        self.got(client, b"HIT", 2)
        self.assertEqual(client.header(b"x-amz-storage-class"), b"GLACIER_IR")
        self.asks(3)

    def test_age_is_not_renewed_by_writing_it_down(self) -> None:
        """Facts about parts do not make the entry any younger."""
        self.learn(1)
        self.harness.clock.advance(40)
        self.harness.cache._parts.learn(self.version(2))
        self.harness.get(target(3), cache_control=b"no-store")
        self.harness.head(target(1), cache_control=b"no-cache")
        self.upstream.last.respond(error(403, b"AccessDenied"))
        self.harness.open()
        client = self.harness.head(target(2))
        self.got(client, b"HIT", 2)
        self.assertEqual(client.header(b"age"), b"40")

    def version(self, number: int) -> ObjectVersion:
        """What an answer about a part says."""
        response = answer(number)
        judged = judge_answer(
            ObjectId("aws", b"bucket", b"key"),
            206,
            response.headers,
            response.length,
            checksums_asked=False,
            head=False,
            part=number,
        )
        assert isinstance(judged, Storable)
        return judged.version


class BusyDiskTests(PartTestCase):
    """A disk that takes its time."""

    def setUp(self) -> None:
        self.thread = ManualThread()
        self.harness = GatewayHarness(run=self.thread)
        self.addCleanup(self.harness.close)
        self.upstream = self.harness.upstream

    def test_known_before_it_is_written(self) -> None:
        """What an answer told is known at once; a write in between is not undone by writing it down."""
        for number in (1, 3):
            self.harness.get(target(number))
            self.upstream.last.respond(answer(number))
        self.thread.finish()
        self.got(self.harness.head(target(3)), b"HIT", 3)
        self.harness.head(target(2))
        self.upstream.last.respond(answer(2, head=True))
        self.got(self.harness.head(target(2)), b"HIT", 2)
        self.harness.send(b"DELETE", b"/key")
        self.upstream.last.respond(FakeResponse(204))
        self.thread.finish()
        self.upstream.asked.clear()
        self.harness.head(target(2))
        self.assertIsNone(self.asks(1).header(b"if-none-match"))
        self.upstream.last.respond(error(404, b"NoSuchKey"))
        self.assertEqual(self.harness.left_over(), [])
