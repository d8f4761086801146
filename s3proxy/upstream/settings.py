"""What the upstream side reads from the configuration: section ``connection_pool``, durations in seconds."""

from collections.abc import Mapping, Sequence
from typing import Protocol

__all__ = ["HedgeLimits", "TransportOverride", "UpstreamSettings"]


class TransportOverride(Protocol):
    """One value of ``upstream_overrides``."""

    @property
    def scheme(self) -> str: ...

    @property
    def validate_tls(self) -> bool: ...

    @property
    def ca_file(self) -> str | None: ...


class HedgeLimits(Protocol):
    """Section ``hedged_requests``."""

    @property
    def max_inflight_fraction(self) -> float: ...


class UpstreamSettings(Protocol):
    """The keys of the section that are used here, under their own names."""

    @property
    def dns_servers(self) -> Sequence[str]: ...

    @property
    def endpoint_overrides(self) -> Mapping[str, Sequence[str]]: ...

    @property
    def upstream_overrides(self) -> Mapping[str, TransportOverride]: ...

    @property
    def dns_refresh_interval(self) -> float: ...

    @property
    def connection_timeout(self) -> float: ...

    @property
    def idle_timeout(self) -> float: ...

    @property
    def keepalive_enabled(self) -> bool: ...

    @property
    def max_idle_per_host(self) -> int: ...

    @property
    def ip_distribution_enabled(self) -> bool: ...

    @property
    def max_idle_per_ip(self) -> int: ...

    @property
    def max_lifetime(self) -> float: ...

    @property
    def keepalive_idle_secs(self) -> int: ...

    @property
    def keepalive_interval_secs(self) -> int: ...

    @property
    def keepalive_retries(self) -> int: ...

    @property
    def tcp_recv_buffer_size(self) -> int | None: ...

    @property
    def ip_failure_threshold(self) -> int: ...

    @property
    def health_probe_initial_cooldown(self) -> float: ...

    @property
    def health_probe_max_cooldown(self) -> float: ...

    @property
    def max_registered_endpoints(self) -> int: ...

    @property
    def upstream_first_byte_timeout(self) -> float: ...

    @property
    def upstream_idle_retries(self) -> int: ...

    @property
    def upstream_idle_timeout(self) -> float: ...

    @property
    def max_connections(self) -> int: ...

    @property
    def hedged_requests(self) -> HedgeLimits: ...

    @property
    def system_ca(self) -> bool: ...
