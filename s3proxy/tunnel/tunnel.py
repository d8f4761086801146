"""What all tunnels have in common: who asked for it, what it carries, and how it ends."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from s3proxy.tunnel.registry import Tunnels

__all__ = ["Ending", "Origin", "Tunnel"]


class Ending:
    """The words for the end of a tunnel, beside those of :class:`~s3proxy.tunnel.client_hello.HelloFault`."""

    FINISHED = "finished"
    CLIENT_RESET = "client_reset"
    UPSTREAM_RESET = "upstream_reset"
    IDLE = "idle"
    CLIENT_STALLED = "client_stalled"
    UPSTREAM_STALLED = "upstream_stalled"
    SHUTDOWN = "shutdown"
    CLIENT_LEFT = "client_left"
    HELLO_TIMEOUT = "hello_timeout"
    LOOP = "loop"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    MALFORMED = "malformed"
    OVERLOAD = "overload"
    ERROR = "error"


@attrs.define(kw_only=True)
class Origin:
    """Where a tunnel comes from, and where it leads.

    :ivar listener: https, proxy or tls
    :ivar host: the name that was asked for; empty when there was none
    :ivar started_at: Unix time of the connection or of the request
    :ivar started: the same instant in seconds of the reactor
    :ivar upstream_address: ``IP:port`` of the far side
    :ivar connected: seconds of the reactor at which the far side was reached
    :ivar method: CONNECT, or empty
    :ivar status: what CONNECT was answered with; 0 for none
    :ivar random: of the ClientHello
    """

    listener: str
    client_address: str
    started_at: float
    started: float
    host: str = ""
    port: int = 443
    upstream_address: str = ""
    connected: float = 0.0
    method: bytes = b""
    target: bytes = b""
    http_version: bytes = b""
    user_agent: bytes = b""
    request_id: str = ""
    status: int = 0
    error_code: str = ""
    tls: str = ""
    cipher_suite: str = ""
    random: bytes = b""


class Tunnel(ABC):
    """A tunnel that is open. Subclasses move the bytes.

    :ivar number: counts the tunnels of this process
    :ivar origin: see there
    """

    __slots__ = ("number", "origin", "_tunnels", "_open", "_seen", "_since")

    def __init__(self, tunnels: "Tunnels", origin: Origin) -> None:
        self.origin = origin
        self._tunnels = tunnels
        self._open = True
        self._seen = 0
        self._since: float = tunnels.seconds()
        self.number = tunnels.opened(self)

    # For subclasses to provide.

    @property
    @abstractmethod
    def sent(self) -> int:
        """Bytes that the client's side has taken."""

    @property
    @abstractmethod
    def received(self) -> int:
        """Bytes of the client that the far side has taken."""

    @abstractmethod
    def _blocked(self) -> str | None:
        """The ending that is due if nothing moves: whose side does not take what waits for it. None: nothing waits."""

    @abstractmethod
    def _half_closed(self) -> bool:
        """Whether one side has finished sending."""

    @abstractmethod
    def _lost(self) -> str | None:
        """The ending due to a side that is gone although the reactor can't tell, for it is not read at present."""

    @abstractmethod
    def _close(self, reset: bool) -> None:
        """Close both sides, at once; *reset*: so that neither takes it for a proper end."""

    # The end.

    def end(self, reason: str, *, reset: bool = True) -> None:
        """Close and account for it.

        :param reset: False: nothing is under way, so this is a proper end for both sides
        """
        if self._open:
            self._open = False
            self._close(reset)
            self._tunnels.closed(self, reason)

    def check(self, now: float, draining: bool) -> None:
        """Called now and then: end what takes too long."""
        limits = self._tunnels.limits
        total = self.sent + self.received
        if total != self._seen:
            self._seen = total
            self._since = now
            return
        blocked = self._blocked()
        lost = self._lost() if blocked is not None else None
        silence = now - self._since
        if lost is not None:
            self.end(lost)
        elif blocked is not None:
            if silence > limits.stall_time:
                self.end(blocked)
        elif draining and silence > limits.drain_idle_time:
            self.end(Ending.SHUTDOWN, reset=False)
        elif silence > (limits.half_closed_time if self._half_closed() else limits.idle_time):
            self.end(Ending.IDLE, reset=False)

    def describe(self, now: float) -> dict[str, Any]:
        """For the list of tunnels: facts and figures, no secrets."""
        origin = self.origin
        return {
            "id": self.number,
            "listener": origin.listener,
            "client": origin.client_address,
            "host": origin.host,
            "upstream": origin.upstream_address,
            "started_at": origin.started_at,
            "age_seconds": round(max(0.0, now - origin.started), 3),
            "idle_seconds": round(max(0.0, now - self._since), 3) if self.sent + self.received == self._seen else 0.0,
            "bytes_sent": self.sent,
            "bytes_received": self.received,
        }
