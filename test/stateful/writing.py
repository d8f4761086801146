"""Clients that write: whole objects in every coding, copies, deletions, forms, and what is written beside the bytes."""

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from test.stateful.machine import Foundation, keys, sizes
from test.support.model_changes import Append, Copy, Rename, Tag, Touch
from test.support.model_coding import CODINGS, FALSE_CODINGS
from test.support.model_orders import Delete, DeleteMany, Order, PostForm, Put
from test.support.model_s3 import WriteFault
from test.support.model_world import KEYS

__all__ = ["Deleting", "Racing", "Uploading", "codings", "haste"]

LARGEST = 60_000
"""Bytes to which an object grows."""

haste = st.sampled_from(("everything", "read", "read", "some", "nothing", "nothing", "left"))
codings = st.sampled_from(CODINGS * 3 + FALSE_CODINGS)
conditions = st.sampled_from(("", "", "", "new", "current", "older"))


class Racing(Foundation):
    """What all writes have in common."""

    def request(self, order: Order, then: str) -> None:
        """A client sends it.

        :param then: whether everything, some of what is under way, or nothing happens before the next step; or
            everything, and reads of what was written; or the client leaves somewhere on the way
        """
        assert self.world is not None
        writer = self.world.order(order)
        if then in ("everything", "read"):
            self.world.settle()
            for key in order.keys * 2 if then == "read" else ():
                self.world.read(b"GET", key, {b"x-caller": b"ann"})
                self.world.settle()
        elif then == "some":
            for choice in range(len(self.world.writers) % 9):
                self.world.move(choice)
        elif then == "left":
            for _ in range(len(self.world.writers) * 7 % 11):
                self.world.move_writes()
            if writer.client.ended is None:
                writer.client.leave()
                self.world.collect()

    def condition(self, key: bytes, kind: str) -> dict[bytes, bytes]:
        """The preconditions of a write."""
        assert self.world is not None
        if not kind:
            return {}
        if kind == "new":
            return {b"If-None-Match": b"*"}
        history = self.world.s3.histories[key]
        content = history.current.content
        if kind == "older" and history.contents:
            content = history.contents[0]
        return {b"If-Match": b"*" if content is None else content.etag}

    @precondition(lambda self: self.world is not None and self.world.uplink.late)
    @rule(which=st.integers(0, 7), acts=st.sampled_from((True, True, False)))
    def act_late(self, which: int, acts: bool) -> None:
        """S3 does what nobody waits for any more, or does not."""
        assert self.world is not None
        if self.world.uplink.late:
            self.world.uplink.act_late(which, acts)

    @rule(key=st.sampled_from(KEYS), size=sizes, first=st.booleans(), moves=st.lists(st.integers(0, 255), max_size=12))
    def read_across(self, key: bytes, size: int, first: bool, moves: list[int]) -> None:
        """Reads that begin before, during and behind a write of the same object."""
        assert self.world is not None
        for number in range(3):
            if number == int(first):
                self.request(Put(key=key, label=self.world.label(), bytes_of=self.content(key, size)), "nothing")
            self.world.read(b"GET", key, {b"x-caller": b"ann"})
            for choice in moves[number * 4 : number * 4 + 4]:
                self.world.move(choice)

    @rule(
        key=keys,
        size=sizes,
        held=st.sampled_from(("sent", "taken", "answered", "flowing")),
        kind=st.sampled_from(("put", "delete", "form")),
        fate=st.sampled_from(("told", "told", "lost", "status", "left")),
        readers=st.integers(1, 2),
        cold=st.booleans(),
    )
    def write_past_a_read(
        self, key: bytes, size: int, held: str, kind: str, fate: str, readers: int, cold: bool
    ) -> None:
        """A read gets as far as this; then a write comes to its end, one way or the other; then others read.

        :param cold: nothing of the object is in the cache at first
        """
        assert self.world is not None
        world = self.world
        world.settle()
        if cold:
            world.order(Delete(key=key))
            world.settle()
            world.overwrite(key, self.content(key, 9000))
            world.read(b"GET", key, {b"x-caller": b"ann"})
        else:
            world.read(b"GET", key, {b"x-caller": b"ann", b"Cache-Control": b"no-cache"}, always_ask=True)
        world.hold(("sent", "taken", "answered", "flowing").index(held))
        if fate in ("lost", "status"):
            world.s3.plan_write(key, WriteFault(fate, acts="before"))
        content, label = self.content(key, size), world.label()
        orders: dict[str, Order] = {
            "put": Put(key=key, label=label, bytes_of=content),
            "delete": Delete(key=key),
            "form": PostForm(key=key, label=label, bytes_of=content),
        }
        writer = world.order(orders[kind])
        while writer.client.ended is None and world.move_writes():
            if fate == "left" and writer.versions:
                writer.client.leave()
        for _ in range(readers):
            world.read(b"GET", key, {b"x-caller": b"bob"})
        world.settle()


