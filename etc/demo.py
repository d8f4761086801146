"""A demonstration: a local S3 server, S3 Proxy in front of it, and a table of what came from where, and how fast.

    python etc/demo.py [--once]

The server is SeaweedFS. It verifies every signature, and the proxy reaches it through verified TLS just as it would
reach Amazon S3. The client is boto3. It uses the proxy as its HTTP proxy, and an S3 name that no name server knows:
whatever arrives went through the proxy. Nothing leaves this machine. ``sh etc/demo.sh`` does the set-up as well.
"""

import argparse
import hashlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

# The demonstration is part of a checkout, and so is the machinery of the tests, which starts both processes.
CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

from test.support.proxy_process import ProxyEnded, ProxyProcess, clean_environment  # noqa: E402
from test.support.seaweed import SeaweedFS  # noqa: E402
from test.support.waiting import free_ports  # noqa: E402

HOST = "s3.demo.test"
BUCKET = "demo"
REGION = "us-east-1"
MIB = 1 << 20
#: Seconds for which the proxy answers without asking S3. The default is 60, but nobody wants to wait that long here.
TTL = 6
SIZES = {"small.txt": 1024, "medium.bin": 8 * MIB, "large.bin": 64 * MIB}

LOOPBACK = "127.0.0.1"
ROW = "{:<44} {:<12} {:>10} {:>10} {:>12}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--once", action="store_true", help="stop after the table")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for name in set(os.environ) - set(clean_environment()):
        del os.environ[name]
    try:
        with ExitStack() as stack:
            wrong = demonstrate(stack, stay=not arguments.once)
    except KeyboardInterrupt:
        print("\nStopped.")
        return 0
    if wrong:
        print(f"{wrong} steps did not go as they should.", file=sys.stderr)
    return 1 if wrong else 0


def demonstrate(stack: ExitStack, stay: bool) -> int:
    """Start both, show the table, and with *stay* wait for Ctrl-C; returns how many steps went wrong."""
    print("Starting SeaweedFS, a local S3 server ...", flush=True)
    store = SeaweedFS(names=(HOST, f"*.{HOST}", "localhost", LOOPBACK), domains=(HOST,))
    stack.callback(store.stop)
    print("Starting S3 Proxy in front of it ...", flush=True)
    proxy = ProxyProcess(configuration(store))
    stack.callback(stop, proxy)
    proxy.start()
    client, direct = s3_client(store, proxy), s3_client(store, None)
    client.create_bucket(Bucket=BUCKET)
    print()
    print(ROW.format("request", "X-Cache", "size", "time", "speed"))
    print(ROW.format("-" * 44, "-" * 12, "-" * 10, "-" * 10, "-" * 12), flush=True)
    wrong = 0
    for step in steps(client, direct):
        wrong += not step.show()
    print()
    print_summary(proxy)
    if stay:
        print_hints(store, proxy)
        while proxy.running and answers(store.port):
            time.sleep(0.5)
        print("The S3 server ended." if proxy.running else f"S3 Proxy ended:\n{proxy.output()}", file=sys.stderr)
        wrong += 1
    return wrong


def stop(proxy: ProxyProcess) -> None:
    """End the proxy, which may be about to end by itself: a Ctrl-C in the terminal reaches it as well."""
    try:
        proxy.stop()
    except ProxyEnded:
        proxy.stop()


