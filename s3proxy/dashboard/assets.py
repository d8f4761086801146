"""The files of the page: read once, compressed once."""

import gzip
import hashlib
from collections.abc import Iterator
from importlib.resources import files
from typing import Final

import attrs

__all__ = ["Asset", "load_assets"]

_TYPES: Final = {
    "html": b"text/html; charset=utf-8",
    "css": b"text/css; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "svg": b"image/svg+xml",
    "txt": b"text/plain; charset=utf-8",
}


@attrs.frozen
class Asset:
    """One file."""

    content_type: bytes
    plain: bytes
    packed: bytes
    etag: bytes


def load_assets() -> dict[bytes, Asset]:
    """The files by their paths; the page itself is ``/``."""
    found = {}
    for path, data in _walk(""):
        content_type = _TYPES.get(path.rpartition(".")[2])
        if content_type is not None:
            etag = b'"%s"' % hashlib.sha256(data).hexdigest()[:20].encode("ascii")
            asset = Asset(content_type, data, gzip.compress(data, 9, mtime=0), etag)
            found[b"/" if path == "index.html" else b"/" + path.encode("ascii")] = asset
    return found


def _walk(folder: str) -> Iterator[tuple[str, bytes]]:
    root = files("s3proxy.dashboard") / "static"
    for item in (root / folder if folder else root).iterdir():
        path = f"{folder}/{item.name}" if folder else item.name
        if item.is_dir():
            yield from _walk(path)
        else:
            yield path, item.read_bytes()
