"""How a figure is taken: in turns, several times, with the processor time that it cost."""

import os
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs

from bench.clients import Load
from bench.origins import Origin
from bench.process import Server, machine_times

__all__ = [
    "BYTE_RATE",
    "CPU_PER_GIB",
    "CPU_PER_REQUEST",
    "Case",
    "Column",
    "Counters",
    "FIRST_BYTE",
    "FULL",
    "Group",
    "QUICK",
    "REQUEST_RATE",
    "Sample",
    "Scale",
    "Stage",
    "TOTAL",
    "drop_page_cache",
    "sample_of",
    "settle",
    "take",
]

Sample = Mapping[str, float]
"""Figures by name; see :func:`sample_of`."""


@attrs.frozen
class Column:
    """A figure of a case that the report shows.

    :ivar figure: its name in the samples
    :ivar unit: what the report calls it
    """

    figure: str
    unit: str


REQUEST_RATE = Column("requests_per_s", "requests/s")
BYTE_RATE = Column("mib_per_s", "MiB/s")
CPU_PER_REQUEST = Column("cpu_us_per_request", "CPU µs/request")
CPU_PER_GIB = Column("cpu_s_per_gib", "CPU s/GiB")
FIRST_BYTE = Column("first_byte_ms", "first byte, ms")
TOTAL = Column("total_ms", "last byte, ms")


@attrs.frozen
class Scale:
    """How much is measured.

    :ivar rounds: how often each figure is taken
    :ivar seconds: length of a measurement that has no natural end
    :ivar small_objects: objects of up to 64 KiB that are read from the disk in one measurement
    :ivar large_objects: objects of 64 MiB that are read from the disk or the origin in one measurement
    :ivar herd: clients of a herd
    :ivar herd_bytes: size of the object that it asks for
    :ivar readers: slow readers
    :ivar slow_seconds: how long they read
    """

    rounds: int
    seconds: float
    small_objects: int
    large_objects: int
    herd: int = 100
    herd_bytes: int = 100 << 20
    readers: int = 100
    slow_seconds: float = 10.0


FULL = Scale(rounds=5, seconds=3, small_objects=3000, large_objects=16)
QUICK = Scale(rounds=1, seconds=1, small_objects=300, large_objects=4, slow_seconds=3.0)


@attrs.frozen
class Case:
    """One load that every peer gets.

    :ivar name: what the report calls it
    :ivar columns: the figures to show
    :ivar load: puts the load on a server
    :ivar prepare: called once for each server before the first round: fill, warm up
    :ivar before: called before each measurement, outside of it
    :ivar peers: names of the servers that take part; None for all of the group
    """

    name: str
    columns: tuple[Column, ...]
    load: Callable[[Server], Load]
    prepare: Callable[[Server], None] = lambda server: None
    before: Callable[[Server], None] = lambda server: None
    peers: tuple[str, ...] | None = None


@attrs.define
class Stage:
    """The servers of one group, in a folder of their own, which is removed with them.

    :ivar pythons: interpreters that run the proxy; one peer for each
    :ivar peers: the servers that are measured, in the order of the report
    :ivar others: servers behind them
    :ivar origin: where they fetch
    """

    folder: Path
    pythons: Sequence[str]
    origin: Origin | None = None
    peers: dict[str, Server] = attrs.field(factory=dict)
    others: list[Server] = attrs.field(factory=list)

    def stop(self) -> None:
        """End all servers."""
        for server in (*self.peers.values(), *self.others):
            server.stop()

    def cpu_seconds(self) -> float:
        """Processor time of all servers so far."""
        return sum(server.cpu_seconds() for server in (*self.peers.values(), *self.others))


@attrs.frozen
class Group:
    """Cases that are measured with the same servers.

    :ivar name: the word that selects it on the command line
    :ivar title: its heading in the report
    :ivar about: what a reader of its figures must know
    :ivar start: starts the servers of a stage
    :ivar cases: the cases at a scale
    """

    name: str
    title: str
    about: str
    start: Callable[[Stage, Scale], None]
    cases: Callable[[Stage, Scale], Sequence[Case]]


def drop_page_cache(folder: Path) -> None:
    """Make the kernel forget the contents of all files below a folder; as root, also directories and inodes, for which
    there is only a switch for the whole machine."""
    os.sync()
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                descriptor = os.open(os.path.join(parent, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            except OSError:
                continue
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            except OSError:
                continue
            finally:
                os.close(descriptor)
    if os.geteuid() == 0:
        try:
            Path("/proc/sys/vm/drop_caches").write_text("2\n")
        except OSError:
            return


def settle() -> None:
    """Let what was written before reach the disk now and not while the next server is measured."""
    os.sync()


def client_seconds() -> float:
    """Processor time of the clients so far: of this process, and of every wrk that has ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


@attrs.frozen
class Counters:
    """What only grows while a server is measured.

    :ivar wall: the time, in seconds
    :ivar cpu: processor seconds of the server
    :ivar servers: of all servers, the origin too
    :ivar clients: of the clients
    :ivar busy: of the whole machine, that of others included
    :ivar stolen: seconds for which the hypervisor kept its processors from running
    :ivar disk: bytes that were read from the disk for the server
    """

    wall: float
    cpu: float
    servers: float
    clients: float
    busy: float
    stolen: float
    disk: int

    @classmethod
    def now(cls, stage: Stage, server: Server) -> "Counters":
        """As they stand."""
        busy, stolen = machine_times()
        return cls(
            time.monotonic(),
            server.cpu_seconds(),
            stage.cpu_seconds(),
            client_seconds(),
            busy,
            stolen,
            server.disk_read_bytes(),
        )


def sample_of(load: Load, before: Counters, after: Counters) -> Sample:
    """The figures of one measurement. What the load itself says of a figure counts more than the counters."""
    cpu = after.cpu - before.cpu
    clients = after.clients - before.clients
    known = after.servers - before.servers + clients
    foreign = after.busy - before.busy - known + after.stolen - before.stolen
    sample = {
        "seconds": load.seconds,
        "requests": load.requests,
        "requests_per_s": load.requests / load.seconds,
        "cpu_s": cpu,
        "client_s": clients,
        "foreign_s": max(0.0, foreign),
        "observed_s": after.wall - before.wall,
    }
    if load.requests:
        sample["cpu_us_per_request"] = cpu / load.requests * 1e6
    if load.body_bytes:
        sample["mib_per_s"] = load.body_bytes / (1 << 20) / load.seconds
        sample["cpu_s_per_gib"] = cpu / (load.body_bytes / (1 << 30))
        sample["from_disk"] = (after.disk - before.disk) / load.body_bytes
    sample.update(load.extras)
    return {name: float(f"{value:.5g}") for name, value in sample.items()}


def observe(stage: Stage, server: Server, case: Case) -> Sample:
    """Measure one server once."""
    case.before(server)
    before = Counters.now(stage, server)
    load = case.load(server)
    return sample_of(load, before, Counters.now(stage, server))


def take(stage: Stage, case: Case, rounds: int) -> dict[str, list[Sample]]:
    """Measure every peer of a case so many times, in turns, so that what disturbs one disturbs the others too. Every
    round begins with the next peer."""
    names = [name for name in stage.peers if case.peers is None or name.partition("@")[0] in case.peers]
    for name in names:
        case.prepare(stage.peers[name])
    samples: dict[str, list[Sample]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            samples[name].append(observe(stage, stage.peers[name], case))
    return samples
