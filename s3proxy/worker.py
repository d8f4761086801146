"""The program of a worker process, which ``twistd s3proxy`` starts when ``server.workers`` is more than 1."""

import os
import sys
import traceback
from typing import TYPE_CHECKING, Any, NoReturn

from s3proxy.cluster.handover import HandoverError, read_setup

if TYPE_CHECKING:
    from s3proxy.services.worker import WorkerService

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
        print(f"s3proxy: worker {handover.number}: {error}", file=sys.stderr)
        _fail(service, str(error))
    except Exception:
        traceback.print_exc()
        _fail(service, "an error that nobody expected; standard error has its traceback")
    running.run(installSignalHandlers=False)
    raise SystemExit(service.code)


def _fail(service: "WorkerService", why: str) -> NoReturn:
    """End at once: the threads that run already would keep the process, and the supervisor would wait for it."""
    service.give_up(why)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
