"""``s3proxyctl top``: what the proxy does now, again and again."""

import sys
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.task import deferLater

from s3proxy.control.output import Output
from s3proxy.control.rates import rates

__all__ = ["run_top"]


async def run_top(
    clock: Any, output: Output, ask: Callable[[], Awaitable[dict[str, Any]]], interval: float, times: int | None
) -> None:
    """Show a document every ``interval`` seconds.

    :param times: how often; None: on a terminal until somebody ends it, elsewhere once
    """
    if times is None and not output.is_terminal:
        times = 1
    before = await ask()
    # Rates are those of the time between two documents.
    await deferLater(clock, min(interval, 1.0) if times == 1 else interval)
    with _Screen(output, whole=times is None) as screen:
        while True:
            now = await ask()
            screen.show({**now, "rates": rates(before["summary"], now["summary"])})
            before = now
            if times is not None:
                times -= 1
                if times <= 0:
                    return
            await deferLater(clock, interval)


class _Screen:
    """Shows one document after the other: in place of the last one on a terminal, below it elsewhere."""

    def __init__(self, output: Output, *, whole: bool) -> None:
        self._output = output
        self._live: Any = None
        if whole:
            from rich.live import Live

            self._live = Live(console=output.console, screen=True, auto_refresh=False)

    def __enter__(self) -> "_Screen":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, document: dict[str, Any]) -> None:
        """The newest one."""
        if self._live is None:
            self._output.show("top", document)
            sys.stdout.flush()
        else:
            from s3proxy.control import tables

            self._live.update(tables.top(document), refresh=True)
