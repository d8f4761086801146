"""What keeps the proxy from starting."""

__all__ = ["StartError"]


class StartError(Exception):
    """The proxy can't start. The text says what to do."""
