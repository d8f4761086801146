"""This process's part of the limit on downloads, which all instances on one cache directory have in common."""

from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from s3proxy.config.model import DownloadBandwidth
from s3proxy.storage.diskio import DiskBusy
from s3proxy.upstream.pacing import Pacer

__all__ = ["BandwidthService", "part_of"]


def part_of(limit: int, instances: int, least_instances: int) -> int:
    """Bytes per second of one of so many instances: at least one, or 0 where there is no limit."""
    return max(1, limit // max(instances, least_instances, 1)) if limit else 0


class BandwidthService(Service):
    """Counts the instances from time to time, and tells the pacer its part.

    :param config: its limit is that of all processes with this one's number among the workers of their instances
    :param count: the instances that have shown life within so many seconds; blocks
    :param run: calls something in a thread
    :ivar instances: how many there were at the last count
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        config: DownloadBandwidth,
        pacer: Pacer,
        count: Callable[[float], int],
        run: Callable[..., "Deferred[Any]"],
    ) -> None:
        self._reactor = reactor
        self._config = config
        self._pacer = pacer
        self._count = count
        self._run = run
        self._loop = LoopingCall(self._recount)
        self._loop.clock = reactor
        self.instances = 1
        self._share_out()

    def startService(self) -> None:
        """Count now, and again and again."""
        super().startService()
        self._run_loop()

    def _run_loop(self) -> None:
        if self.running and self._config.max_bytes_per_sec and not self._loop.running:
            self._loop.start(self._config.fleet.refresh_interval).addErrback(
                lambda reason: self.log.failure("sharing the download bandwidth", reason)
            )

    def stopService(self) -> None:
        """Who waits for bandwidth waits no more."""
        super().stopService()
        if self._loop.running:
            self._loop.stop()
        self._pacer.stop()

    def reconfigure(self, config: DownloadBandwidth) -> None:
        """Another limit from now on."""
        self._config = config
        self._share_out()
        self._run_loop()

    def _recount(self) -> "Deferred[Any] | None":
        if not self._config.max_bytes_per_sec:
            return None
        return self._run(self._count, self._config.fleet.instance_staleness).addCallbacks(
            self._counted, self._not_counted
        )

    def _counted(self, instances: int) -> None:
        self.instances = max(1, instances)
        self._share_out()

    def _not_counted(self, reason: Failure) -> None:
        """What was counted before goes on to hold."""
        if not reason.check(DiskBusy, OSError):
            self.log.failure("counting the instances", reason)

    def _share_out(self) -> None:
        self._pacer.set_rate(
            part_of(self._config.max_bytes_per_sec, self.instances, self._config.fleet.fallback_instance_count)
        )
