"""What is known about one client request when it ended: the one source of metrics, access log and statistics."""

from typing import Final

import attrs

__all__ = ["RequestRecord"]

_ENDINGS: Final = {"overload": "shed", "refused": "denied"}


@attrs.define(kw_only=True)
class RequestRecord:
    """Filled in while a request is served, closed once at its end, and never changed afterwards.

    What came over the wire is bytes as received; words of our own are str. An empty value means "not known" or "does
    not apply". Times are seconds.

    :ivar started_at: Unix time when the request's head was complete
    :ivar started_monotonic: the same instant on the clock that the durations are measured with
    :ivar listener: http, proxy or tls
    :ivar target: the raw request target; its secrets are removed where it is written, not here
    :ivar operation: name of the S3 API operation (``GetObject``); ``Other`` when S3 has no name for it
    :ivar key: the object key, percent-decoded
    :ivar status: what the client was told; 0 when it left before it was told anything
    :ivar error_code: S3's error code (``NoSuchKey``), also for errors of our own
    :ivar bytes_sent: body bytes that were really written to the client
    :ivar object_size: bytes of the whole object, when known
    :ivar total_seconds: from the request's head to the last byte of the answer; set by :meth:`close`
    :ivar first_byte_seconds: from the request's head to the first byte of the answer
    :ivar upstream_seconds: from sending the request to S3 to the head of S3's answer
    :ivar wait_seconds: spent waiting for another client's fetch
    :ivar served_range: ``bytes=a-b`` for a partial answer
    :ivar signature_version: SigV4 or SigV2
    :ivar authentication_type: AuthHeader or QueryString
    :ivar tls: protocol version between client and proxy (``TLSv1.3``)
    :ivar request_id: the proxy's own; sent to the client on answers of its own
    :ivar upstream_request_id: S3's ``x-amz-request-id`` when S3 answered
    :ivar host_id: S3's ``x-amz-id-2`` when S3 answered
    :ivar outcome: HIT, MISS, REVALIDATED, PARTIAL, COALESCED, BYPASS, STALE or ERROR
    :ivar reason: one word: why S3 had to be asked, or why the answer was not kept
    :ivar bytes_from_cache: the part of bytes_sent that this request did not make S3 send: out of the cache, or out of
        another client's fetch
    :ivar from_disk: some of those bytes were read from the cache directory, and not from copies in memory
    :ivar bytes_from_upstream: body bytes that this request made S3 send
    :ivar rule: number of the first cache rule that fits; -1 for none
    :ivar upstream_address: ``IP:port`` that answered
    :ivar body_bytes_received: body bytes read from the client
    :ivar aborted: the client left before the answer was complete
    :ivar upstream_aborted: S3's answer broke off, so the client's had to
    """

    started_at: float
    started_monotonic: float
    client_address: str = ""
    listener: str = ""
    method: bytes = b""
    target: bytes = b""
    http_version: bytes = b"HTTP/1.1"
    host: bytes = b""
    operation: str = "Other"
    bucket: bytes = b""
    key: bytes = b""
    status: int = 0
    error_code: str = ""
    bytes_sent: int = 0
    object_size: int | None = None
    total_seconds: float = 0.0
    first_byte_seconds: float | None = None
    upstream_seconds: float | None = None
    wait_seconds: float | None = None
    served_range: str = ""
    referer: bytes = b""
    user_agent: bytes = b""
    version_id: bytes = b""
    signature_version: str = ""
    authentication_type: str = ""
    access_key: str = ""
    tls: str = ""
    cipher_suite: str = ""
    request_id: str = ""
    upstream_request_id: bytes = b""
    host_id: bytes = b""
    outcome: str = "BYPASS"
    reason: str = ""
    bytes_from_cache: int = 0
    from_disk: bool = False
    bytes_from_upstream: int = 0
    rule: int = -1
    upstream_address: str = ""
    body_bytes_received: int = 0
    aborted: bool = False
    upstream_aborted: bool = False
    instance: str = ""
    closed: bool = attrs.field(default=False, init=False)

    def close(self, now: float) -> bool:
        """Note the end of the request, on the clock of :attr:`started_monotonic`.

        :returns: True the first time, False when the request was accounted for already: a request is counted once.
        """
        if self.closed:
            return False
        self.closed = True
        self.total_seconds = max(0.0, now - self.started_monotonic)
        return True

    @property
    def ending(self) -> str:
        """How it ended, in one word: ok, client_abort, upstream_abort, shed or denied."""
        if self.aborted:
            return "client_abort"
        if self.upstream_aborted:
            return "upstream_abort"
        return _ENDINGS.get(self.reason, "ok")
