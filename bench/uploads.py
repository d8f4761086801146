"""Uploads through the proxy beside uploads straight to the same store, which is reached over TLS in both cases.

    python bench/uploads.py [--megabytes N …] [--rounds N]

prints MiB per second of both, in turns, the ratios of each round, and the proxy's processor time per GiB: with what is
uploaded kept in the cache, and not kept. The store reads bodies and forgets them. The client sends the same bytes again
and again; straight to the store it does the work of TLS itself, which the proxy does otherwise.
"""

import argparse
import itertools
import socket
import ssl
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.origins import _write_certificate as write_certificate  # noqa: E402
from bench.process import ROOT, Server, free_port  # noqa: E402
from bench.requests import HOST  # noqa: E402

__all__ = ["Upload", "main"]

MIB = 1 << 20
_LOOPBACK = "127.0.0.1"
_PIECE = 256 * 1024
_numbers = itertools.count()


# The store, a process of its own.


def store(port: int, certificate: str, key: str) -> None:
    """Serve for ever: read bodies, and answer 200 with an ETag that is no digest."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server((_LOOPBACK, port), backlog=64) as server:
        while True:
            client, _ = server.accept()
            threading.Thread(target=_serve, args=(client, context), daemon=True).start()


def _serve(client: socket.socket, context: ssl.SSLContext) -> None:
    buffer = bytearray(_PIECE)
    try:
        with context.wrap_socket(client, server_side=True) as sock:
            received = b""
            while True:
                while b"\r\n\r\n" not in received:
                    data = sock.recv(_PIECE)
                    if not data:
                        return
                    received += data
                head, _, rest = received.partition(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or b"0")
                left = length - len(rest)
                while left > 0:
                    count = sock.recv_into(buffer, min(left, _PIECE))
                    if not count:
                        return
                    left -= count
                received = b""
                tag = b'"upload-%d"' % next(_numbers)
                sock.sendall(b"HTTP/1.1 200 OK\r\nETag: %b\r\nContent-Length: 0\r\n\r\n" % tag)
    except OSError:
        return


# The proxy.


def proxy(folder: Path, port: int, certificate: Path, keep: bool) -> Server:
    """One process."""
    name = "kept" if keep else "passed-on"
    home = folder / name
    home.mkdir()
    listen = free_port()
    config = {
        "server": {
            "mode": "standard", "http_port": listen, "https_port": free_port(), "workers": 1,
            "bind_addresses": [_LOOPBACK],
        },
        "cache": {
            "cache_dir": str(home / "cache"), "max_cache_size": 16 << 30, "write_cache_enabled": keep,
            "write_cache_percent": 50,
        },
        "logging": {"access_log_dir": str(home / "access"), "app_log_dir": str(home / "app")},
        "connection_pool": {
            "endpoint_overrides": {HOST: [f"{_LOOPBACK}:{port}"]},
            "upstream_overrides": {f"{HOST}:80": {"scheme": "https", "ca_file": str(certificate)}},
        },
        "health": {"enabled": False},
        "metrics": {"enabled": False},
        "dashboard": {"enabled": False},
    }  # fmt: skip
    (home / "config.yaml").write_text(yaml.safe_dump(config))
    run = "from twisted.scripts.twistd import run; run()"
    command = [sys.executable, "-c", run, "-n", "--pidfile=", "s3proxy", "--config", str(home / "config.yaml")]
    return Server(name, listen, command, folder=home, environment={"PYTHONPATH": str(ROOT)})


# The client.


@attrs.frozen(kw_only=True)
class Upload:
    """What one measurement saw: bytes per second, and processor seconds of the server per GiB."""

    rate: float
    cpu: float


@contextmanager
def _connection(port: int, certificate: Path | None) -> Iterator[socket.socket]:
    sock = socket.create_connection((_LOOPBACK, port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if certificate is not None:
        context = ssl.create_default_context(cafile=str(certificate))
        sock = context.wrap_socket(sock, server_hostname=HOST)
    with sock:
        yield sock


def upload(server: Server, certificate: Path | None, size: int, count: int) -> Upload:
    """So many objects of this size, one after the other on one connection.

    :param certificate: speak TLS and trust this
    """
    body = memoryview(bytes(range(256)) * (_PIECE // 256))
    with _connection(server.port, certificate) as sock:

        def send(length: int) -> None:
            line = f"PUT /bucket/{next(_numbers)} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {length}\r\n\r\n"
            sock.sendall(line.encode())
            for start in range(0, length, _PIECE):
                sock.sendall(body[: min(_PIECE, length - start)])
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += sock.recv(65536) or b"\r\n\r\n"
            if not answer.startswith(b"HTTP/1.1 200"):
                raise AssertionError(f"{server.name} answered {answer[:200]!r}")

        send(1000)
        cpu, began = server.cpu_seconds(), time.monotonic()
        for _ in range(count):
            send(size)
        took = time.monotonic() - began
        total = size * count
        return Upload(rate=total / took, cpu=(server.cpu_seconds() - cpu) / (total / (1 << 30)))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measures uploads through the proxy beside direct ones.")
    parser.add_argument("--megabytes", type=int, nargs="+", default=[1, 64, 512], help="of the objects (1 64 512)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is taken (5)")
    parser.add_argument("--store", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.store:
        store(int(options.store[0]), options.store[1], options.store[2])
        return 0
    with tempfile.TemporaryDirectory(prefix="s3proxy-uploads-") as name:
        _compare(Path(name), options)
    return 0


def _compare(folder: Path, options: argparse.Namespace) -> None:
    certificate, key = write_certificate(folder)
    port = free_port()
    command = [sys.executable, __file__, "--store", str(port), str(certificate), str(key)]
    servers: list[Server] = [Server("store", port, command, folder=folder, environment={"PYTHONPATH": str(ROOT)})]
    try:
        servers += [proxy(folder, port, certificate, keep) for keep in (True, False)]
        print("| object | through S3 Proxy | MiB/s | direct, MiB/s | ratio (lowest to highest) | CPU-s/GiB, S3 Proxy |")
        print("|---|---|---|---|---|---|")
        for megabytes in options.megabytes:
            count = max(1, 256 // megabytes)
            for through in servers[1:]:
                rounds: list[tuple[Upload, Upload]] = []
                for number in range(options.rounds):
                    ways = [(through, None), (servers[0], certificate)]
                    order = ways if number % 2 == 0 else ways[::-1]
                    found = {server.name: upload(server, trusts, megabytes * MIB, count) for server, trusts in order}
                    rounds.append((found[through.name], found["store"]))
                print(_row(f"{megabytes} MiB", through.name, rounds), flush=True)
    finally:
        for server in reversed(servers):
            server.stop()


def _row(title: str, name: str, rounds: Sequence[tuple[Upload, Upload]]) -> str:
    ours, direct = (statistics.median(pair[index].rate for pair in rounds) / MIB for index in (0, 1))
    ratios = [one.rate / other.rate for one, other in rounds]
    cpu = statistics.median(one.cpu for one, _ in rounds)
    spread = f"{ours / direct:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return f"| {title} | {name} | {ours:.0f} | {direct:.0f} | {spread} | {cpu:.2f} |"


if __name__ == "__main__":
    sys.exit(main())
