"""The metrics of several processes as those of one."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry

from s3proxy.telemetry.metrics import Metrics
from s3proxy.telemetry.snapshot import Snapshot, merge

__all__ = ["HostMetrics"]


class HostMetrics(Metrics):
    """The metrics of this process and of all workers together.

    :param others: gives what the workers have counted
    """

    def __init__(self, registry: CollectorRegistry, others: Callable[[], list[Snapshot]]) -> None:
        super().__init__(registry)
        self._others = others

    def snapshot(self) -> Snapshot:
        """See :meth:`Metrics.snapshot`."""
        return merge([super().snapshot(), *self._others()])

    def recent_rates(self) -> tuple[float, float]:
        """See :meth:`Metrics.recent_rates`."""
        families = merge(self._others())["families"]

        def recent(name: str) -> float:
            for labels, (part, whole) in families.get(name, {"samples": ()})["samples"]:
                if labels == ["5m"]:
                    return float(part / whole) if whole else 0.0
            return 0.0

        return recent("s3proxy_cache_hit_rate_ratio"), recent("s3proxy_cache_byte_hit_rate_ratio")
