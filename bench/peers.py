"""The servers that are measured: S3 Proxy in one process, nginx with one worker, Varnish. All write an access log."""

import os
import shutil
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bench.origins import Origin, nginx
from bench.process import ROOT, Server, ServerFailed, free_port
from bench.requests import HOST

__all__ = ["TITLES", "nginx_cache", "s3proxy", "varnish", "varnish_is_installed"]

TITLES: Mapping[str, str] = {
    "s3proxy": "S3 Proxy", "nginx": "nginx", "slice": "nginx slice", "varnish": "Varnish", "workers-2": "2 workers",
}  # fmt: skip
CACHE_BYTES = 20_000_000_000
SLICE = "8m"


def s3proxy(
    folder: Path,
    origin: Origin,
    *,
    name: str = "s3proxy",
    python: str = sys.executable,
    cache: Mapping[str, Any] | None = None,
    dashboard: int | None = None,
    workers: int = 1,
) -> Server:
    """This proxy, run by this interpreter.

    :param cache: further keys of its section "cache"
    :param dashboard: the port of its dashboard; None: it has none
    :param workers: how many processes serve
    """
    home = folder / name
    home.mkdir(parents=True)
    port, health, metrics = free_port(), free_port(), free_port()
    upstream: dict[str, Any] = {"scheme": "http"}
    if origin.tls is not None:
        upstream = {"scheme": "https", "validate_tls": True, "ca_file": str(origin.certificate)}
    loopback = "127.0.0.1"
    config: dict[str, dict[str, Any]] = {
        "server": {
            "mode": "proxy_only",
            "proxy_port": port,
            "bind_addresses": [loopback],
            "workers": workers,
            "add_referer_header": False,
        },
        "cache": {
            "cache_dir": str(home / "cache"),
            "max_cache_size": CACHE_BYTES,
            "get_ttl": "1h",
            "head_ttl": "1h",
            **(cache or {}),
        },
        "logging": {"access_log_dir": str(home / "logs" / "access"), "app_log_dir": str(home / "logs" / "app")},
        "connection_pool": {
            "endpoint_overrides": {HOST: [f"{loopback}:{origin.tls or origin.plain}"]},
            "upstream_overrides": {f"{HOST}:80": upstream},
            "max_idle_per_ip": 64,
        },
        "health": {"bind_address": loopback, "port": health},
        "metrics": {"bind_address": loopback, "port": metrics},
        "dashboard": {"enabled": False} if dashboard is None else {"bind_address": loopback, "port": dashboard},
    }
    (home / "config.yaml").write_text(yaml.safe_dump(config))
    run = "from twisted.scripts.twistd import run; run()"
    command = [python, "-c", run, "-n", "--pidfile=", "s3proxy", "--config", str(home / "config.yaml")]
    server = Server(name, port, command, folder=home, environment={"PYTHONPATH": str(ROOT)})
    _wait_until_ready(server, f"http://127.0.0.1:{health}/readyz")
    return server


def _wait_until_ready(server: Server, url: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(url, timeout=10).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    server.stop()
    raise ServerFailed(f"{server.name} is not ready: {server.output()[-2000:]}")


def nginx_cache(
    folder: Path, origin: Origin, *, name: str = "nginx", slices: bool = False, caching: bool = True
) -> Server:
    """nginx as a proxy: with proxy_cache, with it in slices of 8 MiB, or without it and without temporary files."""
    port = free_port()
    scheme, tls = "http", ""
    if origin.tls is not None:
        scheme, tls = (
            "https",
            f"""
            proxy_ssl_server_name on;
            proxy_ssl_name {HOST};
            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate {origin.certificate};
            proxy_ssl_session_reuse on;""",
        )
    if not caching:
        cache = "proxy_max_temp_file_size 0;"
    elif slices:
        cache = f"slice {SLICE}; proxy_set_header Range $slice_range; proxy_cache_key $uri$slice_range;"
    else:
        cache = "proxy_cache_key $uri;"
    if caching:
        cache += " proxy_cache c; proxy_cache_valid 200 206 1h; proxy_cache_lock on;"
    return nginx(
        name,
        port,
        folder,
        f"""
        access_log {folder}/{name}/access.log combined buffer=64k flush=1s;
        proxy_cache_path {folder}/{name}/cache levels=1:2 keys_zone=c:64m max_size={CACHE_BYTES} inactive=1d
          use_temp_path=off;
        upstream origin {{
          server 127.0.0.1:{origin.tls or origin.plain};
          keepalive 64;
          keepalive_requests 1000000000;
        }}
        server {{
          listen 127.0.0.1:{port} backlog=4096;
          location / {{
            proxy_pass {scheme}://origin;
            proxy_http_version 1.1;
            proxy_set_header Host {HOST};
            proxy_set_header Connection "";
            proxy_buffers 32 64k;
            proxy_buffer_size 64k;
            proxy_busy_buffers_size 256k;
            {tls}
            {cache}
          }}
        }}
        """,
    )


def varnish_is_installed() -> bool:
    """True if varnishd and the program that writes its access log can be started."""
    return all(shutil.which(program) is not None for program in ("varnishd", "varnishncsa"))


def varnish(
    folder: Path, origin: Origin, *, name: str = "varnish", storage: str = "file", caching: bool = True
) -> Server:
    """Varnish with storage in a file or in memory ("malloc", 1 GiB). It speaks no TLS: it fetches over plain HTTP.

    It has no setting for a single thread, so it uses as many processors as there are.
    """
    home = folder / name
    work = home / "work"
    work.mkdir(parents=True)
    port = free_port()
    backend = "return (hash);" if caching else "return (pass);"
    (home / "default.vcl").write_text(textwrap.dedent(f"""\
            vcl 4.1;
            backend origin {{ .host = "127.0.0.1"; .port = "{origin.plain}"; }}
            sub vcl_recv {{ {backend} }}
            sub vcl_backend_response {{ set beresp.ttl = 1h; set beresp.grace = 0s; }}
            """))
    space = "malloc,1g" if storage == "malloc" else f"file,{home}/storage,{CACHE_BYTES}"
    command = [
        "varnishd", "-F", "-j", "none", "-n", str(work), "-f", str(home / "default.vcl"),
        "-a", f"127.0.0.1:{port}", "-T", "none", "-s", space,
    ]  # fmt: skip
    log = ["varnishncsa", "-n", str(work), "-w", str(home / "access.log")]
    server = Server(name, port, command, folder=home, companions=[log])
    _wait_for_log(server, home / "access.log")
    return server


def _wait_for_log(server: Server, log: Path) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if log.exists() and os.path.getsize(log) >= 0:
            return
        time.sleep(0.05)
    server.stop()
    raise ServerFailed(f"varnishncsa does not write its log: {server.output()[-2000:]}")
