"""How much, and how long, one client may keep a connection of the data listener busy."""

import attrs

__all__ = ["WireLimits"]


@attrs.frozen(kw_only=True)
class WireLimits:
    """Sizes in bytes, times in seconds. Times are checked once a second.

    :ivar head_bytes: the request line and all header fields of one request
    :ivar header_fields: number of header fields of one request
    :ivar target_bytes: the request target
    :ivar idle_timeout: a kept-alive connection without a request
    :ivar head_timeout: from the first to the last byte of a request's head, however steadily it trickles
    :ivar stall_timeout: a client that takes no byte of its answer, or sends no byte of the body it was asked for;
        never counted while the proxy itself is what the client waits for
    :ivar drain_bytes: what is read and thrown away of a body that was answered early, in the hope of keeping the
        connection
    :ivar drain_time: the same as a time, and the silence after which a connection about to be closed is closed
    :ivar linger_time: how long a client may go on sending after its answer and our half of the connection have ended
    :ivar eager_bytes: what is read of the next request while the current one is being answered, in order to notice a
        client that leaves
    """

    head_bytes: int = 64 * 1024
    header_fields: int = 200
    target_bytes: int = 16 * 1024
    idle_timeout: float = 65.0
    head_timeout: float = 30.0
    stall_timeout: float = 120.0
    drain_bytes: int = 256 * 1024
    drain_time: float = 2.0
    linger_time: float = 30.0
    eager_bytes: int = 16 * 1024
