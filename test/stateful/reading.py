"""Clients that read: whole objects, ranges, parts and heads, with conditions or without, signed in different ways."""

from typing import Any

import attrs
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from test.stateful.machine import Foundation, keys
from test.support.model import http_date

__all__ = ["Leaving", "Reading", "Style"]

SCOPE = b"AWS4-HMAC-SHA256 Credential=%s/20231114/us-east-1/s3/aws4_request, SignedHeaders=%s, Signature=0123abcd"
CALLERS = (b"ann", b"bob", b"eve")

edges = st.sampled_from((0, 1, 15, 16, 499, 999, 1000, 1001, 4095, 4096, 4097, 8191, 8192, 9000, 19_999, 32_999))
lengths = st.sampled_from((1, 2, 16, 100, 1000, 4096, 5000, 12_000, 100_000))
ranges = st.one_of(
    st.builds(lambda first, length: b"bytes=%d-%d" % (first, first + length - 1), edges, lengths),
    st.builds(lambda first: b"bytes=%d-" % first, edges),
    st.builds(lambda length: b"bytes=-%d" % length, lengths),
)
odd_ranges = st.sampled_from((b"bytes=0-0,5-9", b"bytes=9-5", b"bytes=a-b", b"bytes=-", b"lines=1-2"))
validators = st.sampled_from(("current", "older", "garbage", "star", "list"))
dates = st.sampled_from((0, -10, 10, -1_000_000))


@attrs.frozen
class Style:
    """How a client asks, besides for what.

    :ivar signed: "" without a signature, "header" or "query" for where it is; "all" covers Range and conditions, too
    :ivar directive: Cache-Control or Pragma, if any
    :ivar owner: the request names the bucket's owner, which only S3 can check
    :ivar slow: the client takes nothing at first
    :ivar lane: its request is one that the fast lane looks at
    :ivar then: whether everything, some of what is under way, or nothing happens before the next step
    """

    caller: bytes = CALLERS[0]
    signed: str = ""
    directive: str = ""
    checksums: bool = False
    owner: bool = False
    slow: bool = False
    lane: bool = False
    then: str = "everything"


haste = st.sampled_from(("everything", "everything", "everything", "some", "nothing", "nothing"))
styles = st.builds(
    Style,
    caller=st.sampled_from(CALLERS),
    signed=st.sampled_from(("", "header", "all", "query")),
    directive=st.sampled_from(("", "", "", "", "no-cache", "no-store", "pragma")),
    checksums=st.sampled_from((False, False, False, True)),
    owner=st.sampled_from((False, False, False, False, False, True)),
    slow=st.sampled_from((False, False, False, True)),
    then=haste,
)
plain_styles = st.one_of(
    st.builds(Style, lane=st.just(True), then=haste),
    st.builds(
        Style, signed=st.sampled_from(("", "all")), slow=st.sampled_from((False, False, False, True)), then=haste
    ),
)
methods = st.sampled_from((b"GET", b"GET", b"GET", b"HEAD"))


