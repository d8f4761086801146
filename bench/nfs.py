"""Two hosts on one NFS 4.1 server: how late they see each other's writes, and whether they share downloads.

    python bench/nfs.py [--parts PART ...] [--minutes N] [--folder DIR] [--options MOUNT_OPTIONS]

Boots a virtual machine without any network card, in which Linux' NFS server exports a file system and two network
namespaces are its clients, each with a proxy (``bench/nfs_guest.py``). The machine's file system is this one's,
read-only, so that the same Python runs there; its kernel, the NFS programs and, where it is not installed, the emulator
are Debian's packages, fetched by apt, which compares them with Debian's signed lists, and unpacked into a temporary
folder: nothing is installed. Needs Debian or Ubuntu, and 1 GiB there. The processor is emulated, because KVM seldom
works within virtual machines: everything is some ten times slower than in life, but what NFS does is not emulated.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GUEST = ("linux-image-amd64", "nfs-kernel-server", "nfs-common", "busybox-static", "kmod", "iproute2")
"""What the machine runs, besides what is installed here."""
EMULATOR = ("qemu-system-x86",)
AT_START = ("virtio_pci", "virtio_blk", "9pnet_virtio", "9p", "crc32c_generic", "ext4")
"""Modules that are needed before the rest can be loaded from the file system."""
OPTIONS = "lookupcache=pos,acregmin=1,acregmax=3,acdirmin=1,acdirmax=3"
"""What doc/shared-storage.md recommends, besides the version and ``hard``."""
ACCELERATORS = {"tcg": ("-accel", "tcg,thread=multi", "-cpu", "max"), "kvm": ("-accel", "kvm", "-cpu", "host")}
PARTS = ("lateness", "herds", "mixture")
BEGIN, END = "=== results", "=== end"

INIT = """#!/bin/busybox sh
export PATH=/bin
mount() { /bin/busybox mount "$@"; }
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /modules/order); do /bin/busybox insmod /modules/$module; done
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=262144 host /host
for folder in run var mnt; do mount -t tmpfs tmpfs /host/$folder; done
/bin/busybox cp -a /host/etc /etc-copy 2> /dev/null
mount -t tmpfs tmpfs /host/etc
/bin/busybox mkdir /host/mnt/tmp
/bin/busybox cp -a /etc-copy/. /host/etc/
/bin/busybox rm -rf /etc-copy
for folder in proc sys dev; do mount --move /$folder /host/$folder; done
cd /host
exec /bin/busybox chroot /host @COMMAND@
"""


def fetch(folder: Path) -> None:
    """Have apt fetch and check the packages that are missing, and unpack them.

    :raises SystemExit: it can't
    """
    wanted = [*GUEST, *(() if shutil.which("qemu-system-x86_64") else EMULATOR)]
    archives = folder / "packages"
    (archives / "partial").mkdir(parents=True, exist_ok=True)
    command = ["apt-get", "install", "--download-only", "--reinstall", "-y", "--no-install-recommends"]
    done = subprocess.run(
        [*command, "-o", f"Dir::Cache::archives={archives}", *wanted],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
    )
    if done.returncode != 0:
        sys.exit(f"apt-get can't fetch {' '.join(wanted)}; is its list up to date (apt-get update)?\n{done.stderr}")
    for package in sorted(archives.glob("*.deb")):
        subprocess.run(["dpkg-deb", "--extract", str(package), str(folder / "new")], check=True)
    tree = (folder / "new").rename(folder / "tree")
    for parent, folders, files in os.walk(tree):
        for path in (Path(parent, name) for name in (*folders, *files)):
            aim = os.readlink(path) if path.is_symlink() else ""
            if aim.startswith("/") and os.path.exists(f"{tree}{aim}"):
                path.unlink()
                path.symlink_to(f"{tree}{aim}")


def environment(tree: Path) -> dict[str, str]:
    """What makes programs of the tree run in place."""
    libraries = ":".join(f"{tree}{each}" for each in ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu"))
    programs = ":".join(f"{tree}{each}" for each in ("/usr/sbin", "/sbin", "/usr/bin", "/bin"))
    return {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin:{programs}", "LD_LIBRARY_PATH": libraries}


def modules_for(tree: Path, names: Sequence[str], release: str, programs: Mapping[str, str]) -> list[Path]:
    """The files of these kernel modules and of those that they need, in the order in which they have to be loaded."""
    run = {**os.environ, **programs}
    subprocess.run(["depmod", "--basedir", str(tree), release], check=True, env=run)
    base = tree / "lib/modules" / release
    needs = {}
    for line in (base / "modules.dep").read_text().splitlines():
        file, _, others = line.partition(":")
        needs[file] = others.split()
    by_name = {Path(file).name.partition(".")[0].replace("-", "_"): file for file in needs}
    built_in = {Path(line).name.partition(".")[0].replace("-", "_")
                for line in (base / "modules.builtin").read_text().splitlines()}  # fmt: skip
    found: list[Path] = []
    for name in names:
        if name in built_in:
            continue
        for file in (*reversed(needs[by_name[name]]), by_name[name]):
            if base / file not in found:
                found.append(base / file)
    return found


def archive(members: Sequence[tuple[str, int, bytes]]) -> bytes:
    """A cpio archive ("newc") of names, modes and contents, as the kernel unpacks it."""

    def records() -> Iterator[bytes]:
        for number, (name, mode, data) in enumerate((*members, ("TRAILER!!!", 0, b"")), 1):
            raw = name.encode() + b"\0"
            fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0)
            head = b"070701" + b"".join(b"%08X" % field for field in fields) + raw
            yield head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)

    return b"".join(records())


def first_files(folder: Path, release: str, command: str, programs: Mapping[str, str]) -> Path:
    """Make what the kernel starts with."""
    tree = folder / "tree"
    busybox = next(each for each in (tree / "bin/busybox", tree / "usr/bin/busybox") if each.exists())
    modules = modules_for(tree, AT_START, release, programs)
    members = [(name, 0o40755, b"") for name in ("bin", "dev", "proc", "sys", "host", "modules")]
    members.append(("bin/busybox", 0o100755, busybox.read_bytes()))
    members.append(("init", 0o100755, INIT.replace("@COMMAND@", command).encode()))
    members.append(("modules/order", 0o100644, "\n".join(each.name for each in modules).encode()))
    members += [(f"modules/{each.name}", 0o100644, each.read_bytes()) for each in modules]
    path = folder / "initramfs"
    path.write_bytes(archive(members))
    return path


def boot(folder: Path, options: argparse.Namespace) -> int:
    """Run the machine and print what it finds; 0: everything was as it should be."""
    tree = folder / "tree"
    programs = environment(tree)
    kernel = next((tree / "boot").glob("vmlinuz-*"))
    release = kernel.name.partition("-")[2]
    command = " ".join(
        (
            "/usr/bin/env", f"PATH={programs['PATH']}", f"LD_LIBRARY_PATH={programs['LD_LIBRARY_PATH']}",
            "PYTHONDONTWRITEBYTECODE=1", "S3PROXY_TEST_PATIENCE=4", f"PYTHONPATH={ROOT}", "TMPDIR=/mnt/tmp",
            sys.executable, "-m", "bench.nfs_guest", str(ROOT), str(tree), options.options or "''",
            str(options.minutes), *options.parts,
        )  # fmt: skip
    )
    initial = first_files(folder, release, command, programs)
    disk = folder / "export.img"
    with disk.open("wb") as file:
        file.truncate(4 << 30)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", str(disk)], check=True, env={**os.environ, "PATH": programs["PATH"]})
    arguments = [
        "qemu-system-x86_64", *ACCELERATORS[options.accelerator],
        "-m", "3072", "-smp", "2", "-nic", "none", "-display", "none", "-monitor", "none", "-serial", "stdio",
        "-no-reboot", "-kernel", str(kernel), "-initrd", str(initial),
        "-append", "console=ttyS0 quiet panic=-1 loglevel=4",
        "-drive", f"file={disk},if=virtio,format=raw,cache=unsafe",
        "-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
    ]  # fmt: skip
    run = {**os.environ, "PATH": programs["PATH"]}
    if not shutil.which("qemu-system-x86_64"):
        arguments += ["-L", str(tree / "usr/share/qemu"), "-L", str(tree / "usr/share/seabios")]
        run = {**run, **programs}
    print(f"booting Linux {release} ({options.accelerator})", file=sys.stderr, flush=True)
    machine = subprocess.Popen(
        arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=run, text=True,
        errors="replace",
    )  # fmt: skip
    assert machine.stdout is not None
    inside, code = False, 1
    try:
        for line in machine.stdout:
            text = line.rstrip()
            if text.startswith(END):
                code = int(text.removeprefix(END) or 1)
            inside = text.startswith(BEGIN) or (inside and not text.startswith(END))
            if not text.startswith((BEGIN, END)):
                print(text, file=sys.stdout if inside else sys.stderr, flush=True)
        machine.wait(60)
    finally:
        machine.kill()
        machine.wait()
    return code


def main() -> int:
    """Do it; the exit code."""
    parser = argparse.ArgumentParser(description="Two hosts on one NFS server, in a virtual machine.")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help=f"what to measure ({' '.join(PARTS)})")
    parser.add_argument("--minutes", type=float, default=0.5, help="how long they read and write at random (0.5)")
    parser.add_argument("--options", default=OPTIONS, help=f"of the mounts ({OPTIONS})")
    parser.add_argument("--accelerator", choices=sorted(ACCELERATORS), default="tcg", help="how to run it (tcg)")
    parser.add_argument("--folder", type=Path, help="keep what is fetched there, for the next time")
    options = parser.parse_args()
    # Whoever ends it wants it to clean up.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="s3proxy-nfs-") as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        if not (folder / "tree").exists():
            fetch(folder)
        return boot(folder, options)


if __name__ == "__main__":
    sys.exit(main())
