"""TLS sessions of earlier connections, so that later ones need no full handshake (RFC 5246 F.1.4, RFC 8446 2.2)."""

from collections import OrderedDict
from collections.abc import Callable

import attrs
from OpenSSL import SSL

from s3proxy.upstream.routing import TLSPolicy

__all__ = ["Session", "TLSSessions", "was_resumed"]

#: Seconds after a certificate was checked until it is checked again: a resumed session shows none.
MAX_AGE = 3600.0
#: Hosts whose sessions are kept.
MOST = 1000


@attrs.frozen
class Session:
    """:ivar verified_at: when the peer last showed its certificate"""

    data: SSL.Session
    verified_at: float


def was_resumed(connection: SSL.Connection) -> bool:
    """Whether the handshake took up an earlier session. False, too, where pyOpenSSL can't tell."""
    try:
        inside: object = SSL
        return bool(inside._lib.SSL_session_reused(connection._ssl))  # type: ignore[attr-defined]
    except AttributeError:
        return False


class TLSSessions:
    """The newest session of each host under each policy.

    A session is used under the policy alone under which it came about, so that a certificate that nobody checked
    never opens a connection that is to be verified.

    :param seconds: a monotonic clock
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._sessions: OrderedDict[tuple[TLSPolicy, str], Session] = OrderedDict()

    def find(self, policy: TLSPolicy, host: str) -> Session | None:
        """What to offer to this host."""
        session = self._sessions.get((policy, host))
        if session is not None and self._seconds() - session.verified_at >= MAX_AGE:
            del self._sessions[policy, host]
            return None
        return session

    def keep(self, policy: TLSPolicy, host: str, connection: SSL.Connection, offered: Session | None) -> None:
        """Take over what the peer has given to a connection by now: under TLS 1.3 it does so after the handshake.

        :param offered: the session with which the connection was begun
        """
        data = connection.get_session()
        if data is None:
            return
        resumed = offered is not None and was_resumed(connection)
        verified_at = offered.verified_at if resumed and offered is not None else self._seconds()
        self._sessions[policy, host] = Session(data, verified_at)
        self._sessions.move_to_end((policy, host))
        if len(self._sessions) > MOST:
            self._sessions.popitem(last=False)

    def forget(self, policy: TLSPolicy, host: str) -> None:
        """A connection that offered the session failed: the next one does without."""
        self._sessions.pop((policy, host), None)
