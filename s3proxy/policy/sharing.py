"""In whose name a download is made, where downloads share a limit: the caller's, or the bucket's."""

import re
from typing import Final

from s3proxy.config.model import CallerId

__all__ = ["Sharing"]

_CALLER: Final = re.compile(rb"(?:^|\s)app/([^\s]+)")
_NOBODY: Final = "none"


class Sharing:
    """See the module. Callers name themselves in User-Agent, as AWS's SDKs do with the application id they are
    configured with: ``app/<value>``.
    """

    def __init__(self, caller_id: CallerId) -> None:
        self._enabled = caller_id.enabled
        self._longest = caller_id.max_len
        self._valid = None if caller_id.validation_regex is None else re.compile(caller_id.validation_regex)

    def share_of(self, user_agent: bytes | None, bucket: bytes | None) -> str:
        """The name of the share: ``ua:<value>``, ``bkt:<bucket>`` or ``none``. It is at most as long as a bucket's
        name or the configured limit, and printable.
        """
        caller = self._caller(user_agent) if self._enabled and user_agent else None
        if caller is not None:
            return f"ua:{caller}"
        return f"bkt:{bucket.decode('latin-1')}" if bucket else _NOBODY

    def _caller(self, user_agent: bytes) -> str | None:
        found = _CALLER.search(user_agent)
        if found is None:
            return None
        value = found[1].decode("latin-1")
        if len(value) > self._longest or not value.isprintable():
            return None
        return value if self._valid is None or self._valid.search(value) else None
