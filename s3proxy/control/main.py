"""The entry point of ``s3proxyctl``."""

import functools
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from s3proxy.control.command_line import parser
from s3proxy.control.commands import COMMANDS, Context, IAdmin
from s3proxy.control.locate import directories, find_socket
from s3proxy.control.outcome import FINE, INTERRUPTED, ControlError
from s3proxy.control.output import Output
from s3proxy.telemetry.thread import SerialThread

__all__ = ["main", "run"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line says. Ends with :class:`SystemExit`."""
    given = parser().parse_args(arguments)
    output = Output(sys.stdout, sys.stderr, as_json=given.json)
    try:
        code = _in_reactor(given, output)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = FINE
    raise SystemExit(code)


def _in_reactor(given: Namespace, output: Output) -> int:
    from twisted.internet import reactor

    loop: Any = reactor
    codes: list[int] = []
    failures: list[Failure] = []

    @functools.cache
    def admin() -> IAdmin:
        from s3proxy.control.client import AdminClient

        path = find_socket(
            given.socket or os.environ.get("S3PROXY_SOCKET"),
            given.config or os.environ.get("S3PROXY_CONFIG"),
            os.environ,
            directories(os.environ, os.geteuid()),
        )
        return AdminClient(loop, path, given.patience)

    context = Context(
        given=given, output=output, environ=os.environ, stdin=sys.stdin, admin=admin, clock=loop,
        in_thread=SerialThread(loop, "warm").run,
    )  # fmt: skip

    def begin() -> None:
        # Later than the reactor's own: it would end without a word.
        signal.signal(signal.SIGINT, lambda *_: loop.callFromThread(interrupted))
        running = Deferred.fromCoroutine(run(context))
        running.addCallbacks(codes.append, failures.append).addBoth(lambda _: end())

    def interrupted() -> None:
        if not codes and not failures:
            codes.append(FINE if given.command == "top" else INTERRUPTED)
            end()

    def end() -> None:
        if loop.running:
            loop.stop()

    loop.callWhenRunning(begin)
    loop.run()
    if failures:
        failures[0].raiseException()
    return codes[0] if codes else INTERRUPTED


async def run(context: Context) -> int:
    """The exit code of a command; what is wrong is said."""
    try:
        return await COMMANDS[context.given.command](context)
    except ControlError as error:
        context.output.fail(str(error), error.code)
        return error.code
