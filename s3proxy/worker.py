"""The program of a worker process, which ``twistd s3proxy`` starts when ``server.workers`` is more than 1."""

import sys
from typing import Any

from s3proxy.cluster.handover import HandoverError, read_setup

__all__ = ["main"]


def main() -> None:
    """Serve until the supervisor says that it is over. What keeps it from serving is printed as one line."""
    try:
        handover = read_setup()
    except HandoverError as error:
        print(f"s3proxy: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    # Only now: these modules are many, and importing them chooses the reactor.
    from twisted.internet import reactor

    from s3proxy.services.errors import StartError
    from s3proxy.services.worker import WorkerService

    running: Any = reactor
    service = WorkerService(running, handover)
    service.listen_for_signals()
    try:
        service.startService()
    except StartError as error:
        print(f"s3proxy: worker {handover.number}: {error}", file=sys.stderr, flush=True)
        raise SystemExit(1) from None
    running.run(installSignalHandlers=False)
    raise SystemExit(service.code)
