"""Lines of the access log."""

import re
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.s3.signature import redact_target
from s3proxy.telemetry import accessline
from s3proxy.telemetry.accessline import MAX_TARGET, MAX_TEXT, LineFormatter
from s3proxy.telemetry.record import RequestRecord
from test.telemetry.records import a_record

FIELDS = 39
EVIL = b'x"\n- evil [01/Jan/2030:00:00:00 +0000] 6.6.6.6 - \xe2\x80\xa8\x85\xff\x1b[31m\\'
_FIELD = re.compile(r'\[\d\d/[^\]]*\+0000\]|"[^"]*"|[^ ]+')

# The pattern that AWS publishes for tables over server access logs: 24 fields and whatever follows.
_PUBLISHED = re.compile(
    r'([^ ]*) ([^ ]*) \[(.*?)\] ([^ ]*) ([^ ]*) ([^ ]*) ([^ ]*) ([^ ]*) ("[^"]*"|-) (-|[0-9]*) ([^ ]*) ([^ ]*) ([^ ]*) '
    r'([^ ]*) ([^ ]*) ("[^"]*"|-) ("[^"]*"|-) ([^ ]*)(?: ([^ ]*) ([^ ]*) ([^ ]*) ([^ ]*) ([^ ]*) ([^ ]*))?.*'
)


def a_line(**changes: Any) -> str:
    """The line of :func:`a_record` with these changes."""
    return LineFormatter(redact_target)(a_record(**changes)).decode("ascii")


def fields_of(line: str) -> list[str]:
    """The fields, quotes included."""
    assert line.endswith("\n")
    return _FIELD.findall(line[:-1])


class LayoutTests(SynchronousTestCase):
    def test_whole_line(self) -> None:
        """A hit, field by field."""
        self.assertEqual(
            a_line(),
            "- photos [31/Jan/2026:23:59:59 +0000] 192.0.2.7 - 0A1B2C3D4E5F6071 REST.GET.OBJECT cat.jpg "
            '"GET /photos/cat.jpg HTTP/1.1" 200 - 1000 1000 20 1 "-" "aws-cli/2.15.0 md/Botocore#2.4.5" - proxy-1 '
            "SigV4 - AuthHeader s3.eu-west-1.amazonaws.com - - - - "
            "HIT 1.500 - 1000 - - - ok proxy-1 0A1B2C3D4E5F6071 - -\n",
        )

    def test_answer_of_s3(self) -> None:
        """S3's own ids stand in S3's fields; ours stay at the end."""
        fields = fields_of(
            a_line(
                outcome="MISS",
                reason="cold",
                status=404,
                error_code="NoSuchKey",
                upstream_request_id=b"S3REQUEST0000001",
                host_id=b"abc+/def=",
                upstream_address="198.51.100.4:443",
                upstream_seconds=0.0421,
                wait_seconds=0.25,
                served_range="bytes=0-99",
                version_id=b"v.1_x",
                tls="TLSv1.3",
                cipher_suite="TLS_AES_128_GCM_SHA256",
                bytes_sent=0,
                bytes_from_cache=0,
                object_size=None,
                first_byte_seconds=None,
                body_bytes_received=77,
            )
        )
        self.assertEqual(len(fields), FIELDS)
        numbered = dict(enumerate(fields, 1))
        for number, value in {
            6: "S3REQUEST0000001", 10: "404", 11: "NoSuchKey", 12: "-", 13: "-", 15: "-", 18: "v.1_x", 19: "abc+/def=",
            21: "TLS_AES_128_GCM_SHA256", 24: "TLSv1.3", 28: "MISS", 29: "-", 30: "bytes=0-99", 31: "-",
            32: "198.51.100.4:443", 33: "42.100", 34: "250.000", 36: "proxy-1", 37: "0A1B2C3D4E5F6071", 38: "cold",
            39: "77",
        }.items():  # fmt: skip
            self.assertEqual(numbered[number], value, f"field {number}")

    def test_empty_record(self) -> None:
        """A request of which nothing is known still makes a line with every field."""
        record = RequestRecord(started_at=0.0, started_monotonic=0.0)
        line = LineFormatter(redact_target)(record).decode("ascii")
        self.assertEqual(len(fields_of(line)), FIELDS)
        self.assertEqual(fields_of(line)[2], "[01/Jan/1970:00:00:00 +0000]")
        self.assertEqual(fields_of(line)[9], "-")

    def test_published_pattern(self) -> None:
        """The pattern that Amazon publishes for its logs finds the fields where it expects them."""
        match = _PUBLISHED.fullmatch(a_line(user_agent=b'x" 200 "\n', referer=b"http://e.org/?a b").rstrip("\n"))
        assert match is not None
        self.assertEqual(match[2], "photos")
        self.assertEqual(match[7], "REST.GET.OBJECT")
        self.assertEqual(match[9], '"GET /photos/cat.jpg HTTP/1.1"')
        self.assertEqual(match[10], "200")
        self.assertEqual(match[16], '"http://e.org/?a%20b"')
        self.assertEqual(match[17], '"x%22 200 %22%0A"')
        self.assertEqual(match[23], "s3.eu-west-1.amazonaws.com")

    def test_time_changes(self) -> None:
        """The time is that of each record's own second."""
        formatter = LineFormatter(redact_target)
        times = [fields_of(formatter(a_record(started_at=at)).decode())[2] for at in (0.9, 1.0, 86400.0, 1.0)]
        self.assertEqual([time[13:-7] for time in times], ["00:00:00", "00:00:01", "00:00:00", "00:00:01"])

    def test_requester(self) -> None:
        """The access key id is only shown on demand, and masked."""
        self.assertNotIn("AKIA", a_line())
        line = LineFormatter(redact_target, log_requester=True)(a_record()).decode()
        self.assertEqual(fields_of(line)[4], "AKIA...MPLE")
        short = LineFormatter(redact_target, log_requester=True)(a_record(access_key="short")).decode()
        self.assertEqual(fields_of(short)[4], "-")


