"""How many files and connections the process may have open, and how many of these clients may take."""

import resource
from typing import Final

__all__ = ["connections_for", "raise_limit"]

_KEPT: Final = 640
"""Descriptors for files that are kept open, logs, listeners and all that is not a transfer."""
_LEAST: Final = 32
"""Client connections there may always be."""


def raise_limit() -> int:
    """Let this process open as many descriptors as it may at all, and return how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (ValueError, OSError):
            # Some systems promise more than they give.
            pass
    return soft if soft != resource.RLIM_INFINITY else 1 << 20


def connections_for(descriptors: int) -> int:
    """How many client connections there may be with so many descriptors.

    An eighth is for copies in memory; and behind a client's connection there may be one to S3.
    """
    return max(_LEAST, (descriptors - descriptors // 8 - _KEPT) // 2)
