"""The part of :mod:`bench.nfs` that runs in the virtual machine, as its first program."""

import contextlib
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.nfs import BEGIN, END

HOSTS = ("a", "b")
EXPORT = Path("/mnt/export")
VISIBLE = 3.0
"""``acregmax`` and ``acdirmax`` of the mounts, in seconds."""
BUSY = 2.0
"""What a small and busy machine adds."""
SPEED = {"20 MiB": 15.0, "4 MiB": 4.0, "10 kB": 0.5}
"""Seconds that S3 takes for a body."""
CLIENTS = 12
SIZES = (1000, 300_000, 9 << 20)


def say(text: str) -> None:
    """Something for those who wait."""
    print(f"{time.monotonic():.0f} s: {text}", flush=True)


def run(*command: str, check: bool = True) -> None:
    """Run a program; what it says goes to the console."""
    subprocess.run(command, check=check, stdin=subprocess.DEVNULL)


def serve(tree: Path) -> None:
    """Export a file system."""
    for module in ("nfsd", "nfsv4", "veth"):
        run("modprobe", "--dirname", str(tree), module)
    for folder in ("/mnt/export", *(f"/mnt/{host}" for host in HOSTS)):
        Path(folder).mkdir()
    Path("/var/lib/nfs/rpc_pipefs").mkdir(parents=True)
    Path("/var/lib/nfs/etab").touch()
    Path("/var/lib/nfs/rmtab").touch()
    if not Path("/etc/netconfig").exists():
        Path("/etc/netconfig").write_bytes((tree / "etc/netconfig").read_bytes())
    run("mount", "-t", "ext4", "-o", "noatime", "/dev/vda", str(EXPORT))
    run("mount", "-t", "nfsd", "nfsd", "/proc/fs/nfsd")
    run("ip", "link", "set", "lo", "up")
    for number, host in enumerate(HOSTS, 1):
        run("ip", "netns", "add", host)
        run("ip", "link", "add", f"to-{host}", "type", "veth", "peer", "name", "eth0", "netns", host)
        run("ip", "address", "add", f"10.0.{number}.1/24", "dev", f"to-{host}")
        run("ip", "link", "set", f"to-{host}", "up")
        run("ip", "netns", "exec", host, "ip", "address", "add", f"10.0.{number}.2/24", "dev", "eth0")
        run("ip", "netns", "exec", host, "ip", "link", "set", "eth0", "up")
        run("ip", "netns", "exec", host, "ip", "link", "set", "lo", "up")
    run("exportfs", "-i", "-o", "rw,no_root_squash,no_subtree_check,fsid=0,insecure,async", f"*:{EXPORT}")
    for name in ("nfsv4gracetime", "nfsv4leasetime"):
        Path(f"/proc/fs/nfsd/{name}").write_text("10")
    run("rpc.mountd", "--no-nfs-version", "3")
    run("rpc.nfsd", "--no-nfs-version", "3", "--no-udp", "8")


def mount(options: str) -> None:
    """Make the hosts mount it: two clients, which the server tells apart."""
    for number, host in enumerate(HOSTS, 1):
        identifier = f"echo host-{host} > /sys/fs/nfs/net/nfs_client/identifier"
        run("ip", "netns", "exec", host, "sh", "-c", identifier, check=False)
        run(
            "nsenter", f"--net=/run/netns/{host}", "mount.nfs4", f"10.0.{number}.1:/", f"/mnt/{host}", "-o",
            ",".join(filter(None, ("vers=4.1,hard,proto=tcp", options))),
        )  # fmt: skip
    for line in Path("/proc/mounts").read_text().splitlines():
        if " nfs4 " in line:
            print(line, flush=True)