def configuration(store: SeaweedFS) -> dict[str, Any]:
    """What the proxy is told: its ports, and where the demonstration's S3 name leads."""
    proxy_port, health, metrics, dashboard = (usable(port) for port in (3128, 8080, 9090, 8081))
    return {
        "server": {"mode": "proxy_only", "proxy_port": proxy_port, "bind_addresses": [LOOPBACK]},
        "cache": {"get_ttl": f"{TTL}s", "head_ttl": f"{TTL}s", "max_cache_size": 1 << 30},
        "connection_pool": {
            "endpoint_overrides": {
                HOST: [f"{LOOPBACK}:{store.tls_port}"],
                f"*.{HOST}": [f"{LOOPBACK}:{store.tls_port}"],
            },
            "upstream_overrides": {f"{HOST}:80": {"scheme": "https", "ca_file": str(store.ca_file)}},
        },
        "health": {"port": health, "bind_address": LOOPBACK},
        "metrics": {"port": metrics, "bind_address": LOOPBACK},
        "dashboard": {"port": dashboard, "bind_address": LOOPBACK},
    }


def usable(port: int) -> int:
    """This port, or another one if it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            return port
        except OSError:
            return free_ports(1)[0]


def s3_client(store: SeaweedFS, proxy: ProxyProcess | None) -> Any:
    """boto3 through the proxy; without one, straight to the store, to change things behind the proxy's back."""
    return boto3.client(
        "s3",
        region_name=REGION,
        endpoint_url=f"http://{HOST}" if proxy else f"http://{LOOPBACK}:{store.port}",
        aws_access_key_id=store.credential.access_key,
        aws_secret_access_key=store.credential.secret_key,
        config=Config(
            proxies={"http": f"http://{LOOPBACK}:{proxy.port}"} if proxy else {},
            retries={"total_max_attempts": 1},
        ),
    )


class Step:
    """One request with what is expected of it.

    :param request: does it and returns the answer
    :param expected: the bytes that must arrive; None: the answer has no body to look at
    :param cached: whether the answer has to come from the cache; None: that is not promised
    :param sent: how many bytes the request carries
    """

    def __init__(
        self, text: str, request: Callable[[], dict[str, Any]], expected: bytes | None = None, *,
        cached: bool | None = None, sent: int = 0,
    ) -> None:
        self.text = text
        self.request = request
        self.expected = expected
        self.cached = cached
        self.sent = sent

    def show(self) -> bool:
        """Do it, print the row, and say whether all was as expected."""
        began = time.perf_counter()
        answer = self.request()
        body = answer["Body"].read() if "Body" in answer else None
        seconds = time.perf_counter() - began
        moved = self.sent if body is None else len(body)
        verdict = answer["ResponseMetadata"]["HTTPHeaders"].get("x-cache", "-")
        right = self.expected is None or body == self.expected
        as_promised = self.cached is None or self.cached == (verdict in ("HIT", "REVALIDATED"))
        speed = f"{moved / MIB / seconds:.0f} MiB/s" if moved >= MIB else ""
        size = f"{moved / MIB:.0f} MiB" if moved >= MIB else f"{moved} B" if moved else ""
        note = "" if right and as_promised else "   WRONG BYTES" if not right else "   NOT AS EXPECTED"
        print(ROW.format(self.text, verdict, size, f"{seconds * 1000:.1f} ms", speed).rstrip() + note, flush=True)
        return right and as_promised


