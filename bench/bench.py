"""Measures the proxy against nginx proxy_cache, on the same machine and in the same run, and prints a table of ratios.

    python bench/bench.py [--quick] [--json FILE] [--only WORD]

Needs nginx and wrk. Every figure is taken in turns (proxy, nginx, proxy, nginx, …) and the medians are compared,
because a shared machine is never the same twice. The origin is nginx with static files over TLS on the loopback
interface.
"""

import argparse
import json
import platform
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from servers import HOST, Server, make_objects, nginx_cache, nginx_origin, s3proxy, write_certificate

HEADERS = Path(__file__).with_name("aws_client.lua")
_serial = iter(range(1, 1_000_000_000))


def wrk(server: Server, path: str, connections: int, seconds: float) -> float:
    """Requests per second of one object."""
    output = subprocess.run(
        [
            "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(HEADERS),
            f"http://127.0.0.1:{server.port}{path}", "--", HOST,
        ],  # fmt: skip
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    if "Non-2xx" in output or "Socket errors" in output and "read 0, write 0, timeout 0" not in output:
        raise RuntimeError(f"{server.name}: {output}")
    match = re.search(r"Requests/sec:\s+([0-9.]+)", output)
    assert match is not None, output
    return float(match.group(1))


def wrk_misses(server: Server, size: str, connections: int, seconds: float) -> float:
    """Requests per second of objects that were never asked for before."""
    return wrk(server, f"/bucket/u/{next(_serial)}-UNIQUE/{size}", connections, seconds)


def download(port: int, path: str) -> tuple[int, float]:
    """Body bytes and seconds to the first body byte of one GET."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        start = time.perf_counter()
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
        buffer = bytearray(1 << 20)
        view = memoryview(buffer)
        head = b""
        while b"\r\n\r\n" not in head:
            count = sock.recv_into(buffer)
            if not count:
                raise RuntimeError(f"no answer for {path}: {head!r}")
            head += view[:count]
        header, _, rest = head.partition(b"\r\n\r\n")
        first = time.perf_counter() - start
        if not header.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(header.decode("latin-1"))
        total = len(rest)
        length = re.search(rb"(?i)content-length: *([0-9]+)", header)
        while True:
            count = sock.recv_into(buffer)
            if not count:
                break
            total += count
        if length is not None and int(length.group(1)) != total:
            raise RuntimeError(f"{path}: {total} bytes of {length.group(1).decode()}")
        return total, first


def throughput(server: Server, path: Callable[[], str], clients: int, each: int) -> float:
    """MiB per second of whole downloads by several clients at once, every one in a thread of this process."""
    totals = [0] * clients

    def work(index: int) -> None:
        for _ in range(each):
            totals[index] += download(server.port, path())[0]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(totals) / (1 << 20) / (time.perf_counter() - start)


def unique(size: str) -> Callable[[], str]:
    """Paths that were never asked for before."""
    return lambda: f"/bucket/u/{next(_serial)}/{size}"


def cases(quick: bool) -> list[tuple[str, str, Callable[[Server], float]]]:
    """Name, unit and measurement of every case."""
    seconds = 2 if quick else 5
    big = 4 if quick else 12
    return [
        ("hit 1 KiB, 32 connections", "requests/s", lambda s: wrk(s, "/bucket/k1", 32, seconds)),
        ("hit 64 KiB, 32 connections", "requests/s", lambda s: wrk(s, "/bucket/k64", 32, seconds)),
        ("hit 64 MiB, 1 connection", "MiB/s", lambda s: throughput(s, lambda: "/bucket/m64", 1, big)),
        ("hit 64 MiB, 16 connections", "MiB/s", lambda s: throughput(s, lambda: "/bucket/m64", 16, max(1, big // 4))),
        ("miss 1 KiB over TLS, 32 connections", "requests/s", lambda s: wrk_misses(s, "k1", 32, seconds)),
        ("miss 1 MiB over TLS, 8 connections", "MiB/s", lambda s: throughput(s, unique("m1"), 8, big * 2)),
        ("miss 64 MiB over TLS, 1 connection", "MiB/s", lambda s: throughput(s, unique("m64"), 1, big // 2)),
        ("miss 64 MiB over TLS, 4 connections", "MiB/s", lambda s: throughput(s, unique("m64"), 4, max(1, big // 4))),
    ]


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short measurements: a smoke test, not figures to quote")
    parser.add_argument("--json", metavar="FILE", help="write the raw figures there")
    parser.add_argument("--only", metavar="WORD", default="", help="only cases whose name contains WORD")
    options = parser.parse_args()
    for program in ("nginx", "wrk"):
        if shutil.which(program) is None:
            print(f"bench: {program} is not installed (apt-get install nginx-light wrk)", file=sys.stderr)
            return 1
    rounds = 1 if options.quick else 5
    rows = []
    with tempfile.TemporaryDirectory(prefix="s3proxy-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        make_objects(folder / "objects")
        certificate = write_certificate(folder)
        servers: list[Server] = []
        try:
            origin = nginx_origin(folder, certificate)
            servers.append(origin)
            ours = s3proxy(folder, origin.port, certificate[0])
            servers.append(ours)
            nginx = nginx_cache(folder, origin.port, certificate[0])
            servers.append(nginx)
            for server in (ours, nginx):
                for size in ("k1", "k64", "m64"):
                    for _ in range(2):
                        download(server.port, f"/bucket/{size}")
            for title, unit, measure in cases(options.quick):
                if options.only not in title:
                    continue
                figures: dict[str, list[float]] = {"s3proxy": [], "nginx": []}
                cpu = {"s3proxy": 0.0, "nginx": 0.0}
                for _ in range(rounds):
                    for server in (ours, nginx):
                        before = server.cpu_seconds()
                        figures[server.name].append(measure(server))
                        cpu[server.name] += server.cpu_seconds() - before
                rows.append({"case": title, "unit": unit, "figures": figures, "cpu_seconds": cpu})
                mine, theirs = (statistics.median(figures[key]) for key in ("s3proxy", "nginx"))
                print(f"{title:40} {mine:12,.0f} {theirs:12,.0f} {unit:10} {mine / theirs:6.2f}", flush=True)
            print(f"RSS after all: s3proxy {ours.rss() >> 20} MiB, nginx {nginx.rss() >> 20} MiB")
        finally:
            for server in reversed(servers):
                server.stop()
    print()
    print(report(rows))
    if options.json:
        Path(options.json).write_text(json.dumps({"machine": platform.platform(), "rows": rows}, indent=1) + "\n")
    return 0


def report(rows: list[dict]) -> str:
    """The table in Markdown."""
    lines = ["| case | S3 Proxy | nginx | unit | ratio |", "|---|---|---|---|---|"]
    for row in rows:
        mine, theirs = (statistics.median(row["figures"][key]) for key in ("s3proxy", "nginx"))
        lines.append(f"| {row['case']} | {mine:,.0f} | {theirs:,.0f} | {row['unit']} | {mine / theirs:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