class MemoryTests(SynchronousTestCase):
    def test_long_words_are_not_remembered(self) -> None:
        """What is remembered of a word that a client made up is no longer than what is logged of it."""
        longest = 0

        def note(value: bytes) -> str:
            nonlocal longest
            longest = max(longest, len(value))
            return "-"

        def note_all(words: tuple[Any, ...]) -> bytes:
            note(words[3])
            return b"- - - - - - - -"

        self.patch(accessline, "_word", note)
        self.patch(accessline, "_text", note)
        self.patch(accessline, "_connection", note_all)
        word = b"x" * 60_000
        formatter = LineFormatter(redact_target)
        self.patch(formatter, "_referer", note)
        formatter(a_record(bucket=word, host=word, user_agent=word, referer=word))
        self.assertLessEqual(longest, MAX_TARGET)


class ForgeryTests(SynchronousTestCase):
    """No client can write a field or a line of its own."""

    def check_field(self, name: str, value: object) -> None:
        """The line has its fields, one end, and no byte that a terminal or a parser could take for something else."""
        line = LineFormatter(redact_target, log_requester=True)(a_record(**{name: value})).decode("ascii")
        self.assertEqual(len(fields_of(line)), FIELDS)
        self.assertRegex(line, r"\A[ -~]*\n\Z")
        self.assertRegex(line, r"\A- \S+ \[31/Jan/2026:23:59:59 \+0000\] 192\.0\.2\.7 ")

    def test_words_of_s3(self) -> None:
        """An error code or an access key id can't forge anything, either."""
        self.check_field("error_code", 'x" y\n')
        self.check_field("access_key", 'x" \nzzzzzzz" \n')

    def test_key_can_be_decoded(self) -> None:
        """A key is percent-encoded so that decoding it once gives the key."""
        self.assertEqual(fields_of(a_line(key=b"a b/\xc3\xbc%41+"))[7], "a%20b/%C3%BC%2541%2B")

    def test_long_values_are_cut(self) -> None:
        """A client can't make lines of any length."""
        line = a_line(target=b"/" + b"a" * 100_000, user_agent=b"u" * 100_000, referer=b"r" * 100_000)
        self.assertLess(len(line), MAX_TARGET + 2 * MAX_TEXT + 500)

    @given(st.binary(max_size=60), st.binary(max_size=60), st.binary(max_size=60), st.binary(max_size=60))
    @settings(max_examples=100, deadline=None, derandomize=True)
    def test_any_bytes(self, target: bytes, agent: bytes, key: bytes, host: bytes) -> None:
        """Whatever bytes a client sends, the line has its fields and one end."""
        line = a_line(target=target, user_agent=agent, referer=agent, key=key, host=host, bucket=host)
        self.assertEqual(len(fields_of(line)), FIELDS)
        self.assertRegex(line, r"\A[ -~]+\n\Z")


