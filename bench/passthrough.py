"""The passthrough beside HAProxy in TCP mode (one thread, splice-auto), which looks at the same ClientHello.

    python bench/passthrough.py [--seconds N] [--rounds N] [--idle N]

prints bytes per second and processor time per GiB of both, in turns, the median of the ratios of all rounds, and how
many processors others kept busy meanwhile: on a machine that is not quiet, the ratio of processor times says more. Then
the memory of idle tunnels: of the process without any, of which libraries that all processes share are a part, and what
they add. It needs haproxy. Where the ends do no TLS work, a real ClientHello opens the tunnel, and raw bytes flow:
the origin sends a file out of memory, and the client discards in the kernel what comes.
"""

import argparse
import os
import selectors
import shutil
import socket
import ssl
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.origins import _write_certificate as write_certificate  # noqa: E402
from bench.process import ROOT, Server, free_port, machine_times  # noqa: E402

__all__ = ["Flow", "main"]

GIB = 1 << 30
FLOWING, IDLE, ENCRYPTED = "flow.bench.test", "idle.bench.test", "tls.bench.test"
_PIECE = 1 << 20
_LOOPBACK = "127.0.0.1"


def hello(name: str) -> bytes:
    """A ClientHello as OpenSSL makes it."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=name)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake needs two")


# The origin, a process of its own.


def origin(port: int, tls_port: int, certificate: str) -> None:
    """Serve for ever: raw bytes to who names the flowing host, nothing to others; bytes under TLS on another port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    threading.Thread(target=_serve_tls, args=(tls_port, context), daemon=True).start()
    source = os.memfd_create("source")
    os.ftruncate(source, 64 * _PIECE)
    selector = selectors.DefaultSelector()
    server = socket.create_server((_LOOPBACK, port), backlog=4096)
    server.setblocking(False)
    selector.register(server, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            sock: Any = key.fileobj
            if sock is server:
                client, _ = server.accept()
                client.setblocking(False)
                selector.register(client, selectors.EVENT_READ)
                continue
            try:
                if key.events & selectors.EVENT_READ:
                    data = sock.recv(16384)
                    if FLOWING.encode() in data:
                        selector.modify(sock, selectors.EVENT_WRITE)
                    elif not data:
                        raise ConnectionError
                else:
                    os.sendfile(sock.fileno(), source, 0, 4 * _PIECE)
            except BlockingIOError:
                continue
            except OSError:
                selector.unregister(sock)
                sock.close()


def _serve_tls(port: int, context: ssl.SSLContext) -> None:
    with socket.create_server((_LOOPBACK, port), backlog=64) as server:
        while True:
            client, _ = server.accept()
            threading.Thread(target=_send_tls, args=(client, context), daemon=True).start()


def _send_tls(client: socket.socket, context: ssl.SSLContext) -> None:
    data = bytes(_PIECE)
    try:
        with context.wrap_socket(client, server_side=True) as sock:
            while True:
                sock.sendall(data)
    except OSError:
        return


# Those who are measured.


def s3proxy(folder: Path, port: int, tls_port: int) -> Server:
    """This proxy, one process."""
    home = folder / "s3proxy"
    home.mkdir()
    listen = free_port()
    config = {
        "server": {
            "mode": "standard", "http_port": free_port(), "https_port": listen, "workers": 1,
            "bind_addresses": [_LOOPBACK],
        },
        "cache": {"cache_dir": str(home / "cache")},
        "logging": {"access_log_dir": str(home / "access"), "app_log_dir": str(home / "app")},
        "connection_pool": {
            "endpoint_overrides": {
                ENCRYPTED: [f"{_LOOPBACK}:{tls_port}"],
                "*.bench.test": [f"{_LOOPBACK}:{port}"],
            }
        },
        "health": {"enabled": False},
        "metrics": {"enabled": False},
        "dashboard": {"enabled": False},
    }  # fmt: skip
    (home / "config.yaml").write_text(yaml.safe_dump(config))
    run = "from twisted.scripts.twistd import run; run()"
    command = [sys.executable, "-c", run, "-n", "--pidfile=", "s3proxy", "--config", str(home / "config.yaml")]
    return Server("s3proxy", listen, command, folder=home, environment={"PYTHONPATH": str(ROOT)})


def haproxy(folder: Path, port: int, tls_port: int) -> Server:
    """HAProxy with one thread, routing by the same name."""
    home = folder / "haproxy"
    home.mkdir()
    listen = free_port()
    (home / "haproxy.cfg").write_text(f"""\
global
    nbthread 1
    maxconn 7500
defaults
    mode tcp
    option splice-auto
    timeout connect 10s
    timeout client 1h
    timeout server 1h
frontend tls
    bind {_LOOPBACK}:{listen}
    tcp-request inspect-delay 10s
    tcp-request content accept if {{ req_ssl_hello_type 1 }}
    use_backend encrypted if {{ req_ssl_sni -i {ENCRYPTED} }}
    default_backend raw
backend raw
    server origin {_LOOPBACK}:{port}
backend encrypted
    server origin {_LOOPBACK}:{tls_port}
""")
    return Server("haproxy", listen, ["haproxy", "-db", "-f", str(home / "haproxy.cfg")], folder=home)


# The client.


@attrs.frozen(kw_only=True)
class Flow:
    """What one measurement saw: bytes per second, processor seconds of the server per GiB, and how many processors were
    busy with other things than origin, server and client.
    """

    rate: float
    cpu: float
    others: float


def raw_flow(server: Server, source: Server, connections: int, seconds: float) -> Flow:
    """Bytes through so many tunnels, discarded as they come."""
    selector = selectors.DefaultSelector()
    for _ in range(connections):
        sock = socket.create_connection((_LOOPBACK, server.port))
        sock.sendall(hello(FLOWING))
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ)
    buffer = bytearray(4 * _PIECE)

    def discard(until: float) -> int:
        total = 0
        while time.monotonic() < until:
            for key, _ in selector.select(1.0):
                sock: Any = key.fileobj
                size = sock.recv_into(buffer, 0, socket.MSG_TRUNC)
                if not size:
                    raise AssertionError(f"{server.name} closed a tunnel")
                total += size
        return total

    try:
        return _measure(server, source, discard, seconds)
    finally:
        for key in list(selector.get_map().values()):
            opened: Any = key.fileobj
            opened.close()
        selector.close()


