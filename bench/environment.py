"""What the figures were taken with: machine, programs, how the interpreters were built. No names of hosts or paths."""

import datetime
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.process import ROOT

__all__ = ["describe", "environment_text", "file_system"]

_DESCRIBE = """
import json, platform, re, sys, sysconfig, time
def loop():
    start, total = time.process_time(), 0
    for number in range(300000):
        total += len(str(number)) if number % 3 else number & 7
    return time.process_time() - start
arguments = sysconfig.get_config_var("CONFIG_ARGS") or ""
flags = sysconfig.get_config_var("CFLAGS") or ""
known = ("--enable-optimizations", "--with-lto", "--enable-shared", "--with-pydebug")
versions = {}
for name in ("twisted", "s3proxy"):
    try:
        versions[name] = str(__import__(name).__version__)
    except ImportError:
        versions[name] = "missing"
print(json.dumps({
    "python": f"{platform.python_implementation()} {platform.python_version()}",
    "compiler": platform.python_compiler(),
    "configured": [each for each in known if each in arguments],
    "flags": sorted(set(re.findall(r"-O[0-9sg]|-flto\\S*|-fprofile-use\\S*|-march=\\S+", flags))),
    "loop_ms": round(min(loop() for _ in range(5)) * 1e3, 1),
    **versions,
}))
"""


def interpreter(python: str) -> dict[str, Any]:
    """An interpreter's version and build, versions of what it runs, and the processor time of a loop of plain Python.

    :raises subprocess.CalledProcessError: it cannot run this
    """
    output = subprocess.run(
        [python, "-c", _DESCRIBE],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ).stdout
    found: dict[str, Any] = json.loads(output)
    return found


def _version(*command: str) -> str | None:
    """The first version number that a program prints; None if it is not there."""
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    match = re.search(r"[0-9]+\.[0-9]+(\.[0-9]+)?", done.stdout)
    return match[0] if match else None


def file_system(folder: Path) -> str:
    """The type of the file system of a folder."""
    best = ("", "unknown")
    path = str(folder.resolve())
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind = line.split(" ")[:3]
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1]


def describe(pythons: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """Everything that may explain a figure.

    :param pythons: peers that run on an interpreter, and which
    :param folder: where caches are
    """
    processor = re.search(r"(?m)^model name\s*: *(.*)$", Path("/proc/cpuinfo").read_text())
    return {
        "taken": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "processors": len(os.sched_getaffinity(0)),
        "processor": processor[1] if processor else platform.machine(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30), 1),
        "kernel": "Linux " + re.match(r"[0-9.]*[0-9]", platform.release())[0],  # type: ignore[index]
        "file_system": file_system(folder),
        "root": os.geteuid() == 0,
        "nginx": _version("nginx", "-v"),
        "varnish": _version("varnishd", "-V"),
        "wrk": _version("wrk", "-v"),
        "interpreters": {name: interpreter(python) for name, python in pythons.items()},
    }


def _interpreter_text(found: Mapping[str, Any]) -> str:
    configured: Sequence[str] = found["configured"]
    how = "configured with " + " ".join(configured) if configured else "configured without options for speed"
    return (
        f"{found['python']} ({found['compiler']}, {' '.join(found['flags'])}, {how}; a loop of plain Python takes "
        f"{found['loop_ms']} ms), Twisted {found['twisted']}"
    )


def environment_text(found: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """One paragraph."""
    programs = [f"{name} {found[key]}" for key, name in (("nginx", "nginx"), ("varnish", "Varnish")) if found[key]]
    first = next(iter(found["interpreters"].values()))
    lines = [
        f"Version {first['s3proxy']}, {', '.join(programs)}, wrk {found['wrk']}. {found['kernel']}, "
        f"{found['processors']} processors ({found['processor']}), {found['memory_gib']} GiB, caches on "
        f"{found['file_system']}. {found['taken']}."
    ]
    lines += [f"{titles[name]}: {_interpreter_text(each)}." for name, each in found["interpreters"].items()]
    return " ".join(lines)
