"""Forms of the access log's lines."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.s3.signature import redact_target
from s3proxy.telemetry.accessforms import FIELDS, as_json, fields_of, strictly_s3
from s3proxy.telemetry.accessline import LineFormatter
from test.telemetry.records import a_record


def a_line(**changes: Any) -> bytes:
    """The line of :func:`a_record` with these changes."""
    return LineFormatter(redact_target)(a_record(**changes))


class JsonTests(SynchronousTestCase):
    def test_hit(self) -> None:
        """What is there has its name, numbers are numbers, and what is absent is left out."""
        line = as_json(a_line())
        self.assertTrue(line.endswith(b"}\n"))
        self.assertEqual(
            json.loads(line),
            {
                "bucket": "photos",
                "time": "2026-01-31T23:59:59Z",
                "remote_ip": "192.0.2.7",
                "request_id": "0A1B2C3D4E5F6071",
                "operation": "REST.GET.OBJECT",
                "key": "cat.jpg",
                "request_uri": "GET /photos/cat.jpg HTTP/1.1",
                "http_status": 200,
                "bytes_sent": 1000,
                "object_size": 1000,
                "total_time": 20,
                "turn_around_time": 1,
                "user_agent": "aws-cli/2.15.0 md/Botocore#2.4.5",
                "host_id": "proxy-1",
                "signature_version": "SigV4",
                "authentication_type": "AuthHeader",
                "host_header": "s3.eu-west-1.amazonaws.com",
                "outcome": "HIT",
                "first_byte_ms": 1.5,
                "cached_bytes": 1000,
                "ending": "ok",
                "instance": "proxy-1",
                "proxy_request_id": "0A1B2C3D4E5F6071",
            },
        )

    def test_everything(self) -> None:
        """With every field filled, each stands under its own name."""
        found = json.loads(
            as_json(
                a_line(
                    reason="cold", body_bytes_received=7, served_range="bytes=0-9", upstream_address="192.0.2.9:443",
                    upstream_seconds=0.25, wait_seconds=0.125, tls="TLSv1.3", cipher_suite="AES", version_id=b"v1",
                    referer=b"http://x/", error_code="NoSuchKey", host_id=b"s3id", upstream_request_id=b"S3REQ",
                )
            )
        )  # fmt: skip
        self.assertEqual(set(FIELDS) - set(found), {
            "bucket_owner", "requester", "access_point_arn", "acl_required", "source_region",
        })  # fmt: skip
        for name, value in {
            "reason": "cold", "bytes_received": 7, "range": "bytes=0-9", "upstream": "192.0.2.9:443",
            "upstream_ms": 250.0, "wait_ms": 125.0, "tls_version": "TLSv1.3", "cipher_suite": "AES",
            "version_id": "v1", "referrer": "http://x/", "error_code": "NoSuchKey", "host_id": "s3id",
            "request_id": "S3REQ",
        }.items():  # fmt: skip
            self.assertEqual(found[name], value, name)

    def test_brackets_in_a_word(self) -> None:
        """A host that is an IPv6 address does not shift the fields behind it."""
        found = json.loads(as_json(a_line(host=b"[::1]:8080", tls="TLSv1.2")))
        self.assertEqual((found["host_header"], found["tls_version"]), ("[::1]:8080", "TLSv1.2"))

    @settings(max_examples=200)
    @given(st.binary(max_size=60), st.binary(max_size=60), st.binary(max_size=60))
    def test_any_bytes(self, host: bytes, agent: bytes, key: bytes) -> None:
        """Whatever a client sends, a line is one object, and no field moves."""
        line = as_json(a_line(host=host, user_agent=agent, referer=host, key=key, target=b"/" + key, version_id=agent))
        self.assertEqual(line.count(b"\n"), 1)
        found = json.loads(line)
        self.assertEqual((found["http_status"], found["ending"]), (200, "ok"))
        self.assertEqual(found["proxy_request_id"], "0A1B2C3D4E5F6071")


class StrictTests(SynchronousTestCase):
    def test_the_fields_of_s3(self) -> None:
        """A line has the 27 fields of S3 as they are, and ends."""
        line = a_line(reason="cold", user_agent=b"a b c")
        strict = strictly_s3(line)
        self.assertEqual(len(fields_of(strict)), 27)
        self.assertTrue(strict.endswith(b" - - -\n"))
        self.assertTrue(line.startswith(strict[:-1] + b" HIT "))
