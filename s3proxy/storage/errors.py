"""What can go wrong in the store, named for what the caller can do about it."""

__all__ = ["Damaged", "NotNow", "RecordError", "StoreError"]


class StoreError(OSError):
    """The cache directory can't be used, or can't be trusted any more. The message names the path and the remedy.

    An ordinary failed operation raises the plain :class:`OSError` of the system. This class is raised when the
    directory can't be opened at all, and when an invalidation could not be carried out: whoever gets it must not serve
    from the directory any longer.
    """


class NotNow(Exception):
    """What was asked for may take long: it has to be done in a thread. Nothing has happened."""


class RecordError(ValueError):
    """Bytes that are not a valid header, footer or sidecar of this format."""


class Damaged(OSError):
    """Stored bytes are not those that were stored. Their file has been put aside: they have to be got again."""
