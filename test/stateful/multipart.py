"""Clients that upload in parts: in any order, again, partly past the proxy, and with every end."""

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from test.stateful.machine import keys
from test.stateful.writing import Racing, codings, conditions, haste
from test.support.model_multipart import Abort, Complete, CopyPart, Create, PutPart, Upload
from test.support.model_world import KEYS

__all__ = ["Assembling"]

part_sizes = st.sampled_from((9000, 4096, 5000, 1000, 12_000, 500, 1))
numbers = st.sampled_from((1, 2, 3, 1, 2, 7, 10_000))
which_upload = st.integers(0, 3)


class Assembling(Racing):
    """Multipart uploads."""

    @rule(key=keys, plain=st.booleans(), then=haste)
    def create(self, key: bytes, plain: bool, then: str) -> None:
        """An upload begins."""
        assert self.world is not None
        s3 = self.world.s3
        order = Create(key=key, label=self.world.label(), id=b"upload.%d-_" % s3.serial(), plain=plain)
        self.request(order, then)

    @rule(key=keys, plain=st.booleans())
    def create_past(self, key: bytes, plain: bool) -> None:
        """One that the proxy has not seen begin."""
        assert self.world is not None
        s3 = self.world.s3
        id = b"past.%d" % s3.serial()
        s3.uploads[id] = Upload(key, id, b"u" + id, plain)

    @precondition(lambda self: self.world is not None and self.world.s3.uploads)
    @rule(which=which_upload, number=numbers, size=part_sizes, coding=codings, strict=st.booleans(), then=haste)
    def put_part(self, which: int, number: int, size: int, coding: str, strict: bool, then: str) -> None:
        """A part, perhaps once more with other bytes, perhaps of an upload that has ended."""
        upload = self.upload(which)
        content = self.content(upload.key, size)
        order = PutPart(key=upload.key, id=upload.id, number=number, bytes_of=content, coding=coding, strict=strict)
        self.request(order, then)

    @precondition(lambda self: self.world is not None and self.world.s3.uploads)
    @rule(which=which_upload, chosen=st.lists(st.tuples(numbers, part_sizes), min_size=2, max_size=5), then=haste)
    def put_parts(self, which: int, chosen: list[tuple[int, int]], then: str) -> None:
        """Several at once, as SDKs do it."""
        upload = self.upload(which)
        for number, size in chosen:
            content = self.content(upload.key, size)
            order = PutPart(key=upload.key, id=upload.id, number=number, bytes_of=content)
            self.request(order, then if (number, size) == chosen[-1] else "nothing")

    @precondition(lambda self: self.world is not None and self.world.s3.uploads)
    @rule(which=which_upload, number=numbers, size=part_sizes)
    def put_part_past(self, which: int, number: int, size: int) -> None:
        """A part that the proxy does not see."""
        assert self.world is not None
        upload = self.upload(which)
        if upload.is_open:
            upload.put(number, self.content(upload.key, size).body, self.world.s3.serial(), upload.plain)

    @precondition(lambda self: self.world is not None and self.world.s3.uploads)
    @rule(
        which=which_upload,
        number=numbers,
        source=st.sampled_from(KEYS),
        span=st.sampled_from((None, (0, 500), (100, 5000))),
        then=haste,
    )
    def copy_part(self, which: int, number: int, source: bytes, span: tuple[int, int] | None, then: str) -> None:
        """A part whose bytes S3 has already."""
        upload = self.upload(which)
        self.request(CopyPart(key=upload.key, id=upload.id, number=number, source=source, span=span), then)

    @precondition(lambda self: self.world is not None and self.world.s3.uploads)
    @rule(
        which=which_upload,
        parts=st.sampled_from(("all", "all", "all", "some", "replaced", "wrong", "none")),
        condition=conditions,
        blanks=st.sampled_from((0, 0, 3)),
        again=st.sampled_from((True, True, False)),
        tells=st.booleans(),
        times=st.sampled_from((1, 1, 1, 2)),
        then=haste,
    )
    def complete(
        self, which: int, parts: str, condition: str, blanks: int, again: bool, tells: bool, times: int, then: str
    ) -> None:
        """An upload ends, once or twice, with all of its parts, with some, or with parts that are not there."""
        upload = self.upload(which)
        order = Complete(
            key=upload.key,
            id=upload.id,
            listed=self.listed(upload, parts),
            conditions=self.condition(upload.key, condition),
            blanks=blanks,
            again=again,
            tells_checksum=tells,
        )
        for _ in range(times):
            self.request(order, then)

    @staticmethod
    def listed(upload: Upload, parts: str) -> tuple[tuple[int, bytes], ...]:
        """What the client says the object consists of."""
        if upload.listed is not None and parts != "some":
            return upload.listed
        listed = sorted((number, part.etag) for number, part in upload.parts.items())
        if parts == "some":
            listed = listed[::2]
        elif parts == "replaced" and upload.replaced:
            before = dict(upload.replaced)
            listed = [(number, before.get(number, etag)) for number, etag in listed]
        elif parts == "wrong":
            listed = [*listed[:1], (9999, b'"unknown"')]
        elif parts == "none":
            listed = []
        return tuple(listed)

    @precondition(lambda self: self.world is not None and self.world.s3.uploads)
    @rule(which=which_upload, then=haste)
    def abort(self, which: int, then: str) -> None:
        """An upload is given up, also one that has ended."""
        upload = self.upload(which)
        self.request(Abort(key=upload.key, id=upload.id), then)

    @precondition(lambda self: self.world is not None and self.world.s3.uploads)
    @rule(which=which_upload, gives_up=st.booleans())
    def end_past(self, which: int, gives_up: bool) -> None:
        """It ends, and the proxy does not see it."""
        assert self.world is not None
        upload = self.upload(which)
        if gives_up:
            upload.aborted = upload.made is None
        else:
            self.world.moment += 1
            order = Complete(key=upload.key, id=upload.id, listed=self.listed(upload, "all"))
            order.act(self.world.s3, (self.world.moment, self.world.harness.now()))

    @rule(
        key=keys,
        chosen=st.lists(part_sizes, min_size=1, max_size=4),
        backwards=st.booleans(),
        again=st.booleans(),
        plain=st.booleans(),
        past=st.sampled_from((0, 0, 1, 2)),
        then=haste,
    )
    def upload_in_parts(
        self, key: bytes, chosen: list[int], backwards: bool, again: bool, plain: bool, past: int, then: str
    ) -> None:
        """All of that as it should be, perhaps from the last part to the first, perhaps each part twice, perhaps with a
        part that is replaced past the proxy.
        """
        assert self.world is not None
        id = b"good.%d" % self.world.s3.serial()
        self.request(Create(key=key, label=self.world.label(), id=id, plain=plain), "everything")
        if id not in self.world.s3.uploads:
            return
        listed = list(enumerate(chosen, 1))
        for number, size in (listed[::-1] if backwards else listed) * (1 + again):
            order = PutPart(key=key, id=id, number=number, bytes_of=self.content(key, size))
            self.request(order, "everything" if again else "some")
        self.world.settle()
        upload = self.world.s3.uploads[id]
        if past in upload.parts:
            upload.put(past, self.content(key, len(upload.parts[past].body)).body, self.world.s3.serial(), plain)
        self.request(Complete(key=key, id=id, listed=self.listed(upload, "all")), then)

    def upload(self, which: int) -> Upload:
        """One that has begun; the latest ones come more often."""
        assert self.world is not None
        uploads = list(self.world.s3.uploads.values())
        return uploads[-1 - which % min(3, len(uploads))]
