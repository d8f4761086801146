"""Records of requests for tests."""

from typing import Any

from s3proxy.telemetry.record import RequestRecord


def a_record(**changes: Any) -> RequestRecord:
    """A GET of an object of 1000 bytes out of the cache, ended after 20 ms; with these fields changed."""
    fields: dict[str, Any] = {
        "started_at": 1769903999.25,  # 31 January 2026, 23:59:59 UTC
        "started_monotonic": 100.0,
        "client_address": "192.0.2.7",
        "listener": "http",
        "method": b"GET",
        "target": b"/photos/cat.jpg",
        "host": b"s3.eu-west-1.amazonaws.com",
        "operation": "GetObject",
        "bucket": b"photos",
        "key": b"cat.jpg",
        "status": 200,
        "bytes_sent": 1000,
        "object_size": 1000,
        "total_seconds": 0.02,
        "first_byte_seconds": 0.0015,
        "user_agent": b"aws-cli/2.15.0 md/Botocore#2.4.5",
        "signature_version": "SigV4",
        "authentication_type": "AuthHeader",
        "access_key": "AKIAIOSFODNN7EXAMPLE",
        "request_id": "0A1B2C3D4E5F6071",
        "outcome": "HIT",
        "bytes_from_cache": 1000,
        "instance": "proxy-1",
    }
    fields.update(changes)
    return RequestRecord(**fields)
