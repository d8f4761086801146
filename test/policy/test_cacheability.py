"""What of S3's answers is kept."""

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.cache.entry import ObjectId
from s3proxy.policy.cacheability import Storable, judge_answer
from s3proxy.policy.verdicts import Reason
from s3proxy.s3.headers import Headers

ID = ObjectId("aws", b"bucket", b"key")
PLAIN = {b"ETag": b'"v1"', b"Last-Modified": b"Wed, 21 Oct 2015 07:28:00 GMT", b"Content-Type": b"text/plain"}


def judge(
    status: int = 200,
    length: int | None = 10,
    *,
    checksums: bool = False,
    head: bool = False,
    drop: bytes = b"",
    number: int | None = None,
    **headers: bytes,
) -> Storable | Reason:
    """A judgement on an answer with PLAIN and these headers."""
    fields = {**PLAIN, **{name.replace("_", "-").encode(): value for name, value in headers.items()}}
    fields.pop(drop, None)
    return judge_answer(
        ID, status, Headers(fields.items()), length, checksums_asked=checksums, head=head, part=number
    )


class JudgeTests(SynchronousTestCase):
    """Each answer on its own."""

    def kept(self, judged: Storable | Reason) -> Storable:
        assert isinstance(judged, Storable), judged
        return judged

    def test_whole_object(self) -> None:
        """A 200 describes the object and holds all of it."""
        judged = self.kept(judge(x_amz_request_id=b"R", Server=b"S3", x_amz_meta_a=b"1"))
        self.assertEqual((judged.interval, judged.whole), ((0, 10), True))
        version = judged.version
        self.assertEqual((version.id, version.etag, version.size, version.checksums), (ID, b'"v1"', 10, False))
        self.assertEqual(version.last_modified, PLAIN[b"Last-Modified"])
        self.assertEqual(
            version.headers.names(), {b"etag", b"last-modified", b"content-type", b"x-amz-meta-a"}
        )

    def test_part(self) -> None:
        """Where the bytes of a 206 belong is what S3 says."""
        judged = self.kept(judge(206, 10, Content_Range=b"bytes 5-14/100"))
        self.assertEqual((judged.interval, judged.whole, judged.version.size), ((5, 15), False, 100))

    def test_whole_object_as_part(self) -> None:
        """A 206 with every byte is still no description of the whole object."""
        self.assertFalse(self.kept(judge(206, 10, Content_Range=b"bytes 0-9/10")).whole)

    def test_part_by_number(self) -> None:
        """Which bytes a part is, of a GET or of a HEAD; its checksums are not the object's."""
        for head in (False, True):
            judged = self.kept(
                judge(
                    206,
                    10,
                    number=2,
                    head=head,
                    checksums=True,
                    Content_Range=b"bytes 5-14/100",
                    x_amz_mp_parts_count=b"3",
                    x_amz_checksum_crc32=b"PART",
                )
            )
            version = judged.version
            self.assertEqual((judged.interval, judged.whole, version.size), ((5, 15), False, 100))
            self.assertEqual(version.headers.names(), {b"etag", b"last-modified", b"content-type"})
            self.assertFalse(version.checksums)
            assert version.parts is not None
            self.assertEqual((version.parts.count, version.parts.interval(2)), (3, (5, 15)))
            self.assertEqual(version.parts.checksums_of(2), ((b"x-amz-checksum-crc32", b"PART"),))

    def test_dc01_part_without_its_place(self) -> None:
        """What does not say which bytes it is about is neither a part nor the object."""
        for head in (False, True):
            self.assertIs(judge(200, 10, number=1, head=head), Reason.PART_NUMBER)
            self.assertIs(judge(200, 10, number=1, head=head, x_amz_mp_parts_count=b"3"), Reason.PART_NUMBER)
            self.assertIs(judge(206, 10, number=1, head=head), Reason.BAD_CONTENT_RANGE)
            self.assertIs(
                judge(206, 9, number=1, head=head, Content_Range=b"bytes 5-14/100"), Reason.BAD_CONTENT_RANGE
            )

    def test_empty_object(self) -> None:
        """An object without bytes is one."""
        self.assertEqual(self.kept(judge(200, 0)).interval, (0, 0))

    def test_head(self) -> None:
        """A HEAD describes the whole object."""
        judged = self.kept(judge(200, 77, head=True))
        self.assertEqual((judged.version.size, judged.interval, judged.whole), (77, (0, 77), True))

    def test_checksums(self) -> None:
        """Complete only if they were asked for, and if the answer is about the whole object."""
        self.assertTrue(self.kept(judge(checksums=True)).version.checksums)
        self.assertTrue(self.kept(judge(checksums=True, head=True)).version.checksums)
        self.assertFalse(self.kept(judge(206, 10, checksums=True, Content_Range=b"bytes 0-9/10")).version.checksums)

    def test_not_kept(self) -> None:
        """What is not kept, and why."""
        for judged, reason in (
            (judge(403), Reason.NOT_CACHEABLE),
            (judge(304), Reason.NOT_CACHEABLE),
            (judge(203), Reason.NOT_CACHEABLE),
            (judge(204, 0), Reason.NOT_CACHEABLE),
            (judge(416), Reason.NOT_CACHEABLE),
            (judge(drop=b"ETag"), Reason.NO_ETAG),
            (judge(ETag=b""), Reason.NO_ETAG),
            (judge(ETag=b'W/"v1"'), Reason.NO_ETAG),
            (judge(etag=b'"v2"'), Reason.NO_ETAG),
            (judge(length=None), Reason.NO_LENGTH),
            (judge(206, None, Content_Range=b"bytes 5-14/100"), Reason.NO_LENGTH),
            (judge(206, 10), Reason.BAD_CONTENT_RANGE),
            (judge(206, 9, Content_Range=b"bytes 5-14/100"), Reason.BAD_CONTENT_RANGE),
            (judge(206, 11, Content_Range=b"bytes 5-14/100"), Reason.BAD_CONTENT_RANGE),
            (judge(206, 10, Content_Range=b"bytes 5-14/*"), Reason.BAD_CONTENT_RANGE),
            (judge(206, 10, Content_Range=b"bytes 95-104/100"), Reason.BAD_CONTENT_RANGE),
            (judge(206, 10, Content_Range=b"nonsense"), Reason.BAD_CONTENT_RANGE),
            (judge(200, 10, Content_Range=b"bytes 0-9/10"), Reason.BAD_CONTENT_RANGE),
            (judge(206, 10, head=True, Content_Range=b"bytes 0-9/10"), Reason.RANGE_FORM),
            (judge(206, 10, head=True), Reason.RANGE_FORM),
            (judge(200, 10, head=True, Content_Range=b"bytes 0-9/10"), Reason.RANGE_FORM),
            (judge(200, 10, head=True, x_amz_mp_parts_count=b"3"), Reason.RANGE_FORM),
        ):
            self.assertEqual(judged, reason)