def content(name: str, size: int) -> bytes:
    """Bytes that differ from name to name and within an object."""
    seed = hashlib.sha256(name.encode()).digest()
    block = b"".join(hashlib.sha256(seed + number.to_bytes(4, "big")).digest() for number in range(2048))
    return (block * (size // len(block) + 1))[:size]


def steps(client: Any, direct: Any) -> Iterator[Step]:
    """The requests of the demonstration, in order; *direct* leads past the proxy."""

    def get(key: str, **arguments: Any) -> Callable[[], dict[str, Any]]:
        return lambda: client.get_object(Bucket=BUCKET, Key=key, **arguments)

    def put(key: str, body: bytes) -> Callable[[], dict[str, Any]]:
        return lambda: client.put_object(Bucket=BUCKET, Key=key, Body=body)

    objects = {name: content(name, size) for name, size in SIZES.items()}
    for name, data in objects.items():
        yield Step(f"PUT {name}", put(name, data), sent=len(data))
    for name, data in objects.items():
        yield Step(f"GET {name}, first time", get(name), data)
        yield Step(f"GET {name}, again", get(name), data, cached=True)
    large = objects["large.bin"]
    yield Step("HEAD large.bin", lambda: client.head_object(Bucket=BUCKET, Key="large.bin"), cached=True)
    yield Step(
        "GET large.bin, bytes 1000000-9999999", get("large.bin", Range="bytes=1000000-9999999"),
        large[1000000:10000000], cached=True,
    )
    yield Step("GET large.bin, its last 1000 bytes", get("large.bin", Range="bytes=-1000"), large[-1000:], cached=True)
    yield Step("LIST the bucket", lambda: client.list_objects_v2(Bucket=BUCKET), cached=False)
    newer = content("newer", SIZES["medium.bin"])
    yield Step("PUT medium.bin, a new version", put("medium.bin", newer), sent=len(newer))
    yield Step("GET medium.bin, the new version at once", get("medium.bin"), newer)
    yield Step("GET medium.bin, again", get("medium.bin"), newer, cached=True)
    yield Step("DELETE small.txt, through the proxy", lambda: client.delete_object(Bucket=BUCKET, Key="small.txt"))
    yield Step("GET small.txt: gone at once", lambda: refused(get("small.txt"), "NoSuchKey"), cached=False)
    newest = content("newest", SIZES["medium.bin"])
    direct.put_object(Bucket=BUCKET, Key="medium.bin", Body=newest)
    print(f"-- medium.bin is overwritten behind the proxy; {TTL} seconds pass, the time to live of this demonstration")
    time.sleep(TTL)
    yield Step("GET medium.bin: the change is seen", get("medium.bin"), newest, cached=False)
    yield Step("GET large.bin: S3 confirms, without a body", get("large.bin"), large, cached=True)
    yield Step("GET large.bin, again", get("large.bin"), large, cached=True)


def refused(request: Callable[[], dict[str, Any]], code: str) -> dict[str, Any]:
    """The answer to a request that has to fail with this S3 error.

    :raises RuntimeError: it succeeds
    """
    try:
        request()
    except ClientError as error:
        if error.response["Error"]["Code"] == code:
            return {"ResponseMetadata": error.response["ResponseMetadata"]}
        raise
    raise RuntimeError(f"the request was expected to fail with {code}, but it succeeded")


def print_summary(proxy: ProxyProcess) -> None:
    """What the proxy itself counted."""
    for series, value in sorted(proxy.metrics().items()):
        if "cache_hit_rate" in series:
            print(f"{series} {value:.3f}")


def print_hints(store: SeaweedFS, proxy: ProxyProcess) -> None:
    """Where to look and what to try."""
    pages = {"health": "/health", "metrics": "/metrics", "dashboard": "/"}
    ports = {name: proxy.config[name]["port"] for name in pages}
    urls = [f"{name:<12}http://{LOOPBACK}:{ports[name]}{path}" for name, path in pages.items() if answers(ports[name])]
    looks = "\n  ".join(urls)
    print(f"""
Both keep running until Ctrl-C.

  {looks}
  access log  {proxy.folder}/logs/access/
  cache       {proxy.cache_dir}
  S3 itself   http://{LOOPBACK}:{store.port} (without the proxy)

To try it from another terminal:

  export HTTP_PROXY=http://{LOOPBACK}:{proxy.port} AWS_ENDPOINT_URL_S3=http://{HOST} AWS_DEFAULT_REGION={REGION}
  export AWS_ACCESS_KEY_ID={store.credential.access_key}
  export AWS_SECRET_ACCESS_KEY={store.credential.secret_key}
  aws s3 ls s3://{BUCKET}/
  aws s3 cp s3://{BUCKET}/large.bin - | sha256sum
""", flush=True)


def answers(port: int) -> bool:
    """Whether anybody listens there."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=5):
            return True
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
