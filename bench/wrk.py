"""Small requests by wrk, which costs less per request than a server does."""

import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.clients import Load
from bench.process import ServerFailed

__all__ = ["parse_summary", "wrk"]

SCRIPT = Path(__file__).with_name("requests.lua")
_SUMMARY = re.compile(r"(?m)^requests=[0-9]+ .*$")


def wrk(port: int, requests: Sequence[bytes], connections: int, seconds: float, size: int) -> Load:
    """Send these requests in turns. The extras are the times to the last byte: ``total_ms``, ``p99_ms``.

    :param requests: "UNIQUE" in one becomes another number each time
    :param seconds: whole seconds, at least 1
    :param size: bytes of every answer's body
    :raises ServerFailed: an answer of a status of 400 or more, or a connection that failed
    """
    with tempfile.NamedTemporaryFile(prefix="s3proxy-bench-", suffix=".requests") as file:
        file.write(b"".join(request + b"\0" for request in requests))
        file.flush()
        done = subprocess.run(
            [
                "wrk", "-t1", f"-c{connections}", f"-d{round(seconds)}s", "-s", str(SCRIPT),
                f"http://127.0.0.1:{port}/", "--", file.name,
            ],  # fmt: skip
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    return parse_summary(done.stdout, size)


def parse_summary(output: str, size: int) -> Load:
    """What wrk and its script print, as a load.

    :raises ServerFailed: there is no summary, nothing was answered, or something failed
    """
    match = _SUMMARY.search(output)
    if match is None:
        raise ServerFailed(f"wrk: {output}")
    figures = {name: int(value) for name, value in (pair.split("=") for pair in match[0].split())}
    failed = {name: figures[name] for name in ("status", "connect", "read", "write", "timeout") if figures[name]}
    requests = figures["requests"]
    if failed or not requests:
        raise ServerFailed(f"wrk: {requests} answers, errors {failed}")
    extras = {"total_ms": figures["p50"] / 1e3, "p99_ms": figures["p99"] / 1e3}
    return Load(requests, requests * size, figures["microseconds"] / 1e6, extras)
