"""What browsers that look at the dashboard cost the data path: ``python bench/watched.py [--browsers 20]``.

First what they cost while nothing else happens, as a share of a processor: the figure that is disturbed least. Then
the same load in turns, with nobody looking and with so many pages open; each holds the stream of events as the page
does, and asks for the view of requests every two seconds with ``--view requests``. Medians of all rounds; processor
time per request is disturbed less by what else the machine does than throughput.
"""

import argparse
import http.client
import selectors
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    # The modules beside this file are the package "bench" of the checkout.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import attrs

from bench.clients import Load, drive
from bench.origins import SIZES, static_origin
from bench.peers import s3proxy
from bench.process import Server, free_port
from bench.requests import a_request
from bench.wrk import wrk

SHARE = 0.02
"""What the browsers may cost."""


class Browsers:
    """Pages that listen. Use as a context."""

    def __init__(self, port: int, count: int, view: str) -> None:
        self._port = port
        self._count = count
        self._view = view
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self.received = 0

    def __enter__(self) -> "Browsers":
        streams = [self._open() for _ in range(self._count)]
        self._threads = [threading.Thread(target=self._listen, args=(streams,))]
        if self._view == "requests":
            self._threads.append(threading.Thread(target=self._ask))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _open(self) -> socket.socket:
        stream = socket.create_connection(("127.0.0.1", self._port), 10)
        stream.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        return stream

    def _listen(self, streams: list[socket.socket]) -> None:
        with selectors.DefaultSelector() as selector:
            for stream in streams:
                selector.register(stream, selectors.EVENT_READ)
            while not self._over.is_set():
                for key, _ in selector.select(0.1):
                    data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
                    if not data:
                        raise ConnectionError("a stream ended")
                    self.received += len(data)
        for stream in streams:
            stream.close()

    def _ask(self) -> None:
        pages = [http.client.HTTPConnection("127.0.0.1", self._port, timeout=10) for _ in range(self._count)]
        while not self._over.is_set():
            for page in pages:
                page.request("GET", "/api/v1/requests?q=&outcome=&reason=&limit=50")
                page.getresponse().read()
                if self._over.wait(2.0 / self._count):
                    break
        for page in pages:
            page.close()


@attrs.frozen
class Round:
    """One measurement: requests per second, and seconds of processor time per request."""

    rate: float
    cost: float


def measure(server: Server, load: Callable[[], Load]) -> Round:
    """Put the load on, and see what the server makes of it."""
    before = server.cpu_seconds()
    done = load()
    return Round(done.requests / done.seconds, (server.cpu_seconds() - before) / done.requests)


def idle(server: Server, seconds: float) -> float:
    """The share of a processor that the server takes while no client asks for anything."""
    before, began = server.cpu_seconds(), time.monotonic()
    time.sleep(seconds)
    return (server.cpu_seconds() - before) / (time.monotonic() - began)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--browsers", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--view", choices=("overview", "requests"), default="overview")
    options = parser.parse_args()
    small = [a_request(f"/bucket/u/h{number}/k1") for number in range(64)]
    large = [a_request(f"/bucket/u/h{number}/m64") for number in range(4)]
    with tempfile.TemporaryDirectory(prefix="s3proxy-bench-") as name:
        folder, port = Path(name), free_port()
        origin = static_origin(folder)
        server = s3proxy(folder, origin, dashboard=port)
        try:
            drive(server.port, [*small, *large], 4)
            loads: dict[str, Callable[[], Load]] = {
                "hits of 1 KiB, 32 connections": lambda: wrk(server.port, small, 32, options.seconds, SIZES["k1"]),
                "hits of 64 MiB, 4 connections": lambda: drive(
                    server.port, iter(large * 10_000), 4, seconds=options.seconds
                ),
            }
            quiet = idle(server, 4 * options.seconds)
            with Browsers(port, options.browsers, options.view):
                time.sleep(1)
                looked_at = idle(server, 4 * options.seconds)
            print(
                f"no load: {100 * quiet:.2f} % of a processor; {options.browsers} browsers: {100 * looked_at:.2f} %",
                flush=True,
            )
            dear = looked_at - quiet > SHARE
            for title, load in loads.items():
                load()
                alone, watched = [], []
                for _ in range(options.rounds):
                    alone.append(measure(server, load))
                    with Browsers(port, options.browsers, options.view):
                        time.sleep(1)
                        watched.append(measure(server, load))
                rate = statistics.median(each.rate for each in watched) / statistics.median(each.rate for each in alone)
                cost = statistics.median(each.cost for each in watched) / statistics.median(each.cost for each in alone)
                print(f"{title}: nobody looks: {statistics.median(each.rate for each in alone):,.1f}/s; "
                      f"{options.browsers} browsers: {100 * (rate - 1):+.2f} % throughput, "
                      f"{100 * (cost - 1):+.2f} % processor time per request", flush=True)  # fmt: skip
                dear = dear or min(1 - rate, cost - 1) > SHARE
        finally:
            server.stop()
            origin.server.stop()
    return int(dear)


if __name__ == "__main__":
    sys.exit(main())
