"""The servers that are measured, and the origin behind them: each started with one call and stopped with another."""

import datetime
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = [
    "HOST",
    "Nginx",
    "Server",
    "free_port",
    "make_objects",
    "nginx_cache",
    "nginx_origin",
    "s3proxy",
    "write_certificate",
]

HOST = "s3.bench.test"
"""The name that clients ask for; it resolves nowhere."""
ROOT = Path(__file__).resolve().parent.parent

SIZES: Mapping[str, int] = {"k1": 1 << 10, "k64": 64 << 10, "m1": 1 << 20, "m8": 8 << 20, "m64": 64 << 20}


def free_port() -> int:
    """A TCP port of the loopback interface that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def make_objects(folder: Path) -> None:
    """One file of each size, of bytes that don't repeat within a MiB."""
    bucket = folder / "bucket"
    bucket.mkdir(parents=True, exist_ok=True)
    block = os.urandom(1 << 20)
    for name, size in SIZES.items():
        with open(bucket / name, "wb") as file:
            left = size
            while left > 0:
                file.write(block[:left])
                left -= len(block)


def write_certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for the origin, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    certificate_path, key_path = folder / "origin.pem", folder / "origin.key"
    certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_path, key_path


class Server:
    """A process that listens on ``port``; stopped with its children."""

    def __init__(
        self, name: str, port: int, command: list[str], *, cwd: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.port = port
        self._log = open(cwd / f"{name}.out", "wb")
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
                return
            except OSError:
                time.sleep(0.05)
        self.stop()
        raise RuntimeError(f"{self.name} does not listen on port {self.port}; see {self._log.name}")

    def _pids(self) -> list[int]:
        pids = [self.process.pid]
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                if int(fields[1]) == self.process.pid:
                    pids.append(int(entry.name))
        return pids

    def cpu_seconds(self) -> float:
        """User and system time of the process and its children so far."""
        ticks = 0
        for pid in self._pids():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def rss(self) -> int:
        """Resident bytes of the process and its children."""
        total = 0
        for pid in self._pids():
            try:
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            except OSError:
                continue
        return total

    def stop(self) -> None:
        """End it."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self._log.close()


def Nginx(name: str, port: int, folder: Path, http: str) -> Server:  # noqa: N802
    """nginx with one worker and these directives. Without tcp_nopush: with it, a hit of 64 KiB took 40 ms here."""
    home = folder / name
    home.mkdir(parents=True, exist_ok=True)
    (home / "nginx.conf").write_text(textwrap.dedent("""\
            daemon off;
            worker_processes 1;
            pid {home}/nginx.pid;
            error_log {home}/error.log warn;
            events {{ worker_connections 4096; }}
            http {{
              client_body_temp_path {home}/body;
              proxy_temp_path {home}/temp;
              fastcgi_temp_path {home}/fastcgi;
              uwsgi_temp_path {home}/uwsgi;
              scgi_temp_path {home}/scgi;
              sendfile on;
              tcp_nodelay on;
              keepalive_requests 1000000;
              default_type binary/octet-stream;
              {http}
            }}
            """).format(home=home, http=http))
    if os.geteuid() == 0:
        # Workers give up root; what they write must be theirs.
        for path in (home, folder):
            os.chmod(path, 0o777)
    return Server(
        name, port, ["nginx", "-p", str(home), "-c", str(home / "nginx.conf"), "-e", str(home / "error.log")], cwd=home
    )


def nginx_origin(folder: Path, certificate: tuple[Path, Path]) -> Server:
    """The origin: static files over TLS. ``/bucket/u/<anything>/<size>`` is another key for the file of that size."""
    port = free_port()
    return Nginx(
        "origin",
        port,
        folder,
        f"""
        access_log off;
        ssl_certificate {certificate[0]};
        ssl_certificate_key {certificate[1]};
        ssl_session_cache shared:s:10m;
        server {{
          listen 127.0.0.1:{port} ssl backlog=4096;
          root {folder}/objects;
          rewrite ^/bucket/u/[^/]+/(.*)$ /bucket/$1 last;
        }}
        """,
    )


def nginx_cache(folder: Path, origin: int, certificate: Path, *, buffering_to_disk: bool = True) -> Server:
    """nginx proxy_cache in front of the origin, with an access log, and TLS that is verified."""
    port = free_port()
    return Nginx(
        "nginx",
        port,
        folder,
        f"""
        access_log {folder}/nginx/access.log combined buffer=64k flush=1s;
        proxy_cache_path {folder}/nginx/cache levels=1:2 keys_zone=c:64m max_size=20g inactive=1h use_temp_path=off;
        upstream origin {{ server 127.0.0.1:{origin}; keepalive 64; }}
        server {{
          listen 127.0.0.1:{port} backlog=4096;
          location / {{
            proxy_pass https://origin;
            proxy_http_version 1.1;
            proxy_set_header Host {HOST};
            proxy_set_header Connection "";
            proxy_ssl_server_name on;
            proxy_ssl_name {HOST};
            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate {certificate};
            proxy_ssl_session_reuse on;
            proxy_cache c;
            proxy_cache_key $uri;
            proxy_cache_valid 200 206 1h;
            proxy_cache_lock on;
            proxy_buffers 32 64k;
            proxy_buffer_size 64k;
            proxy_busy_buffers_size 256k;
          }}
        }}
        """,
    )


def s3proxy(folder: Path, origin: int, certificate: Path, *, port: int | None = None) -> Server:
    """This proxy in one process, with its access log."""
    port = port or free_port()
    home = folder / "s3proxy"
    home.mkdir(parents=True, exist_ok=True)
    health, metrics = free_port(), free_port()
    (home / "config.yaml").write_text(textwrap.dedent(f"""\
            server:
              mode: proxy_only
              proxy_port: {port}
              bind_addresses: ["127.0.0.1"]
              workers: 1
              add_referer_header: false
            cache:
              cache_dir: {home}/cache
              max_cache_size: 20000000000
              get_ttl: "1h"
              head_ttl: "1h"
            logging:
              access_log_dir: {home}/logs/access
              app_log_dir: {home}/logs/app
            connection_pool:
              endpoint_overrides:
                {HOST}: ["127.0.0.1:{origin}"]
              upstream_overrides:
                "{HOST}:80": {{scheme: https, validate_tls: true, ca_file: "{certificate}"}}
              max_idle_per_ip: 64
            health: {{bind_address: 127.0.0.1, port: {health}}}
            metrics: {{bind_address: 127.0.0.1, port: {metrics}}}
            dashboard: {{enabled: false}}
            """))
    command = [
        sys.executable,
        "-c",
        "from twisted.scripts.twistd import run; run()",
        "-n",
        "--pidfile=",
        "s3proxy",
        "--config",
        str(home / "config.yaml"),
    ]
    server = Server("s3proxy", port, command, cwd=home, env={"PYTHONPATH": str(ROOT)})
    urllib.request.urlopen(f"http://127.0.0.1:{health}/health", timeout=10).close()
    return server