class Uploading(Racing):
    """Objects that come from clients."""

    @rule(
        key=keys,
        size=sizes,
        coding=codings,
        strict=st.booleans(),
        condition=conditions,
        tags=st.sampled_from((0, 0, 0, 2)),
        tells=st.booleans(),
        then=haste,
    )
    def put_as(
        self, key: bytes, size: int, coding: str, strict: bool, condition: str, tags: int, tells: bool, then: str
    ) -> None:
        """New bytes, sent in any way that clients have, perhaps only if the object is, or is not, there."""
        assert self.world is not None
        order = Put(
            key=key,
            label=self.world.label(),
            bytes_of=self.content(key, size),
            coding=coding,
            strict=strict,
            conditions=self.condition(key, condition),
            tags=tags,
            tells_checksum=tells,
        )
        self.request(order, then)

    @rule(key=keys, sizes_of=st.lists(sizes, min_size=2, max_size=3), then=haste)
    def put_at_once(self, key: bytes, sizes_of: list[int], then: str) -> None:
        """Several clients write the same object."""
        assert self.world is not None
        for size in sizes_of:
            order = Put(key=key, label=self.world.label(), bytes_of=self.content(key, size))
            self.request(order, then if size == sizes_of[-1] else "nothing")

    @rule(key=keys, size=sizes, by_name=st.booleans(), status=st.sampled_from((204, 201, 200)), then=haste)
    def post_form(self, key: bytes, size: int, by_name: bool, status: int, then: str) -> None:
        """A browser uploads something."""
        assert self.world is not None
        content = self.content(key, size)
        self.request(
            PostForm(key=key, label=self.world.label(), bytes_of=content, by_name=by_name, status=status), then
        )

    @rule(key=keys, size=st.sampled_from((16, 1000, 9000)), right=st.sampled_from((True, True, False)), then=haste)
    def append(self, key: bytes, size: int, right: bool, then: str) -> None:
        """More bytes behind those that are there."""
        assert self.world is not None
        content = self.world.s3.histories[key].current.content
        if content is not None and content.size < LARGEST:
            piece = self.content(key, size)
            label = self.world.label()
            self.request(Append(key=key, label=label, piece=piece, offset=content.size + (not right)), then)


class Deleting(Racing):
    """Everything that is done to objects without new bytes."""

    @rule(key=keys, query=st.sampled_from((b"", b"", b"?versionId=null", b"?x-id=DeleteObject")), condition=conditions)
    def delete_through(self, key: bytes, query: bytes, condition: str) -> None:
        """A DELETE, also of something that is not there."""
        self.request(Delete(key=key, query=query, conditions=self.condition(key, condition)), "some")

    @rule(
        chosen=st.lists(st.sampled_from(KEYS), min_size=1, max_size=3, unique=True),
        spared=st.sampled_from((None, None, *KEYS)),
        quiet=st.booleans(),
        others=st.sampled_from((0, 0, 10)),
        then=haste,
    )
    def delete_many(self, chosen: list[bytes], spared: bytes | None, quiet: bool, others: int, then: str) -> None:
        """Several at once."""
        order = DeleteMany(key=chosen[0], all_keys=tuple(chosen), spared=spared, quiet=quiet, others=others)
        self.request(order, then)

    @rule(key=keys, source=keys, same_tag=st.booleans(), then=haste)
    def copy(self, key: bytes, source: bytes, same_tag: bool, then: str) -> None:
        """A copy of another object, or new metadata for this one."""
        assert self.world is not None
        order = Copy(key=key, label=self.world.label(), source=source, serial=self.world.s3.serial(), same_tag=same_tag)
        self.request(order, then)

    @rule(key=keys, source=st.sampled_from(KEYS), then=haste)
    def rename(self, key: bytes, source: bytes, then: str) -> None:
        """Another name for an object."""
        assert self.world is not None
        order = Rename(key=key, label=self.world.label(), source=source, serial=self.world.s3.serial())
        self.request(order, then)

    @rule(key=keys, tags=st.integers(0, 3), then=haste)
    def tag(self, key: bytes, tags: int, then: str) -> None:
        """Other tags."""
        self.request(Tag(key=key, tags=tags), then)

    @rule(key=keys, what=st.sampled_from((b"acl", b"legal-hold", b"retention", b"restore")), then=haste)
    def touch(self, key: bytes, what: bytes, then: str) -> None:
        """Something that no read shows."""
        self.request(Touch(key=key, what=what), then)
