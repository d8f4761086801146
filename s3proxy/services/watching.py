"""Who tells the health board how the proxy is, and who makes metrics of it."""

from collections.abc import Callable, Iterable
from typing import Final

import attrs

from s3proxy.admin.board import ComponentStatus, HealthBoard, HealthComponent, HealthState
from s3proxy.services.crew import Crew
from s3proxy.services.engine import Engine
from s3proxy.services.health import upstream_documents
from s3proxy.telemetry.lag import LagSampler
from s3proxy.telemetry.logs import ApplicationLog

__all__ = ["Liveness", "watch"]

_GATES: Final = frozenset({"listeners", "upstream", "capacity", "checks", "workers"})
"""Components of which an unhealthy one means that no traffic is wanted: with the others in trouble, requests are still
answered.
"""


class Liveness:
    """Why the process, or a worker, can't do its work any more.

    :param limit: seconds that an event loop may be late
    """

    def __init__(self, lag: LagSampler, serving: Engine | Crew, limit: float) -> None:
        self._lag = lag
        self._crew = serving if isinstance(serving, Crew) else None
        self._limit = limit

    def __call__(self) -> str | None:
        """The reason; None: there is none."""
        lag = self._lag.current()
        if lag > self._limit:
            return f"The event loop is {lag:.1f} s late."
        return None if self._crew is None else self._crew.too_late(self._limit)


def watch(
    board: HealthBoard,
    serving: Engine | Crew,
    others: dict[str, HealthComponent],
    *,
    failures: Callable[[], Iterable[str]],
    app_log: ApplicationLog,
    liveness: Liveness,
) -> None:
    """Have the board ask all components.

    :param others: components beside those of who serves
    :param failures: which listeners for operators can't listen, and why
    """

    def listeners() -> ComponentStatus:
        status, failed = serving.health()["listeners"](), list(failures())
        return _degraded(status, " ".join((*failed, status.message))) if failed else status

    def logs() -> ComponentStatus:
        status = serving.health()["logs"]()
        if not app_log.failure:
            return status
        return _degraded(status, f"The application log can't be written: {app_log.failure}. {status.message}")

    own: dict[str, HealthComponent] = {"listeners": listeners, "logs": logs}
    for name, component in {**others, **serving.health(), **own}.items():
        board.add(name, component, gates=name in _GATES)
    board.show_upstreams(lambda: upstream_documents(serving.upstream()))
    board.add_liveness(liveness)


def _degraded(status: ComponentStatus, text: str) -> ComponentStatus:
    return attrs.evolve(status, state=HealthState.DEGRADED, message=text.strip())
