"""What a supervisor and a worker say to each other: commands of twisted.protocols.amp over a socket that both inherit.

A value of AMP has at most 64 KiB; :class:`Long` ones are spread over as many as they need.
"""

from typing import Any, ClassVar, Final

from twisted.protocols.amp import MAX_VALUE_LENGTH, Argument, Command, Float, Integer, Unicode

__all__ = [
    "Drain", "Farewell", "GiveBack", "Leaving", "Lines", "Long", "Ready", "Reload", "Reopen", "Report", "TakeOver",
    "Uses",
]  # fmt: skip

_PIECE: Final = MAX_VALUE_LENGTH


class Long(Argument):
    """Bytes, however many: the first piece under the argument's own name, the others under ``NAME.1``, ``NAME.2``…"""

    def toBox(self, name: bytes, strings: Any, objects: Any, proto: Any) -> None:  # noqa: N802
        """See :class:`twisted.protocols.amp.IArgumentType`."""
        data: bytes = objects[name.decode("ascii")]
        for number, start in enumerate(range(0, max(1, len(data)), _PIECE)):
            strings[name if not number else b"%b.%d" % (name, number)] = data[start : start + _PIECE]

    def fromBox(self, name: bytes, strings: Any, objects: Any, proto: Any) -> None:  # noqa: N802
        """See :class:`twisted.protocols.amp.IArgumentType`."""
        pieces = [strings.pop(name)]
        while (more := strings.pop(b"%b.%d" % (name, len(pieces)), None)) is not None:
            pieces.append(more)
        objects[name.decode("ascii")] = b"".join(pieces)


# Of a worker.


class Ready(Command):
    """The worker accepts connections."""

    arguments = [(b"pid", Integer())]
    response: ClassVar[list[Any]] = []


class Leaving(Command):
    """The worker accepts nothing more, though its supervisor has not told it to."""

    arguments: ClassVar[list[Any]] = []
    requiresAnswer = False


class Uses(Command):
    """What was used of late, for whoever decides what is kept."""

    arguments = [(b"data", Long())]
    requiresAnswer = False


class Lines(Command):
    """Lines that the worker has written to the application log, as JSON."""

    arguments = [(b"data", Long())]
    requiresAnswer = False


class Farewell(Command):
    """The worker ends as it was told; what it has counted, as JSON."""

    arguments = [(b"data", Long())]
    response: ClassVar[list[Any]] = []


# Of the supervisor.


class Report(Command):
    """How is the worker? The answer is a JSON object with what is wanted."""

    arguments = [(b"wanted", Unicode())]
    response = [(b"data", Long())]


class TakeOver(Command):
    """Accept what arrives for this slot, too: nobody else does at the moment."""

    arguments = [(b"slot", Integer())]
    response: ClassVar[list[Any]] = []


class GiveBack(Command):
    """No longer accept what arrives for this slot."""

    arguments = [(b"slot", Integer())]
    response: ClassVar[list[Any]] = []


class Drain(Command):
    """Accept nothing more, let requests end for so many seconds, then end the process. Answered at once.

    ``patience``: seconds that a connection without a request may yet stay.
    """

    arguments = [(b"limit", Float()), (b"patience", Float())]
    response: ClassVar[list[Any]] = []


class Reload(Command):
    """Another configuration is in effect."""

    arguments = [(b"data", Long())]
    response: ClassVar[list[Any]] = []


class Reopen(Command):
    """The log files were renamed: open them anew."""

    arguments: ClassVar[list[Any]] = []
    response: ClassVar[list[Any]] = []
