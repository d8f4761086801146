"""How many tunnels there may be, how long, and with how much memory each may be kept."""

import attrs

__all__ = ["TunnelLimits"]


@attrs.frozen(kw_only=True)
class TunnelLimits:
    """Times in seconds, those of open tunnels checked every few seconds; sizes in bytes.

    :ivar most: tunnels at once, and connections that try to become one; 0: as many as come
    :ivar hello_time: from accepting a connection to the end of its ClientHello
    :ivar connect_time: for finding and connecting to the far side, all its addresses together
    :ivar stagger: after which the next address is tried besides one that has not answered
    :ivar idle_time: without a byte in either direction
    :ivar half_closed_time: the same when one side has finished sending
    :ivar stall_time: with bytes for a side that takes none
    :ivar drain_idle_time: without a byte, once the proxy is stopping
    :ivar piece: bytes moved at a time where the kernel can't do it alone; at most twice as many wait in a direction
    """

    most: int = 0
    hello_time: float = 10.0
    connect_time: float = 10.0
    stagger: float = 0.3
    idle_time: float = 900.0
    half_closed_time: float = 120.0
    stall_time: float = 120.0
    drain_idle_time: float = 3.0
    piece: int = 128 * 1024
