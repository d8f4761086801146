"""How the cache is to behave, as far as it concerns all objects."""

import attrs

__all__ = ["CacheSettings"]


@attrs.frozen(kw_only=True)
class CacheSettings:
    """:ivar small_object_bytes: bodies up to this size are answered from memory and committed behind the answer
    :ivar keep_ratio: a body that broke off is kept if at least this fraction of it arrived
    :ivar max_entries: descriptions, with small bodies, that are kept at hand
    :ivar max_memory: bytes that these may take
    :ivar max_written_size: bytes of the largest object that is kept on its way to S3
    :ivar refresh_interval: seconds after which they are read from disk again
    :ivar coordination: whose downloads readers follow: those of the processes of this ``host``, of all hosts that share
        the directory (``cluster``), or only those of this process (``off``)
    """

    max_cache_size: int
    small_object_bytes: int = 65536
    keep_ratio: float = 0.5
    max_written_size: int = 256 * 1024 * 1024
    max_entries: int = 100_000
    max_memory: int = 256 * 1024 * 1024
    refresh_interval: float = 5.0
    coordination: str = "cluster"