class Reading(Foundation):
    """Rules for requests."""

    @rule(key=keys, style=plain_styles)
    def get(self, key: bytes, style: Style) -> None:
        """The whole object."""
        self.send(b"GET", key, style)

    @rule(key=keys, wanted=ranges, style=plain_styles)
    def get_range(self, key: bytes, wanted: bytes, style: Style) -> None:
        """Some of its bytes."""
        self.send(b"GET", key, style, {b"Range": wanted})

    @rule(key=keys, wanted=st.lists(ranges, min_size=2, max_size=4), style=plain_styles)
    def get_ranges(self, key: bytes, wanted: list[bytes], style: Style) -> None:
        """Several requests for parts of one object at once, as SDKs make them."""
        for each in wanted[1:]:
            self.send(b"GET", key, attrs.evolve(style, then="nothing"), {b"Range": each})
        self.send(b"GET", key, style, {b"Range": wanted[0]})

    @rule(key=keys, then=haste)
    def head(self, key: bytes, then: str) -> None:
        """Its description."""
        self.send(b"HEAD", key, Style(lane=True, then=then))

    @rule(key=keys, method=methods, wanted=st.one_of(st.none(), ranges, odd_ranges), style=styles)
    def ask(self, key: bytes, method: bytes, wanted: bytes | None, style: Style) -> None:
        """Any of that, in any style."""
        self.send(method, key, style, {} if wanted is None else {b"Range": wanted})

    @rule(key=keys, method=methods, part=st.integers(1, 4), style=st.one_of(plain_styles, styles))
    def get_part(self, key: bytes, method: bytes, part: int, style: Style) -> None:
        """A part of a multipart upload."""
        self.send(method, key, style, part=part)

    @rule(
        key=keys,
        method=methods,
        wanted=st.one_of(st.none(), ranges),
        names=st.lists(st.sampled_from((b"If-Match", b"If-None-Match")), max_size=2, unique=True),
        validator=validators,
        date_names=st.lists(st.sampled_from((b"If-Modified-Since", b"If-Unmodified-Since")), max_size=2, unique=True),
        date=dates,
        style=st.one_of(plain_styles, styles),
    )
    def ask_if(
        self,
        key: bytes,
        method: bytes,
        wanted: bytes | None,
        names: list[bytes],
        validator: str,
        date_names: list[bytes],
        date: int,
        style: Style,
    ) -> None:
        """With preconditions."""
        headers = {} if wanted is None else {b"Range": wanted}
        headers.update({name: self.validator(key, validator) for name in names})
        headers.update({name: self.date(key, date) for name in date_names})
        self.send(method, key, style, headers)

    @rule(
        key=keys,
        wanted=ranges,
        validator=st.one_of(validators, dates),
        style=plain_styles,
        match=st.sampled_from((False, False, False, True)),
    )
    def get_range_if(self, key: bytes, wanted: bytes, validator: Any, style: Style, match: bool) -> None:
        """With If-Range."""
        value = self.validator(key, validator) if isinstance(validator, str) else self.date(key, validator)
        headers = {b"Range": wanted, b"If-Range": value}
        if match:
            headers[b"If-Match"] = self.validator(key, "current")
        self.send(b"GET", key, style, headers)

    def validator(self, key: bytes, kind: str) -> bytes:
        """An entity tag, or several."""
        assert self.world is not None
        history = self.world.s3.histories[key]
        if kind == "star":
            return b"*"
        content = history.current.content if kind == "current" else None
        if kind in ("older", "list") and history.contents:
            content = history.contents[-2] if len(history.contents) > 1 else history.contents[0]
        etag = b'"garbage"' if content is None else content.etag
        return etag if kind != "list" else b'"garbage", ' + etag

    def date(self, key: bytes, distance: int) -> bytes:
        """Seconds after the last change."""
        assert self.world is not None
        return http_date(self.world.s3.histories[key].current.modified + distance)

    def send(
        self,
        method: bytes,
        key: bytes,
        style: Style,
        headers: dict[bytes, bytes] | None = None,
        part: int | None = None,
    ) -> None:
        """A request in this style."""
        assert self.world is not None
        sent = {b"x-caller": style.caller, **(headers or {})}
        if style.directive:
            sent[b"Pragma" if style.directive == "pragma" else b"Cache-Control"] = (
                b"no-cache" if style.directive == "pragma" else style.directive.encode()
            )
        if style.checksums:
            sent[b"x-amz-checksum-mode"] = b"ENABLED"
        if style.owner:
            sent[b"x-amz-expected-bucket-owner"] = b"123456789012"
        query = b"" if part is None else b"partNumber=%d" % part
        signed = [b"host", b"x-amz-date"]
        if style.signed == "all":
            signed += [name.lower() for name in sent]
        if style.signed in ("header", "all"):
            sent[b"x-amz-date"] = b"20231114T221320Z"
            sent[b"Authorization"] = SCOPE % (style.caller, b";".join(sorted(signed)))
        elif style.signed == "query":
            query = b"&".join(filter(None, (query, _presigned(style.caller))))
        conditional = any(name.startswith(b"If-") for name in sent)
        evaluates = self.world.harness.config.cache.evaluate_conditions_from_cache
        self.world.read(
            method,
            key,
            sent,
            query=query,
            part=part,
            always_ask=bool(style.directive) or style.owner or (conditional and not evaluates),
            stalled=style.slow,
            lane=style.lane and not conditional and part is None,
        )
        if style.then == "everything":
            self.world.settle()
        elif style.then == "some":
            for choice in range(len(self.world.readers) % 7):
                self.world.move(choice)


def _presigned(caller: bytes) -> bytes:
    return (
        b"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=%s%%2F20231114%%2Fus-east-1%%2Fs3%%2Faws4_request"
        b"&X-Amz-Date=20231114T221320Z&X-Amz-Expires=604800&X-Amz-SignedHeaders=host&X-Amz-Signature=0123abcd" % caller
    )


class Leaving(Foundation):
    """Clients that do not wait for the end."""

    @precondition(lambda self: self.world is not None and self.world.live)
    @rule(which=st.integers(0, 7))
    def leave(self, which: int) -> None:
        """A client closes its connection."""
        assert self.world is not None
        live = self.world.live
        if which < len(live):
            live[which].client.leave()
            self.world.collect()

    @precondition(lambda self: self.world is not None and self.world.live)
    @rule(which=st.integers(0, 7))
    def stall(self, which: int) -> None:
        """A client takes nothing any more, or reads on."""
        assert self.world is not None
        live = self.world.live
        client = live[which % len(live)].client
        if client.stalled:
            client.unstall()
        else:
            client.stalled = True
        self.world.collect()
