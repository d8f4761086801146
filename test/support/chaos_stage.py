"""Two proxies of two workers each on one small cache directory, in front of one S3."""

import json
import math
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from test.support.chaos_history import Log
from test.support.fake_control import RemoteFakeS3
from test.support.proxy_process import ProxyProcess

import attrs

__all__ = ["BUCKET", "HOST", "MIB", "PART", "REFRESH", "TTL", "ChaosStage", "Setting"]

HOST = b"s3.us-east-1.amazonaws.com"
BUCKET = "chaos"
MIB = 1 << 20
PART = 64 * 1024
TTL = 3.0
REFRESH = 1.0
TROUBLE = 12.0
"""Seconds after something was killed in which connections may break."""
_CHECKOUT = Path(__file__).resolve().parents[2]
_CLOCK = """\
import os
import time

_seconds = float(os.environ["CHAOS_CLOCK"])
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + _seconds
time.time_ns = lambda: _time_ns() + int(_seconds * 1e9)
"""
_EVICTED = "s3proxy_cache_evicted_bytes_total"


@attrs.frozen(kw_only=True)
class Setting:
    """How much of it.

    :ivar seconds: of chaos
    :ivar clients: at once
    :ivar pause: seconds between two blows, about
    :ivar limit: bytes that the cache may have, which is less than all objects
    :ivar skew: seconds by which the clock of the second instance is ahead
    """

    seconds: float
    seed: int
    clients: int = 6
    objects: int = 24
    pause: float = 2.5
    limit: int = 8 * MIB
    skew: float = 0.0


class _Proxy(ProxyProcess):
    """A proxy, all of whose processes have a clock of their own.

    :ivar skew: seconds by which it is ahead
    """

    skew = 0.0

    def spawn(
        self,
        arguments: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        *,
        options: tuple[str, ...] = (),
    ) -> None:
        """See :class:`ProxyProcess`."""
        if self.skew:
            folder = self.folder / "clock"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "sitecustomize.py").write_text(_CLOCK)
            environment = {
                **(environment or {}),
                "PYTHONPATH": os.pathsep.join((str(folder), str(_CHECKOUT))),
                "CHAOS_CLOCK": str(self.skew),
            }
        super().spawn(arguments, environment, options=options)


class ChaosStage:
    """See the module. :meth:`close` in the end.

    :ivar cache: the directory that both use
    :ivar small_disk: it has a small file system of its own
    :ivar counts: what was done, and what came of it
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.log = Log()
        self.counts: Counter[str] = Counter()
        self.folder = Path(tempfile.mkdtemp(prefix="s3proxy-chaos-"))
        self.cache = self.folder / "cache"
        self.cache.mkdir()
        self.small_disk = self._mount()
        self.fake = RemoteFakeS3(names=(HOST.decode(),), options=("--min-part-size", str(PART)))
        self.fake.create_bucket(BUCKET)
        self.proxies = [self._proxy(number) for number in range(2)]
        self.proxies[1].skew = setting.skew
        self._trouble_until = [0.0, 0.0]
        self._evicted = [0.0, 0.0]

    def _mount(self) -> bool:
        """A small file system for the cache, if this process may."""
        size = 3 * self.setting.limit
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(self.cache)], capture_output=True, check=False
        )
        return made.returncode == 0

    def _proxy(self, number: int) -> _Proxy:
        return _Proxy(
            {
                "server": {"workers": 2, "max_concurrent_requests": 400, "drain_timeout": "3s"},
                "cache": {
                    "cache_dir": str(self.cache),
                    "max_cache_size": self.setting.limit,
                    "get_ttl": f"{TTL:g}s",
                    "head_ttl": f"{TTL:g}s",
                    "put_ttl": f"{TTL:g}s",
                    "write_cache_percent": 30,
                    "metadata_cache": {"refresh_interval": f"{REFRESH:g}s"},
                    "max_ram_cache_size": 8 * MIB,
                },
                "connection_pool": {
                    "endpoint_overrides": {HOST.decode(): [f"127.0.0.1:{self.fake.tls_port}"]},
                    "upstream_overrides": {
                        f"{HOST.decode()}:80": {"scheme": "https", "ca_file": str(self.fake.ca_file)}
                    },
                },
                "dashboard": {"enabled": False},
            },
            folder=self.folder / f"instance-{number}",
        )

    def close(self) -> None:
        """End everything and remove the files."""
        for proxy in self.proxies:
            proxy.stop()
        self.fake.stop()
        if self.small_disk:
            subprocess.run(["umount", "-l", str(self.cache)], capture_output=True, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    # Instances.

    def start(self, number: int) -> None:
        """Start an instance, and wait until it serves."""
        self.proxies[number].start()
        self.trouble(number)

    def skew(self, number: int) -> float | None:
        """By how much an instance itself finds that its clock is ahead; None: it has not looked yet."""
        found = re.search(r'"clock_skew_seconds": (-?[0-9.]+)', json.dumps(self.proxies[number].health()))
        return None if found is None else -float(found[1])

    def trouble(self, number: int) -> None:
        """Something is being done to an instance: what its clients see for a while is no fault."""
        self._trouble_until[number] = time.monotonic() + TROUBLE

    def down(self, number: int) -> None:
        """It is going to be ended: whatever its clients see is no fault until a while after :meth:`start`."""
        self._trouble_until[number] = math.inf

    def in_trouble(self, number: int) -> bool:
        """Whether something was done to it a moment ago."""
        return time.monotonic() < self._trouble_until[number]

    def pids(self, number: int) -> list[int]:
        """The processes of an instance, its supervisor first."""
        main = self.proxies[number].pid
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        return [main, *map(int, children)]

    def note_evictions(self) -> None:
        """Count what has been evicted since the last call; what was evicted before a restart and after the last call is
        lost.
        """
        for number, proxy in enumerate(self.proxies):
            try:
                evicted = proxy.metric(_EVICTED, tier="disk")
            except OSError:
                continue
            before = self._evicted[number]
            self.counts["bytes evicted"] += int(evicted - before if evicted >= before else evicted)
            self._evicted[number] = evicted

    # Files.

    def files(self) -> list[Path]:
        """All that are stored, or about to be."""
        return [Path(parent, name) for parent, _, names in os.walk(self.cache / "o") for name in names]
