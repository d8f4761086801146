"""Starts the real ``twistd -n s3proxy --config FILE`` from the checkout, and looks at it from outside."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from s3proxy.services.admin_socket import LONGEST
from test.support.waiting import (
    PATIENCE,
    directory_size,
    free_ports,
    open_descriptors,
    peak_resident_bytes,
    poll,
    resident_bytes,
)

__all__ = ["ProxyEnded", "ProxyProcess", "clean_environment"]

_CHECKOUT = Path(__file__).resolve().parents[2]
_RUN = "from twisted.scripts.twistd import run; run()"
START_SECONDS = 30
STOP_SECONDS = 40


class ProxyEnded(Exception):
    """The proxy ended when it should not; ``output`` is what it printed."""

    def __init__(self, code: int | None, output: str) -> None:
        super().__init__(f"the proxy ended with exit code {code}: {output[-4000:]}")
        self.code = code
        self.output = output


def clean_environment() -> dict[str, str]:
    """This process's environment without what would redirect an S3 client or configure the proxy."""
    dropped = {"http_proxy", "https_proxy", "no_proxy", "all_proxy", "log_level"}
    return {
        name: value
        for name, value in os.environ.items()
        if name.lower() not in dropped and not name.startswith(("AWS_", "S3PROXY_"))
    }


