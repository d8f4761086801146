"""A folder shown at a second place, where names and attributes are believed for a while: what others change in the
folder is seen late there, as on a network file system.

The file system runs in a process of its own, ``python -m test.support.late_mount SOURCE POINT``, and speaks the
kernel's FUSE protocol (``include/uapi/linux/fuse.h``) itself: no library is needed, only ``/dev/fuse`` and the right to
mount. As on NFS,

* what is opened is read anew, attributes included (close-to-open), and every write reaches the folder at once;
* a name, the attributes of a file, and the list of a folder in which nothing was looked up or changed through this
  mount meanwhile, may be out of date by so many seconds as are given; that a name does not exist is not remembered
  (``lookupcache=pos``);
* a file is found by what it is, not by its name: who still knows a name gets the file that had it.
"""

import argparse
import ctypes
import errno
import os
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from test.support.waiting import poll
from unittest import SkipTest

__all__ = ["LateMount", "serve"]

_CHECKOUT = Path(__file__).resolve().parents[2]
_THREADS = 4
_MAX_WRITE = 128 << 10
_IN = struct.Struct("<IIQQIIII")
_OUT = struct.Struct("<IiQ")
_ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
_SETATTR = struct.Struct("<IIQQQQQQIIIIIIII")
_READ = struct.Struct("<QQIIQII")
_ROOT = 1
_O_PATH = getattr(os, "O_PATH", 0o10000000)
_AT_ONCE = (1 << 7, 1 << 8)
_AUTO_INVALIDATE, _BIG_WRITES, _ASYNC_READ, _PARALLEL = 1 << 12, 1 << 5, 1, 1 << 18
_FORGET, _BATCH_FORGET, _INTERRUPT, _DESTROY = 2, 42, 36, 38


