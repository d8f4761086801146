"""Uploads through the proxy beside uploads straight to the same store, which is reached over TLS in both cases.

    python bench/uploads.py [--megabytes N …] [--rounds N] [--pace N]

prints MiB per second of both, in turns, the ratios of each round, the proxy's processor time per GiB, how much its
memory grew, and how much of what was uploaded is in the cache afterwards: with uploads kept, and not kept. The store
reads bodies and forgets them, at ``--pace`` MiB per second, or as fast as it can. The client sends the same bytes again
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


def store(port: int, certificate: str, key: str, pace: float) -> None:
    """Serve for ever: read bodies, and answer 200 with an ETag that is no digest.

    :param pace: bytes per second that a connection is read at; 0: no limit
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server((_LOOPBACK, port), backlog=64) as server:
        while True:
            client, _ = server.accept()
            threading.Thread(target=_serve, args=(client, context, pace), daemon=True).start()


def _serve(client: socket.socket, context: ssl.SSLContext, pace: float) -> None:
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
                began = time.monotonic()
                while left > 0:
                    count = sock.recv_into(buffer, min(left, _PIECE))
                    if not count:
                        return
                    left -= count
                    ahead = (length - left) / pace - (time.monotonic() - began) if pace else 0.0
                    if ahead > 0:
                        time.sleep(ahead)
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
    """What one measurement saw.

    :ivar rate: bytes per second
    :ivar cpu: processor seconds of the server per GiB
    :ivar growth: bytes by which the server's resident memory grew, at most
    """

    rate: float
    cpu: float
    growth: int


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
        cpu, began, memory = server.cpu_seconds(), time.monotonic(), server.resident_bytes()
        for _ in range(count):
            send(size)
        took = time.monotonic() - began
        total = size * count
        growth = server.peak_resident_bytes() - memory
        return Upload(rate=total / took, cpu=(server.cpu_seconds() - cpu) / (total / (1 << 30)), growth=growth)


def kept(server: Server) -> int:
    """Bytes of the cache on disk."""
    files = (server.folder / "cache").rglob("*")
    return sum(file.stat().st_blocks * 512 for file in files if file.is_file())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measures uploads through the proxy beside direct ones.")
    parser.add_argument("--megabytes", type=int, nargs="+", default=[1, 64, 512], help="of the objects (1 64 512)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is taken (5)")
    parser.add_argument("--pace", type=float, default=0, help="MiB per second that the store reads (no limit)")
    parser.add_argument("--store", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.store:
        port, certificate, key, pace = options.store
        store(int(port), certificate, key, float(pace))
        return 0
    with tempfile.TemporaryDirectory(prefix="s3proxy-uploads-") as name:
        _compare(Path(name), options)
    return 0


def _compare(folder: Path, options: argparse.Namespace) -> None:
    certificate, key = write_certificate(folder)
    port = free_port()
    command = [sys.executable, __file__, "--store", str(port), str(certificate), str(key)]
    command.append(str(options.pace * MIB))
    servers: list[Server] = [Server("store", port, command, folder=folder, environment={"PYTHONPATH": str(ROOT)})]
    try:
        servers += [proxy(folder, port, certificate, keep) for keep in (True, False)]
        print(
            "| object | through S3 Proxy | MiB/s | direct, MiB/s | ratio (lowest to highest) "
            "| CPU-s/GiB | memory, MiB | in the cache |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for megabytes in options.megabytes:
            count = max(1, 256 // megabytes)
            for through in servers[1:]:
                rounds: list[tuple[Upload, Upload]] = []
                before = kept(through)
                for number in range(options.rounds):
                    ways = [(through, None), (servers[0], certificate)]
                    order = ways if number % 2 == 0 else ways[::-1]
                    found = {server.name: upload(server, trusts, megabytes * MIB, count) for server, trusts in order}
                    rounds.append((found[through.name], found["store"]))
                share = (kept(through) - before) / (options.rounds * count * megabytes * MIB)
                print(_row(f"{megabytes} MiB", through.name, rounds, share), flush=True)
    finally:
        for server in reversed(servers):
            server.stop()


def _row(title: str, name: str, rounds: Sequence[tuple[Upload, Upload]], share: float) -> str:
    ours, direct = (statistics.median(pair[index].rate for pair in rounds) / MIB for index in (0, 1))
    ratios = [one.rate / other.rate for one, other in rounds]
    cpu = statistics.median(one.cpu for one, _ in rounds)
    spread = f"{ours / direct:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    growth = max(one.growth for one, _ in rounds) / MIB
    return f"| {title} | {name} | {ours:.0f} | {direct:.0f} | {spread} | {cpu:.2f} | {growth:+.1f} | {share:.0%} |"


if __name__ == "__main__":
    sys.exit(main())