def _merge(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in changes.items():
        present = merged.get(name)
        if isinstance(present, dict) and isinstance(value, Mapping) and not name.endswith("_overrides"):
            merged[name] = _merge(present, value)
        else:
            merged[name] = value
    return merged


class ProxyProcess:
    """One proxy with its folder. ``start`` before use; ``stop`` in the clean-up.

    Defaults: one worker, every listener on a free port of 127.0.0.1, cache, logs and socket in a temporary folder, the
    system's certificate authorities not trusted, no resolver that answers.

    :param config: sections and keys that replace the defaults; merged section by section, but the two override maps
        are replaced whole.
    :param folder: where cache and logs go; by default a temporary one, removed by :meth:`stop`.
    """

    def __init__(self, config: Mapping[str, Any] | None = None, *, folder: Path | None = None) -> None:
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="s3proxy-")
            folder = Path(self._temporary.name)
        self.folder = folder
        http_port, https, proxy, tls, health, metrics, dashboard = free_ports(7)
        loopback = "127.0.0.1"
        defaults: dict[str, Any] = {
            "server": {
                "mode": "standard",
                "workers": 1,
                "bind_addresses": [loopback],
                "http_port": http_port,
                "https_port": https,
                "proxy_port": proxy,
                "tls": {"tls_proxy_port": tls},
            },
            "cache": {"cache_dir": str(self.folder / "cache"), "max_ram_cache_size": 64 << 20},
            "logging": {
                "access_log_dir": str(self.folder / "logs" / "access"),
                "app_log_dir": str(self.folder / "logs" / "app"),
                "access_log_flush_interval": "1s",
            },
            "connection_pool": {"dns_servers": ["127.0.0.1:9"], "system_ca": False},
            "health": {"port": health, "bind_address": loopback},
            "metrics": {"port": metrics, "bind_address": loopback},
            "dashboard": {"port": dashboard, "bind_address": loopback},
            "admin": {"socket": str(self.folder / "admin.sock")},
        }
        if len(defaults["admin"]["socket"]) > LONGEST:
            defaults["admin"] = {"enabled": False}
        self.config = _merge(defaults, config or {})
        self.config_file = self.folder / "s3proxy.yaml"
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0

    def configure(self, changes: Mapping[str, Any]) -> None:
        """Replace sections and keys; counts from the next start."""
        self.config = _merge(self.config, changes)

    @property
    def port(self) -> int:
        """The port of the caching listener of this mode."""
        server = self.config["server"]
        found: int = server["proxy_port" if server["mode"] == "proxy_only" else "http_port"]
        return found

    @property
    def cache_dir(self) -> Path:
        """Where it caches."""
        return Path(self.config["cache"]["cache_dir"])

    @property
    def pid(self) -> int:
        """The process id.

        :raises ProxyEnded: if it does not run.
        """
        if self._process is None or self._process.poll() is not None:
            raise ProxyEnded(None if self._process is None else self._process.returncode, self.output())
        return self._process.pid

    def _output_file(self) -> Path:
        return self.folder / f"output-{self._starts}.txt"

    def output(self) -> str:
        """What the newest start printed."""
        path = self._output_file()
        return path.read_text(errors="backslashreplace") if path.exists() else ""

    def app_log(self) -> str:
        """All application log files, one after the other."""
        return self._read_logs("app")

    def access_log(self) -> str:
        """All access log files, one after the other."""
        return self._read_logs("access")

    def _read_logs(self, name: str) -> str:
        files = sorted((self.folder / "logs" / name).rglob("*"))
        return "".join(path.read_text(errors="backslashreplace") for path in files if path.is_file())

    def spawn(
        self,
        arguments: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        *,
        options: tuple[str, ...] = (),
    ) -> None:
        """Start the process without waiting for anything. Writes the configuration file first.

        :param arguments: of s3proxy
        :param options: of twistd
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config_file.write_text(yaml.safe_dump(self.config))
        self._starts += 1
        command = [sys.executable, "-c", _RUN, "-n", "--pidfile=", *options]
        command += ["s3proxy", "--config", str(self.config_file)]
        with self._output_file().open("wb") as output:
            self._process = subprocess.Popen(
                [*command, *arguments],
                cwd=self.folder,
                env={**clean_environment(), "PYTHONPATH": str(_CHECKOUT), **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def start(self, seconds: float = START_SECONDS) -> None:
        """Start it and wait until it is healthy and accepts traffic.

        :raises ProxyEnded: if it ends instead.
        """
        self.spawn()
        try:
            poll(self._ready, seconds, "the proxy to become healthy")
        except TimeoutError:
            output = self.output()
            self.kill9()
            raise ProxyEnded(None, f"not healthy after {seconds} s; {output}") from None

    def _ready(self) -> bool:
        if not self.running:
            raise ProxyEnded(self.wait(1), self.output())
        try:
            return self._get(self.config["health"]["port"], "/readyz")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    @property
    def running(self) -> bool:
        """True while the process lives."""
        return self._process is not None and self._process.poll() is None

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Wait for its end; returns the exit code, negative for a signal.

        :raises TimeoutError: if it goes on.
        """
        if self._process is None:
            raise ProxyEnded(None, "never started")
        try:
            return self._process.wait(seconds * PATIENCE)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"no end within {seconds * PATIENCE:g} s: {self.output()[-2000:]}") from None

    def signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def terminate(self, seconds: float = STOP_SECONDS) -> int:
        """Send SIGTERM and wait; returns the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(seconds)

    def kill9(self) -> None:
        """Send SIGKILL and wait."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def restart(self) -> None:
        """Start again on the same folder and ports, after SIGTERM if it still runs."""
        if self.running:
            self.terminate()
        self.start()

    def stop(self) -> None:
        """End it in whatever state it is and remove the temporary folder."""
        if self.running:
            try:
                self.terminate(10)
            except TimeoutError:
                self.kill9()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _get(self, port: int, path: str, accept: str = "*/*") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", path, headers={"Accept": accept})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def health(self) -> dict[str, Any]:
        """The document at /health."""
        _, body = self._get(self.config["health"]["port"], self.config["health"].get("endpoint", "/health"))
        found: dict[str, Any] = json.loads(body)
        return found

    def metrics_text(self) -> str:
        """The Prometheus text."""
        return self._get(self.config["metrics"]["port"], self.config["metrics"].get("endpoint", "/metrics"))[1].decode()

    def metrics(self) -> dict[str, float]:
        """Series with their labels as text, e.g. ``name{a="b"}``, to values."""
        found = {}
        for line in self.metrics_text().splitlines():
            match = re.fullmatch(r"([a-zA-Z_:][^{ ]*(?:\{.*\})?) (\S+)(?: \d+)?", line)
            if match is not None and not line.startswith("#"):
                found[match[1]] = float(match[2])
        return found

    def metric(self, name: str, **labels: str) -> float:
        """The sum of all series with this name and these labels; 0 without any."""
        total = 0.0
        for series, value in self.metrics().items():
            given, _, text = series.partition("{")
            if given == name and all(f'{label}="{wanted}"' in text for label, wanted in labels.items()):
                total += value
        return total

    def rss(self) -> int:
        """Resident bytes now."""
        return resident_bytes(self.pid)

    def peak_rss(self) -> int:
        """The most resident bytes so far."""
        return peak_resident_bytes(self.pid)

    def open_descriptors(self) -> int:
        """How many descriptors it has open."""
        return open_descriptors(self.pid)

    def cache_bytes(self) -> int:
        """The sum of all file sizes in its cache directory."""
        return directory_size(self.cache_dir)
