"""What must be left of two proxies' work on one cache directory when they are at rest: nothing but what is counted."""

import os
import re
from pathlib import Path
from test.support.chaos_history import Wrong
from test.support.chaos_stage import ChaosStage
from test.support.waiting import poll

from s3proxy.storage.layout import DIRECTORY_FOOTPRINT, footprint

__all__ = ["check_aftermath"]

_SECONDS = 30.0
_FIXED = 12 * 4096
_KEPT = ("base.json", "scrub.json")
"""What stays in ``ctl/``."""


def check_aftermath(stage: ChaosStage) -> None:
    """Look at both while they run, end them, and look at what they leave and logged.

    :raises Wrong: something is not as it has to be
    """
    try:
        poll(lambda: not _left_over(stage), _SECONDS, "what is unfinished to go", interval=0.5)
    except TimeoutError:
        raise Wrong(f"left over: {_left_over(stage)[:20]}") from None
    try:
        poll(lambda: all(_is_counted(stage, number) for number in range(2)), _SECONDS, "the accounts", interval=0.5)
    except TimeoutError:
        said = [_said(stage, number) for number in range(2)]
        raise Wrong(f"the instances count {said} bytes, and there are {_real(stage.cache)}") from None
    for number, proxy in enumerate(stage.proxies):
        code = proxy.terminate()
        if code != 0:
            raise Wrong(f"instance {number} ended with {code}")
    left = [*_left_over(stage), *map(str, (stage.cache / "inst").iterdir())]
    left += [str(path) for path in (stage.cache / "ctl").iterdir() if path.name not in _KEPT]
    if left:
        raise Wrong(f"left over at the end: {left}")
    for number, proxy in enumerate(stage.proxies):
        lines = (proxy.app_log() + proxy.output()).splitlines()
        for at, line in enumerate(lines):
            if re.search(r"Traceback|Unhandled", line):
                raise Wrong(f"instance {number} logged\n" + "\n".join(lines[max(0, at - 3) : at + 40]))


def _left_over(stage: ChaosStage) -> list[str]:
    """Files in the making, trash, files of the cache that are open although they are gone, and connections."""
    found = [str(path) for path in stage.files() if path.name.endswith(".f") or path.name.startswith(("t.", "f."))]
    found += [str(path) for path in (stage.cache / "trash").iterdir()]
    found += [str(path) for path in (stage.cache / "ctl").glob("evict.*")]
    for number, proxy in enumerate(stage.proxies):
        if not proxy.running:
            continue
        for pid in stage.pids(number):
            found += [f"{pid}: {target}" for target in _open_files(pid) if _is_gone(stage, target)]
        if proxy.metric("s3proxy_client_connections"):
            found.append(f"instance {number}: connections of clients")
    return found


def _open_files(pid: int) -> list[str]:
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(os.readlink(link))
        except FileNotFoundError:
            continue
    return found


def _is_gone(stage: ChaosStage, target: str) -> bool:
    return target.startswith(str(stage.cache)) and target.endswith(" (deleted)")


def _is_counted(stage: ChaosStage, number: int) -> bool:
    """Whether an instance's accounts are the directory's, within one in a hundred."""
    real = _real(stage.cache)
    return abs(_said(stage, number) - real) <= 0.01 * real


def _said(stage: ChaosStage, number: int) -> int:
    return int(stage.proxies[number].metric("s3proxy_cache_size_bytes", tier="disk"))


def _real(cache: Path) -> int:
    """What the directory holds, by the rules."""
    total = _FIXED
    for top in ("o", "up", "trash"):
        for parent, folders, names in os.walk(cache / top):
            total += DIRECTORY_FOOTPRINT * len(folders)
            total += sum(footprint(os.lstat(os.path.join(parent, name)).st_size) for name in names)
    return total