def tls_flow(server: Server, source: Server, connections: int, seconds: float) -> Flow:
    """Bytes of a TLS connection whose ends do what TLS asks of them."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    sock = context.wrap_socket(socket.create_connection((_LOOPBACK, server.port)), server_hostname=ENCRYPTED)
    buffer = bytearray(_PIECE)

    def read(until: float) -> int:
        total = 0
        while time.monotonic() < until:
            total += sock.recv_into(buffer)
        return total

    with sock:
        return _measure(server, source, read, seconds)


def _measure(server: Server, source: Server, read: Callable[[float], int], seconds: float) -> Flow:
    def ours() -> float:
        return server.cpu_seconds() + source.cpu_seconds() + time.process_time()

    read(time.monotonic() + 0.5)
    (busy, _), own, cpu, began = machine_times(), ours(), server.cpu_seconds(), time.monotonic()
    total = read(began + seconds)
    took, cpu = time.monotonic() - began, server.cpu_seconds() - cpu
    others = machine_times()[0] - busy - (ours() - own)
    return Flow(rate=total / took, cpu=cpu / (total / GIB), others=max(0.0, others) / took)


def shared_bytes(server: Server) -> int:
    """Resident pages of files: the code of libraries, of which the machine has one copy."""
    total = 0
    for pid in server.pids():
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssFile:"):
                total += int(line.split()[1]) * 1024
    return total


def idle_memory(server: Server, count: int) -> tuple[int, int]:
    """Resident bytes before and with so many idle tunnels."""
    before = server.resident_bytes()
    message = hello(IDLE)
    socks = []
    try:
        for number in range(count):
            sock = socket.create_connection((_LOOPBACK, server.port))
            # Each has a random of its own, as in life.
            sock.sendall(message[:11] + number.to_bytes(32, "big") + message[43:])
            socks.append(sock)
        time.sleep(3)
        for sock in socks:
            sock.setblocking(False)
            try:
                if sock.recv(1) == b"":
                    raise AssertionError(f"{server.name} closed an idle tunnel")
            except BlockingIOError:
                continue
        return before, server.resident_bytes()
    finally:
        for sock in socks:
            sock.close()


CASES: tuple[tuple[str, Callable[[Server, Server, int, float], Flow], int], ...] = (
    ("raw, 1 connection", raw_flow, 1),
    ("raw, 8 connections", raw_flow, 8),
    ("TLS, 1 connection", tls_flow, 1),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measures the passthrough beside HAProxy.")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement (1)")
    parser.add_argument("--rounds", type=int, default=15, help="how often each is taken (15)")
    parser.add_argument("--only", metavar="WORD", default="", help="only flows whose name contains WORD")
    parser.add_argument("--idle", type=int, default=5000, help="idle tunnels (5000)")
    parser.add_argument("--origin", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.origin:
        origin(int(options.origin[0]), int(options.origin[1]), options.origin[2])
        return 0
    if shutil.which("haproxy") is None:
        print("haproxy is not installed", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="s3proxy-passthrough-") as name:
        _compare(Path(name), options)
    return 0


def _compare(folder: Path, options: argparse.Namespace) -> None:
    certificate = folder / "both.pem"
    certificate.write_bytes(b"".join(path.read_bytes() for path in write_certificate(folder)))
    port, tls_port = free_port(), free_port()
    command = [sys.executable, __file__, "--origin", str(port), str(tls_port), str(certificate)]
    servers: list[Server] = [Server("origin", port, command, folder=folder)]
    try:
        servers += [s3proxy(folder, port, tls_port), haproxy(folder, port, tls_port)]
        source, ours, theirs = servers
        print("| case | S3 Proxy | HAProxy | unit | ratio (lowest to highest) | CPU-s/GiB | HAProxy | others' CPUs |")
        print("|---|---|---|---|---|---|---|---|")
        for title, flow, connections in (case for case in CASES if options.only in case[0]):
            rounds: list[tuple[Flow, Flow]] = []
            for number in range(options.rounds):
                order = (ours, theirs) if number % 2 == 0 else (theirs, ours)
                found = {server.name: flow(server, source, connections, options.seconds) for server in order}
                rounds.append((found[ours.name], found[theirs.name]))
            print(_row(title, rounds), flush=True)
        if options.idle:
            for server in (ours, theirs):
                before, after = idle_memory(server, options.idle)
                mib = [size / (1 << 20) for size in (after, before, shared_bytes(server))]
                print(f"\n{server.name}: {options.idle} idle tunnels, {mib[0]:.1f} MiB resident; ", end="")
                print(f"{mib[1]:.1f} MiB without any, {mib[2]:.1f} MiB shared with other processes; ", end="")
                print(f"{(after - before) / options.idle / 1024:.2f} KiB for each tunnel", flush=True)
    finally:
        for server in reversed(servers):
            server.stop()


def _row(title: str, rounds: Sequence[tuple[Flow, Flow]]) -> str:
    ours = statistics.median(flow.rate for flow, _ in rounds) / GIB
    theirs = statistics.median(flow.rate for _, flow in rounds) / GIB
    ratios = [one.rate / other.rate for one, other in rounds]
    cpu = [statistics.median(pair[index].cpu for pair in rounds) for index in (0, 1)]
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    others = statistics.median(flow.others for pair in rounds for flow in pair)
    return f"| {title} | {ours:.2f} | {theirs:.2f} | GiB/s | {spread} | {cpu[0]:.3f} | {cpu[1]:.3f} | {others:.2f} |"


if __name__ == "__main__":
    sys.exit(main())