def _forgery_test(name: str) -> Callable[[ForgeryTests], None]:
    def test(self: ForgeryTests) -> None:
        self.check_field(name, EVIL)

    test.__doc__ = f"Quotes, blanks, line ends, escapes and non-ASCII bytes in {name} are percent-encoded."
    return test


for _name in (
    "method", "target", "http_version", "host", "bucket", "key", "referer", "user_agent", "version_id", "host_id",
    "upstream_request_id",
):  # fmt: skip
    setattr(ForgeryTests, f"test_{_name}", _forgery_test(_name))


class SecretTests(SynchronousTestCase):
    """Neither signatures nor credentials nor tokens are logged."""

    _QUERY = (
        b"X-Amz-Algorithm=AWS4-HMAC-SHA256"
        b"&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20260131%2Feu-west-1%2Fs3%2Faws4_request"
        b"&X-Amz-Date=20260131T000000Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host"
        b"&X-Amz-Security-Token=SECRETTOKEN%2Fabc&X-Amz-Signature=deadbeefSECRET"
    )

    def assertClean(self, line: str) -> None:
        for secret in ("SECRET", "deadbeef", "AKIA"):
            self.assertNotIn(secret, line)

    def test_presigned_target(self) -> None:
        """Of a presigned URL the harmless parameters remain."""
        line = a_line(target=b"/photos/cat.jpg?" + self._QUERY)
        self.assertClean(line)
        self.assertIn("X-Amz-Expires=60", line)
        self.assertIn("REDACTED", line)

    def test_version_2(self) -> None:
        """The older kind of presigned URL."""
        self.assertClean(a_line(target=b"/b/k?AWSAccessKeyId=AKIAIOSFODNN7EXAMPLE&Expires=1&Signature=SECRET%3D"))

    def test_referer(self) -> None:
        """A page that was opened by a presigned URL names it as referrer."""
        self.assertClean(a_line(referer=b"https://b.s3.amazonaws.com/page.html?" + self._QUERY))

    def test_presigned_url_with_an_encoded_question_mark(self) -> None:
        """A URL that was encoded once too often shows its secrets neither as target nor as key."""
        encoded = self._QUERY.replace(b"=", b"%3D").replace(b"&", b"%26")
        self.assertClean(a_line(target=b"/photos/cat.jpg%3F" + encoded, key=b"cat.jpg?" + self._QUERY))

    def test_user_information(self) -> None:
        """A password before the host of an absolute target."""
        self.assertClean(a_line(target=b"http://me:SECRET@s3.amazonaws.com/b/k"))

    def test_no_secrets_of_other_fields(self) -> None:
        """The access key id of the record isn't shown unless asked for."""
        self.assertClean(a_line())

    def test_redactor_that_fails(self) -> None:
        """When it can't be told what is secret, everything that might be is left out."""

        def broken(target: bytes) -> bytes:
            raise RuntimeError("no")

        line = LineFormatter(broken)(a_record(target=b"/b/k?" + self._QUERY, referer=b"http://x/?" + self._QUERY))
        self.assertClean(line.decode())
        self.assertIn(b'"GET /b/k HTTP/1.1"', line)
