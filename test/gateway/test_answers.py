"""Heads of answers."""

import re

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.cache.entry import ObjectId, ObjectVersion
from s3proxy.gateway.answers import entry_headers, marks, new_request_id, relayed_headers
from s3proxy.policy.verdicts import Outcome, Reason
from s3proxy.s3.headers import Headers

VERSION = ObjectVersion(
    id=ObjectId("aws", b"bucket", b"key"),
    etag=b'"v"',
    last_modified=None,
    size=100,
    headers=Headers([(b"ETag", b'"v"'), (b"x-amz-checksum-crc32", b"AAAAAA=="), (b"X-Amz-Meta-A", b"1")]),
)


class MarkTests(SynchronousTestCase):
    """X-Cache and Cache-Status."""

    def test_words(self) -> None:
        """What RFC 9211 says for each outcome; hit and fwd exclude each other."""
        for outcome, reason, status in (
            (Outcome.HIT, Reason.NONE, b"s3proxy; hit"),
            (Outcome.MISS, Reason.COLD, b"s3proxy; fwd=uri-miss; detail=cold"),
            (Outcome.MISS, Reason.EXPIRED, b"s3proxy; fwd=stale; detail=expired"),
            (Outcome.MISS, Reason.ALWAYS_ASK, b"s3proxy; fwd=request; detail=always-ask"),
            (Outcome.MISS, Reason.INCOMPLETE, b"s3proxy; fwd=partial; detail=incomplete"),
            (Outcome.MISS, Reason.NO_ETAG, b"s3proxy; fwd=miss; detail=no-etag"),
            (Outcome.MISS, Reason.NONE, b"s3proxy; fwd=miss"),
            (Outcome.REVALIDATED, Reason.NONE, b"s3proxy; fwd=stale; fwd-status=304"),
            (Outcome.COALESCED, Reason.NONE, b"s3proxy; fwd=uri-miss; collapsed"),
            (Outcome.STALE, Reason.NONE, b"s3proxy; fwd=stale; detail=stale-if-error"),
            (Outcome.BYPASS, Reason.WRITE, b"s3proxy; fwd=bypass; detail=write"),
            (Outcome.ERROR, Reason.NONE, b"s3proxy; fwd=miss"),
        ):
            self.assertEqual(
                marks(outcome, reason), [(b"X-Cache", outcome.value.encode()), (b"Cache-Status", status)]
            )

    def test_every_combination_is_well_formed(self) -> None:
        """Tokens only, and never both hit and fwd."""
        form = re.compile(rb"s3proxy; (hit|fwd=[a-z-]+(; fwd-status=304)?(; collapsed)?)(; detail=[a-z0-9-]+)?")
        for outcome in Outcome:
            for reason in Reason:
                self.assertRegex(dict(marks(outcome, reason))[b"Cache-Status"], form)


class RelayedTests(SynchronousTestCase):
    """S3's own heads."""

    def test_marks_are_added(self) -> None:
        """S3's fields in S3's order and spelling, without those that are the wire's."""
        headers = Headers(
            [
                (b"x-amz-request-id", b"R"),
                (b"Content-Length", b"5"),
                (b"Transfer-Encoding", b"chunked"),
                (b"Date", b"D"),
                (b"X-Odd", b"1"),
            ]
        )
        self.assertEqual(
            relayed_headers(headers, Outcome.BYPASS, Reason.WRITE),
            [
                (b"x-amz-request-id", b"R"),
                (b"Date", b"D"),
                (b"X-Odd", b"1"),
                (b"X-Cache", b"BYPASS"),
                (b"Cache-Status", b"s3proxy; fwd=bypass; detail=write"),
            ],
        )


class EntryTests(SynchronousTestCase):
    """Heads that are made from entries."""

    def head(
        self,
        partial: tuple[int, int] | None = None,
        with_checksums: bool = False,
        now: float = 1_445_412_480.9,
        validated_at: float = 1_445_412_475.0,
    ) -> Headers:
        return Headers(
            entry_headers(
                VERSION,
                request_id="0123456789ABCDEF",
                outcome=Outcome.HIT,
                reason=Reason.NONE,
                now=now,
                validated_at=validated_at,
                partial=partial,
                with_checksums=with_checksums,
            )
        )

    def test_whole(self) -> None:
        """S3's fields between our own, each once."""
        self.assertEqual(
            self.head().pairs,
            (
                (b"x-amz-request-id", b"0123456789ABCDEF"),
                (b"Date", b"Wed, 21 Oct 2015 07:28:00 GMT"),
                (b"ETag", b'"v"'),
                (b"X-Amz-Meta-A", b"1"),
                (b"Accept-Ranges", b"bytes"),
                (b"Age", b"5"),
                (b"X-Cache", b"HIT"),
                (b"Cache-Status", b"s3proxy; hit"),
            ),
        )

    def test_checksums(self) -> None:
        """Only with a whole object, and only to who asked."""
        self.assertIn(b"x-amz-checksum-crc32", self.head(with_checksums=True))
        self.assertNotIn(b"x-amz-checksum-crc32", self.head(with_checksums=False))
        self.assertNotIn(b"x-amz-checksum-crc32", self.head((0, 100), with_checksums=True))

    def test_part(self) -> None:
        """Content-Range is the wire's form of the interval."""
        self.assertEqual(self.head((0, 10)).get(b"content-range"), b"bytes 0-9/100")
        self.assertNotIn(b"content-range", self.head())

    def test_age(self) -> None:
        """Whole seconds, never negative; none for what was never confirmed."""
        self.assertEqual(self.head(now=10.0, validated_at=15.0).get(b"age"), b"0")
        self.assertNotIn(b"age", self.head(validated_at=0.0))

    def test_request_ids(self) -> None:
        """16 upper-case hexadecimal digits, each time others."""
        found = {new_request_id() for _ in range(5000)}
        self.assertEqual(len(found), 5000)
        for each in found:
            self.assertRegex(each, r"\A[0-9A-F]{16}\Z")
