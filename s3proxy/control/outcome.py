"""How a command ends: exit codes, and the errors that lead to them."""

from typing import Final

__all__ = ["BAD_NEWS", "FINE", "INTERRUPTED", "UNREACHABLE", "USAGE", "BadNews", "ControlError", "Unreachable", "Usage"]

FINE: Final = 0
BAD_NEWS: Final = 1
"""The answer is bad news: not healthy, not cached, corrupt, refused."""
USAGE: Final = 2
"""The command can't be understood."""
UNREACHABLE: Final = 3
"""No proxy answers."""
INTERRUPTED: Final = 130
"""As shells have it for SIGINT."""


class ControlError(Exception):
    """A command can't do what it should; the text says why, and what to do. :ivar code: the exit code"""

    code = BAD_NEWS


class BadNews(ControlError):
    """The proxy answered, and not with what was hoped for."""


class Usage(ControlError):
    """What was asked for makes no sense."""

    code = USAGE


class Unreachable(ControlError):
    """No proxy answers."""

    code = UNREACHABLE
