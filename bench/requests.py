"""Requests as an AWS SDK sends them. The signature is not valid; none of the servers that are measured looks at it."""

from collections.abc import Iterable, Iterator

__all__ = ["HOST", "a_request", "new_keys"]

HOST = "s3.bench.test"
"""The name that clients ask for; it resolves nowhere."""

_FIELDS = "\r\n".join(
    (
        f"Host: {HOST}",
        "User-Agent: Boto3/1.44.5 md/Botocore#1.44.5 ua/2.1 os/linux md/arch#x86_64 lang/python#3.11.7",
        "Accept-Encoding: identity",
        "X-Amz-Date: 20261122T131232Z",
        "X-Amz-Content-SHA256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "Authorization: AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20261122/us-east-1/s3/aws4_request, "
        "SignedHeaders=host;x-amz-content-sha256;x-amz-date, "
        "Signature=74dc86eb168ab23316a8b27eb0bfcc82f31a6c26368b36ae37b236d2001c9493",
        "amz-sdk-invocation-id: 1493e323-4bc3-48bf-907e-55eec254552b",
        "amz-sdk-request: attempt=1; max=3",
    )
)
_serial = iter(range(1, 1_000_000_000))


def a_request(path: str, *, method: str = "GET", fields: Iterable[str] = ()) -> bytes:
    """The head of a request.

    :param fields: further header lines, without their ends
    """
    lines = (f"{method} {path} HTTP/1.1", _FIELDS, *fields, "", "")
    return "\r\n".join(lines).encode("ascii")


def new_keys(size: str) -> Iterator[bytes]:
    """GETs of objects of this size that were never asked for before, without end."""
    for number in _serial:
        yield a_request(f"/bucket/u/n{number}/{size}")
