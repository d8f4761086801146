"""What one GET or HEAD asks for, and whether a version that the cache holds answers it. Pure."""

import attrs

from s3proxy.cache.entry import ObjectVersion
from s3proxy.cache.view import Coverage, View
from s3proxy.policy.freshness import Gate, may_serve, may_serve_stale
from s3proxy.policy.rules import Settings
from s3proxy.policy.verdicts import Reason
from s3proxy.s3.headers import Headers, wants_checksums
from s3proxy.s3.parts import PartNumber, Wanted, resolve_wanted
from s3proxy.s3.ranges import FromTo
from s3proxy.s3.validators import Conditions, Verdict, evaluate, if_range_matches, read_conditions
from s3proxy.util.intervals import Interval

__all__ = ["Demand", "judge"]


def judge(conditions: Conditions, version: ObjectVersion, method: bytes, settings: Settings) -> Verdict | None:
    """What a client's conditions say about a version that the gate lets through: PROCEED or NOT_MODIFIED; None: only
    S3 can tell.
    """
    if not settings.evaluate_conditions or not conditions.judgeable(version.last_modified):
        return None
    verdict = evaluate(conditions, version.etag, version.last_modified, method)
    # The client may know a newer version than the cache: only S3 may refuse it.
    return None if verdict is Verdict.PRECONDITION_FAILED else verdict


@attrs.frozen(kw_only=True)
class Demand:
    """:ivar wanted: the parsed Range, or the part that is asked for; None: the whole object
    :ivar must_ask: only S3 can answer this caller, whatever the cache holds
    :ivar checksums: whether S3's checksums are asked for
    """

    method: bytes
    wanted: Wanted | None
    must_ask: bool
    conditions: Conditions | None
    if_range: bytes | None
    checksums: bool
    settings: Settings

    @classmethod
    def read(
        cls,
        method: bytes,
        headers: Headers,
        query: bytes | None,
        wanted: Wanted | None,
        settings: Settings,
        *,
        must_ask: bool,
    ) -> "Demand":
        """What a request's header fields ask for."""
        return cls(
            method=method,
            wanted=wanted,
            must_ask=must_ask,
            conditions=read_conditions(headers),
            if_range=headers.get(b"if-range"),
            checksums=wants_checksums(headers, query),
            settings=settings,
        )

    @property
    def head(self) -> bool:
        """Whether no body is asked for."""
        return self.method == b"HEAD"

    @property
    def conditional(self) -> bool:
        """Whether the client sent any condition."""
        return self.conditions is not None or self.if_range is not None

    def gate(self, view: View, now: float) -> Gate:
        """Whether the version is fresh enough for this caller."""
        return may_serve(
            self.settings,
            view.version.headers,
            view.validated_at,
            now,
            head=self.head,
            unconfirmed=view.unconfirmed,
            must_ask=self.must_ask,
        )

    def may_be_stale(self, view: View, now: float) -> bool:
        """S3 failed: whether the operator allows to serve what is held for so long, if S3 has ever described it."""
        return (
            not self.must_ask
            and not view.unconfirmed
            and may_serve_stale(self.settings, view.version.headers, view.validated_at, now, head=self.head)
            and self.lacks(view) is Reason.NONE
        )

    def ranged(self, version: ObjectVersion) -> bool:
        """Whether there is a Range that is to be honoured for this version (RFC 9110 13.1.5), or a part."""
        if self.wanted is None:
            return False
        if self.if_range is None:
            return True
        return if_range_matches(self.if_range, version.etag, version.last_modified)

    def interval(self, version: ObjectVersion) -> Interval | None:
        """The bytes to send; None: the range can't be satisfied, or the part is not known."""
        return resolve_wanted(self.wanted if self.ranged(version) else None, version.size, version.parts)

    def forms(self, version: ObjectVersion | None) -> tuple[Wanted | None, ...]:
        """What is asked for, and a part as a range, too, if the version tells which one it is."""
        if isinstance(self.wanted, PartNumber) and version is not None:
            interval = self.interval(version)
            if interval is not None:
                return (self.wanted, FromTo(interval[0], interval[1] - 1))
        return (self.wanted,)

    def part_fields(self, version: ObjectVersion) -> list[tuple[bytes, bytes]]:
        """What S3 adds to an answer about one part."""
        if not isinstance(self.wanted, PartNumber) or version.parts is None:
            return []
        count = version.parts.count
        fields = [] if count is None else [(b"x-amz-mp-parts-count", b"%d" % count)]
        return fields + list(version.parts.checksums_of(self.wanted.number) or ()) if self.checksums else fields

    def _knows_checksums(self, version: ObjectVersion) -> bool:
        """Whether all checksums that S3 would send are known. With a range it sends none."""
        if isinstance(self.wanted, PartNumber):
            return version.parts is not None and version.parts.checksums_of(self.wanted.number) is not None
        return version.checksums or self.ranged(version)

    def verdict(self, version: ObjectVersion) -> Verdict:
        """What the client's conditions say about this version (RFC 9110 13.2.2)."""
        if self.conditions is None:
            return Verdict.PROCEED
        return evaluate(self.conditions, version.etag, version.last_modified, self.method)

    def lacks(self, view: View) -> Reason:
        """Why a version that the gate lets through can't answer this request; NONE if it can."""
        version = view.version
        if self.if_range is not None and not (self.settings.evaluate_conditions and self.ranged(version)):
            return Reason.CLIENT_CONDITION
        interval = self.interval(version)
        if interval is None and isinstance(self.wanted, PartNumber):
            return Reason.PART_NUMBER
        if self.conditions is not None:
            verdict = judge(self.conditions, version, self.method, self.settings)
            if verdict is Verdict.NOT_MODIFIED:
                return Reason.NONE
            if verdict is None:
                return Reason.CLIENT_CONDITION
        if interval is None:
            return Reason.NONE
        if self.checksums and not self._knows_checksums(version):
            return Reason.NO_CHECKSUMS
        if self.head:
            return Reason.NONE
        return Reason.INCOMPLETE if view.coverage(interval) is Coverage.MISSING else Reason.NONE
