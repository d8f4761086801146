"""What changes objects: writes past the proxy and through it; and who may read them."""

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from test.stateful.machine import Foundation, keys, sizes
from test.stateful.reading import CALLERS, Reading, Style, ranges

__all__ = ["Overtaking", "Overwriting", "Permitting", "Writing"]


class Overwriting(Foundation):
    """Writes that the proxy does not see."""

    @rule(key=keys, size=sizes, parts=st.sampled_from((0, 0, 2, 3)), same_second=st.booleans())
    def overwrite(self, key: bytes, size: int, parts: int, same_second: bool) -> None:
        """Other bytes."""
        assert self.world is not None
        self.world.overwrite(key, self.content(key, size, parts), same_second)

    @rule(key=keys, which=st.integers(0, 3))
    def write_again(self, key: bytes, which: int) -> None:
        """Bytes that were there before, under new metadata."""
        assert self.world is not None
        contents = self.world.s3.histories[key].contents
        if contents:
            self.world.overwrite(key, contents[-1 - which % len(contents)])

    @rule(key=keys)
    def delete(self, key: bytes) -> None:
        """Nothing any more; or, if there is nothing, something again."""
        assert self.world is not None
        history = self.world.s3.histories[key]
        there = history.current.content is not None
        self.world.overwrite(key, None if there else self.content(key, 9000))


class Overtaking(Reading, Overwriting):
    """Writes that the proxy does not see while it reads."""

    @rule(
        key=keys,
        wanted=st.tuples(*[st.one_of(st.none(), ranges)] * 3),
        directive=st.sampled_from(("no-cache", "", "no-store")),
        moves=st.tuples(*[st.lists(st.integers(0, 255), max_size=4)] * 3),
        size=sizes,
    )
    def overtake(
        self, key: bytes, wanted: tuple[bytes | None, ...], directive: str, moves: tuple[list[int], ...], size: int
    ) -> None:
        """While a body of one version is under way, somebody gets the next one, and others come."""
        assert self.world is not None
        for number, value in enumerate(wanted):
            style = Style(directive=directive if number == 1 else "", then="nothing")
            self.send(b"GET", key, style, {} if value is None else {b"Range": value})
            self.proceed(moves[number])
            if number == 0:
                self.world.overwrite(key, self.content(key, size))


class Writing(Overwriting):
    """Writes through the proxy."""

    @rule(key=keys, size=sizes, again=st.booleans())
    def put(self, key: bytes, size: int, again: bool) -> None:
        """New bytes, or those of before."""
        assert self.world is not None
        contents = self.world.s3.histories[key].contents
        self.world.write(key, contents[-1] if again and contents else self.content(key, size))

    @rule(key=keys)
    def remove(self, key: bytes) -> None:
        """A DELETE, of something that is there."""
        assert self.world is not None
        if self.world.s3.histories[key].current.content is not None:
            self.world.write(key, None)


class Permitting(Foundation):
    """Permissions that come and go."""

    @rule(caller=st.sampled_from(CALLERS[1:]))
    def deny(self, caller: bytes) -> None:
        """S3 refuses this caller from now on."""
        assert self.world is not None
        self.world.s3.denied.add(caller)

    @precondition(lambda self: self.world is not None and self.world.s3.denied)
    @rule()
    def permit(self) -> None:
        """Everybody may read again."""
        assert self.world is not None
        self.world.s3.denied.clear()
