"""A proxy that another program starts: one that traces it, or gives it namespaces of its own."""

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from test.support.proxy_process import ProxyEnded, ProxyProcess, clean_environment
from test.support.waiting import poll
from typing import Any
from unittest import SkipTest

import yaml

__all__ = ["HostProxy", "WrappedProxy", "require_namespaces"]

_CHECKOUT = Path(__file__).resolve().parents[2]
_RUN = "from twisted.scripts.twistd import run; run()"
_ALONE = ("unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "--")
_NAMED = ("sh", "-c", 'echo "$0" > /proc/sys/kernel/hostname && exec "$@"')
_numbers = itertools.count(1)


def require_namespaces() -> None:
    """See whether :class:`HostProxy` can be used.

    :raises SkipTest: not here
    """
    try:
        done = subprocess.run([*_ALONE, "true"], capture_output=True, text=True, timeout=20)
    except OSError as problem:
        raise SkipTest(f"needs unshare: {problem}") from None
    if done.returncode != 0:
        raise SkipTest(f"needs the right to make namespaces: {done.stderr.strip()}")


class WrappedProxy(ProxyProcess):
    """See the module.

    :param wrapper: program and arguments that the proxy's own command is appended to; it must run the proxy as its
        child, and end with it
    """

    def __init__(
        self, wrapper: Sequence[str], config: Mapping[str, Any] | None = None, *, folder: Path | None = None
    ) -> None:
        super().__init__(config, folder=folder)
        self._wrapper = tuple(wrapper)

    def spawn(
        self,
        arguments: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        *,
        options: tuple[str, ...] = (),
    ) -> None:
        """See :meth:`ProxyProcess.spawn`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config_file.write_text(yaml.safe_dump(self.config))
        self._starts += 1
        command = [*self._wrapper, sys.executable, "-c", _RUN, "-n", "--pidfile=", *options]
        command += ["s3proxy", "--config", str(self.config_file), *arguments]
        with self._output_file().open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**clean_environment(), "PYTHONPATH": str(_CHECKOUT), **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def pid(self) -> int:
        """The process id of the proxy itself, as this process sees it.

        :raises ProxyEnded: if it does not run.
        """
        outer = super().pid
        children: list[str] = []

        def started() -> bool:
            children[:] = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
            return bool(children)

        try:
            poll(started, 5, "the proxy to start")
        except (OSError, TimeoutError):
            raise ProxyEnded(None, self.output()) from None
        return int(children[0])

    def kill9(self) -> None:
        """Send SIGKILL and wait."""
        if self.running:
            try:
                os.kill(self.pid, signal.SIGKILL)
                self.wait(5)
            except (ProxyEnded, ProcessLookupError, TimeoutError):
                pass
        super().kill9()


class HostProxy(WrappedProxy):
    """A proxy that takes itself for the only one on its host, which has a name of its own: others can't tell by its
    process number whether it lives, and it can't tell that of others.
    """

    def __init__(self, config: Mapping[str, Any] | None = None, *, folder: Path | None = None) -> None:
        super().__init__((*_ALONE, *_NAMED, f"host-{next(_numbers)}"), config, folder=folder)