def power_off() -> None:
    """The end."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.sync()
    Path("/proc/sys/kernel/sysrq").write_text("1")
    Path("/proc/sysrq-trigger").write_text("o")
    time.sleep(30)


@contextlib.contextmanager
def two_hosts(name: str, config: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """A proxy on each host, with one new cache directory."""
    from test.system.hosts import HostStage

    (EXPORT / name).mkdir()
    both = tuple(HostStage(Path(f"/mnt/{host}/{name}"), config) for host in HOSTS)
    both[1].bucket = both[0].bucket
    try:
        for stage in both:
            say(f"{name}: starting a proxy")
            stage.proxy.start(60)
        say(f"{name}: started")
        yield both[0], both[1]
        for stage in both:
            for text in stage.tracebacks():
                raise AssertionError(text)
    finally:
        for stage in both:
            stage.stop()


def lateness() -> Iterator[str]:
    """How late writes are seen."""
    from test.system.hosts import Version, measure_lag

    yield "| `refresh_interval` | writes | seen after, median | at the latest |"
    yield "|---|---|---|---|"
    for interval, rounds in ((1.0, 3), (5.0, 2)):
        config = {"cache": {"metadata_cache": {"refresh_interval": f"{interval:g}s"}, "write_cache_percent": 30}}
        with two_hosts(f"late-{interval:g}", config) as both:
            found = []
            for number, size in enumerate(SIZES * rounds):
                for direction, (writer, reader) in enumerate((both, both[::-1])):
                    key = b"late-%d-%d" % (number, direction)
                    both[0].put(key, number, size)
                    old, new = Version(number, size), Version(number + 50, size - direction)
                    found.append(measure_lag(writer, reader, key, old, new, interval + VISIBLE + BUSY))
                say(f"{len(found)} writes, the latest was seen after {max(each.seconds for each in found):.2f} s")
        seconds = sorted(each.seconds for each in found)
        yield f"| {interval:g} s | {len(found)} | {seconds[len(seconds) // 2]:.2f} s | {seconds[-1]:.2f} s |"


def herds() -> Iterator[str]:
    """How often a cold object is transferred that many clients ask both hosts for at once."""
    from test.support.fake_script import Action, Match
    from test.system.stage import at_once

    yield f"| cold object, {CLIENTS} clients on both hosts | bytes from S3 ÷ size | slowest first byte |"
    yield "|---|---|---|"
    with two_hosts("herds", {}) as both:
        for seed, (name, size) in enumerate((("20 MiB", 20 << 20), ("4 MiB", 4 << 20), ("10 kB", 10_000)), 1):
            key = b"herd-%d" % size
            both[0].put(key, seed, size)
            both[0].fake.script(Match(key=key, operation="GetObject"), Action(rate=size / SPEED[name]), 1)
            work = [partial(both[number % 2].read, key, seed, size, timeout=200) for number in range(CLIENTS)]
            readings = at_once(work, 400)
            if not all(reading.exact for reading in readings):
                raise AssertionError(f"{name}: not every client has every byte")
            ratio = both[0].fake.requests.object_bytes(key) / size
            say(f"{name}: {ratio:.2f}")
            yield f"| {name} in {SPEED[name]:g} s | {ratio:.2f} | {max(each.first_byte for each in readings):.2f} s |"


def mixture(minutes: float) -> Iterator[str]:
    """Readers and writers at random."""
    from test.system.hosts import Mixture

    cache = {
        "metadata_cache": {"refresh_interval": "1s"}, "write_cache_percent": 30, "max_cache_size": 48 << 20,
        "max_ram_cache_size": 8 << 20,
    }  # fmt: skip
    with two_hosts("mixture", {"cache": cache}) as both:
        work = Mixture(both, 1.0 + VISIBLE, BUSY)
        work.run(60 * minutes)
    if work.faults:
        raise AssertionError("\n".join(work.faults))
    yield f"{work.reads} reads and {work.writes} writes at random in {60 * minutes:g} s: every byte of each answer was "
    yield f"that of one version, none of which was too old; {work.broken} answers broke off."


def measure(minutes: float, parts: Sequence[str]) -> int:
    """Print everything; the exit code."""
    known = {"lateness": lateness, "herds": herds, "mixture": partial(mixture, minutes)}
    code = 0
    for part in (known[name] for name in parts):
        try:
            lines: Sequence[str] = []
            for line in part():
                lines = (*lines, line)
        except Exception:
            traceback.print_exc()
            code = 1
        print(f"\n{BEGIN}", flush=True)
        for line in lines:
            print(line)
        print("\n=== more", flush=True)
    return code


def main() -> None:
    """Do it, and switch the machine off."""
    root, tree, options, minutes, *parts = sys.argv[1:]
    code = 1
    try:
        os.chdir(root)
        serve(Path(tree))
        mount(options)
        # The server's grace period, in which nothing can be opened.
        time.sleep(12)
        code = measure(float(minutes), parts)
    except Exception:
        traceback.print_exc()
    finally:
        print(f"{END} {code}", flush=True)
        power_off()


if __name__ == "__main__":
    main()