class LateMount:
    """A mount of ``source`` at ``point``, which is made. :meth:`unmount` in the clean-up.

    :param seconds: for which names, attributes and lists are believed
    :param strict: what others have removed can neither be opened nor read any more (``ESTALE``), as NFS servers may
        have it; otherwise who knows it by an old name, or has it open, goes on with it
    :param loose: opening a file does not ask for its attributes; less than NFS promises
    :raises SkipTest: it can't be mounted here
    """

    def __init__(self, source: Path, point: Path, seconds: float, *, strict: bool = False, loose: bool = False) -> None:
        self.point = point
        point.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "test.support.late_mount", str(source), str(point), f"--seconds={seconds}"]
        self._process = subprocess.Popen(
            [*command, *(["--strict"] if strict else []), *(["--loose"] if loose else [])],
            cwd=_CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self._process.stdout is not None
        said = self._process.stdout.readline().decode().strip()
        if said != "mounted":
            self._end()
            raise SkipTest(f"needs the right to mount a FUSE file system: {said}")
        poll(lambda: os.path.ismount(point), 5, "the file system to be there")

    def unmount(self) -> None:
        """Take it away, in whatever state it is.

        :raises AssertionError: it was asked for something that it can't do
        """
        subprocess.run(["umount", "-l", str(self.point)], capture_output=True, check=False)
        said = self._end()
        if said:
            raise AssertionError(said)

    def _end(self) -> str:
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        with self._process.stdout:
            return self._process.stdout.read().decode(errors="replace")


_Names = list[tuple[str, int, int]]
"""Name, inode and type of what is in a folder."""


class _Node:
    """A file or folder that the kernel knows.

    :ivar fd: holds it, but is not open for reading or writing
    :ivar known: how often the kernel was told of it
    :ivar removed_here: its last name was removed through this mount
    :ivar changes: of the folder, made through this mount
    :ivar listed: when the folder was read, after how many of these changes, what was in it, and its time
    """

    __slots__ = ("changes", "fd", "identity", "known", "listed", "removed_here")

    def __init__(self, fd: int, identity: tuple[int, int]) -> None:
        self.fd = fd
        self.identity = identity
        self.known = 0
        self.removed_here = False
        self.changes = 0
        self.listed: tuple[float, int, _Names, int] | None = None

    @property
    def path(self) -> str:
        """A path to it, whatever its names are."""
        return f"/proc/self/fd/{self.fd}"


class _FileSystem:
    """Answers requests; thread-safe.

    :param source: the folder
    :param expire: makes the kernel ask again for the attributes of a node; None: it is left alone
    """

    def __init__(self, source: str, seconds: float, strict: bool, expire: Callable[[int], None] | None) -> None:
        self._seconds = seconds
        self._strict = strict
        self._expire = expire
        self._lock = threading.Lock()
        self._numbers = _ROOT
        root = os.open(source, _O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        status = os.stat(root)
        self._nodes = {_ROOT: _Node(root, (status.st_dev, status.st_ino))}
        self._nodes[_ROOT].known = 1
        self._by_identity = {self._nodes[_ROOT].identity: _ROOT}
        self._lists: dict[int, _Names] = {}
        self._list_number = 0
        self._calls: dict[int, Callable[[_Node, bytes], bytes]] = {
            1: self._lookup, 3: self._getattr, 4: self._setattr, 9: self._mkdir, 10: self._unlink, 11: self._rmdir,
            12: self._rename, 13: self._link, 14: self._open, 15: self._read, 16: self._write, 17: self._statfs,
            18: self._release, 20: self._sync, 25: self._nothing, 27: self._opendir, 28: self._readdir,
            29: self._releasedir, 30: self._nothing, 35: self._create,
        }  # fmt: skip

    def answer(self, opcode: int, number: int, data: bytes) -> bytes:
        """The answer to one request.

        :raises OSError: the error that is the answer
        """
        if opcode == 26:
            return self._init(data)
        call = self._calls.get(opcode)
        if call is None:
            raise OSError(errno.ENOSYS, "not needed")
        with self._lock:
            node = self._nodes[number]
        return call(node, data)

    def forget(self, opcode: int, number: int, data: bytes) -> None:
        """The kernel does not know these any more."""
        if opcode == _FORGET:
            gone = [(number, struct.unpack_from("<Q", data)[0])]
        else:
            count = struct.unpack_from("<I", data)[0]
            gone = [struct.unpack_from("<QQ", data, 8 + 16 * index) for index in range(count)]
        with self._lock:
            for each, times in gone:
                node = self._nodes[each]
                node.known -= times
                if node.known <= 0 and each != _ROOT:
                    del self._nodes[each]
                    del self._by_identity[node.identity]
                    os.close(node.fd)

    def _init(self, data: bytes) -> bytes:
        _, minor, readahead, flags = struct.unpack_from("<IIII", data)
        flags &= _AUTO_INVALIDATE | _BIG_WRITES | _ASYNC_READ | _PARALLEL
        return struct.pack("<IIIIHHIIHHI28x", 7, min(31, minor), readahead, flags, 16, 12, _MAX_WRITE, 1, 0, 0, 0)

    # What the kernel is told.

    def _times(self) -> tuple[int, int]:
        whole = int(self._seconds)
        return whole, int((self._seconds - whole) * 1e9)

    def _attributes(self, status: os.stat_result) -> bytes:
        def split(nanoseconds: int) -> tuple[int, int]:
            return divmod(nanoseconds, 1_000_000_000)

        accessed, modified, changed = map(split, (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns))
        return _ATTR.pack(
            status.st_ino, status.st_size, status.st_blocks, accessed[0], modified[0], changed[0], accessed[1],
            modified[1], changed[1], status.st_mode, status.st_nlink, status.st_uid, status.st_gid, 0, 4096, 0,
        )  # fmt: skip

    def _attribute_answer(self, status: os.stat_result) -> bytes:
        return struct.pack("<QII", *self._times(), 0) + self._attributes(status)

    def _entry(self, parent: _Node, name: bytes) -> bytes:
        """Tell the kernel what has a name now."""
        fd = os.open(name, _O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent.fd)
        status = os.stat(fd)
        identity = (status.st_dev, status.st_ino)
        with self._lock:
            number = self._by_identity.get(identity)
            if number is None:
                self._numbers = number = self._numbers + 1
                self._nodes[number] = _Node(fd, identity)
                self._by_identity[identity] = number
            else:
                os.close(fd)
            self._nodes[number].known += 1
        whole, rest = self._times()
        return struct.pack("<QQQQII", number, 0, whole, whole, rest, rest) + self._attributes(status)

    def _refuse_removed(self, node: _Node) -> None:
        if self._strict and not node.removed_here and os.stat(node.fd).st_nlink == 0:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    def _removing(self, parent: _Node, name: bytes) -> None:
        """A name is about to be removed, or to get something else."""
        try:
            status = os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
        except FileNotFoundError:
            return
        with self._lock:
            number = self._by_identity.get((status.st_dev, status.st_ino))
            if number is not None and status.st_nlink == 1:
                self._nodes[number].removed_here = True

    # Names.

    def _lookup(self, node: _Node, data: bytes) -> bytes:
        # Answers of NFS servers tell of the folder, too.
        known = node.listed
        if known is not None and known[3] != os.stat(node.fd).st_mtime_ns:
            node.listed = None
        return self._entry(node, data[:-1])

    def _mkdir(self, node: _Node, data: bytes) -> bytes:
        mode, _ = struct.unpack_from("<II", data)
        name = data[8:-1]
        os.mkdir(name, mode & 0o7777, dir_fd=node.fd)
        node.changes += 1
        return self._entry(node, name)

    def _unlink(self, node: _Node, data: bytes) -> bytes:
        self._removing(node, data[:-1])
        os.unlink(data[:-1], dir_fd=node.fd)
        node.changes += 1
        return b""

    def _rmdir(self, node: _Node, data: bytes) -> bytes:
        os.rmdir(data[:-1], dir_fd=node.fd)
        node.changes += 1
        return b""

    def _rename(self, node: _Node, data: bytes) -> bytes:
        with self._lock:
            target = self._nodes[struct.unpack_from("<Q", data)[0]]
        old, new, _ = data[8:].split(b"\0")
        self._removing(target, new)
        os.rename(old, new, src_dir_fd=node.fd, dst_dir_fd=target.fd)
        node.changes += 1
        target.changes += 1
        return b""

    def _link(self, node: _Node, data: bytes) -> bytes:
        with self._lock:
            source = self._nodes[struct.unpack_from("<Q", data)[0]]
        os.link(source.path, data[8:-1], dst_dir_fd=node.fd, follow_symlinks=True)
        node.changes += 1
        return self._entry(node, data[8:-1])

    # Attributes.

    def _getattr(self, node: _Node, data: bytes) -> bytes:
        return self._attribute_answer(os.stat(node.fd))

    def _setattr(self, node: _Node, data: bytes) -> bytes:
        valid, _, fh, size, _, atime, mtime, _, atime_rest, mtime_rest, _, mode, _, _, _, _ = _SETATTR.unpack_from(data)
        if valid & 1:
            os.chmod(node.path, mode & 0o7777)
        if valid & 8:
            if valid & 64:
                os.ftruncate(fh, size)
            else:
                os.truncate(node.path, size)
        if valid & (16 | 32):
            now = time.time_ns()
            status = os.stat(node.fd)
            accessed = now if valid & _AT_ONCE[0] else atime * 1_000_000_000 + atime_rest
            modified = now if valid & _AT_ONCE[1] else mtime * 1_000_000_000 + mtime_rest
            os.utime(
                node.path,
                ns=(accessed if valid & 16 else status.st_atime_ns, modified if valid & 32 else status.st_mtime_ns),
            )
        return self._attribute_answer(os.stat(node.fd))

    def _statfs(self, node: _Node, data: bytes) -> bytes:
        space = os.statvfs(node.path)
        return struct.pack(
            "<QQQQQIIII24x", space.f_blocks, space.f_bfree, space.f_bavail, space.f_files, space.f_ffree,
            space.f_bsize, space.f_namemax, space.f_frsize, 0,
        )  # fmt: skip

    # Files.

    def _open(self, node: _Node, data: bytes) -> bytes:
        self._refuse_removed(node)
        if self._expire is not None:
            with self._lock:
                number = self._by_identity[node.identity]
            self._expire(number)
        flags = struct.unpack_from("<I", data)[0] & (os.O_ACCMODE | os.O_TRUNC)
        return struct.pack("<QII", os.open(node.path, flags | os.O_CLOEXEC), 0, 0)

    def _create(self, node: _Node, data: bytes) -> bytes:
        flags, mode, _, _ = struct.unpack_from("<IIII", data)
        name = data[16:-1]
        flags &= os.O_ACCMODE | os.O_TRUNC | os.O_EXCL
        fd = os.open(name, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, mode & 0o7777, dir_fd=node.fd)
        node.changes += 1
        return self._entry(node, name) + struct.pack("<QII", fd, 0, 0)

    def _read(self, node: _Node, data: bytes) -> bytes:
        fh, offset, size, *_ = _READ.unpack_from(data)
        self._refuse_removed(node)
        return os.pread(fh, size, offset)

    def _write(self, node: _Node, data: bytes) -> bytes:
        fh, offset, size, *_ = _READ.unpack_from(data)
        return struct.pack("<II", os.pwrite(fh, data[_READ.size : _READ.size + size], offset), 0)

    def _release(self, node: _Node, data: bytes) -> bytes:
        os.close(struct.unpack_from("<Q", data)[0])
        return b""

    def _sync(self, node: _Node, data: bytes) -> bytes:
        return b""

    def _nothing(self, node: _Node, data: bytes) -> bytes:
        return b""

    # Folders.

    def _opendir(self, node: _Node, data: bytes) -> bytes:
        now, changes = time.monotonic(), node.changes
        known = node.listed
        if known is None or now - known[0] >= self._seconds or known[1] != changes:
            fd = os.open(node.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            changed = os.fstat(fd).st_mtime_ns
            try:
                with os.scandir(fd) as found:
                    listed = [
                        (each.name, each.inode(), stat.S_IFDIR if each.is_dir(follow_symlinks=False) else stat.S_IFREG)
                        for each in found
                    ]
            finally:
                os.close(fd)
            known = node.listed = (now, changes, listed, changed)
        with self._lock:
            self._list_number += 1
            number = self._list_number
            self._lists[number] = known[2]
        return struct.pack("<QII", number, 0, 0)

    def _readdir(self, node: _Node, data: bytes) -> bytes:
        fh, offset, size, *_ = _READ.unpack_from(data)
        with self._lock:
            listed = self._lists[fh]
        found = bytearray()
        for index in range(offset, len(listed)):
            name, inode, kind = listed[index]
            raw = os.fsencode(name)
            record = struct.pack("<QQII", inode, index + 1, len(raw), kind >> 12) + raw
            record += bytes(-len(record) % 8)
            if len(found) + len(record) > size:
                break
            found += record
        return bytes(found)

    def _releasedir(self, node: _Node, data: bytes) -> bytes:
        with self._lock:
            del self._lists[struct.unpack_from("<Q", data)[0]]
        return b""


def _mount(device: int, point: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions,max_read={_MAX_WRITE}"
    no_devices_no_set_uid = 4 | 2
    if libc.mount(b"late", os.fsencode(point), b"fuse", no_devices_no_set_uid, options.encode()) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), point)


def _expire(device: int, number: int) -> None:
    invalidate_inode, attributes_alone = 2, -1
    message = _OUT.pack(_OUT.size + 24, invalidate_inode, 0) + struct.pack("<Qqq", number, attributes_alone, 0)
    try:
        os.write(device, message)
    except FileNotFoundError:
        # The kernel knows nothing of it anyway.
        return


def _work(device: int, files: _FileSystem) -> None:
    """Answer one request after the other until there are no more to come."""
    while True:
        try:
            message = os.read(device, _MAX_WRITE + 8192)
        except OSError as problem:
            if problem.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                continue
            return
        _, opcode, unique, number, *_ = _IN.unpack_from(message)
        data = message[_IN.size :]
        if opcode in (_FORGET, _BATCH_FORGET):
            files.forget(opcode, number, data)
            continue
        if opcode in (_INTERRUPT, _DESTROY):
            continue
        code, body = 0, b""
        try:
            body = files.answer(opcode, number, data)
        except OSError as problem:
            code = problem.errno or errno.EIO
        except Exception as problem:
            print(f"operation {opcode}: {type(problem).__name__}: {problem}", flush=True)
            code = errno.EIO
        try:
            os.write(device, _OUT.pack(_OUT.size + len(body), -code, unique) + body)
        except OSError as problem:
            # Nobody waits for it any more.
            if problem.errno != errno.ENOENT:
                return


def serve() -> None:
    """Mount it, and answer until it is unmounted."""
    parser = argparse.ArgumentParser(description="Show a folder at a second place, where changes are seen late.")
    parser.add_argument("source")
    parser.add_argument("point")
    parser.add_argument("--seconds", type=float, default=1.0, help="for which names and attributes are believed (1)")
    parser.add_argument("--strict", action="store_true", help="what others removed can't be opened or read any more")
    parser.add_argument("--loose", action="store_true", help="opening a file does not ask for its attributes")
    options = parser.parse_args()
    os.umask(0)
    try:
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        expire = None if options.loose else partial(_expire, device)
        files = _FileSystem(options.source, options.seconds, options.strict, expire)
        _mount(device, options.point)
    except OSError as problem:
        print(problem, flush=True)
        sys.exit(1)
    print("mounted", flush=True)
    threads = [threading.Thread(target=_work, args=(device, files)) for _ in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    serve()
