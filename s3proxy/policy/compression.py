"""Which bodies are worth an attempt to store them smaller. Pure; whether they really shrink, the first block shows."""

from s3proxy.policy.rules import Settings
from s3proxy.s3.headers import Headers

__all__ = ["is_compressed", "may_compress"]

_NAMES = frozenset(
    (
        b"7z aac apk arrow avif avro br bz2 crx deb dmg docx epub flac flv gif gz gzip heic heif iso jar jpeg jpg"
        b" jxl lz lz4 lzma lzo m4a m4v mkv mov mp3 mp4 mpeg mpg odp ods odt oga ogg ogv opus orc parquet pdf png"
        b" pptx rar rpm snappy sz tbz tbz2 tgz txz vsix war webm webp whl wma wmv woff woff2 xlsx xz z zip zipx zst"
        b" zstd"
    ).split()
)
"""What stands behind the last dot of a key, lower case."""

_TYPES = frozenset(
    (
        b"application/gzip",
        b"application/java-archive",
        b"application/pdf",
        b"application/vnd.apache.parquet",
        b"application/vnd.rar",
        b"application/x-7z-compressed",
        b"application/x-brotli",
        b"application/x-bzip",
        b"application/x-bzip2",
        b"application/x-gzip",
        b"application/x-lzma",
        b"application/x-rar-compressed",
        b"application/x-xz",
        b"application/zip",
        b"application/zstd",
        b"font/woff",
        b"font/woff2",
    )
)
_KINDS = (b"audio/", b"image/", b"video/", b"application/vnd.openxmlformats-")
_PLAIN_KINDS = frozenset(
    (b"audio/wav", b"audio/x-wav", b"audio/aiff", b"image/bmp", b"image/svg+xml", b"image/tiff", b"image/x-ms-bmp")
)


def is_compressed(key: bytes, headers: Headers) -> bool:
    """Whether name, type or encoding tell that an object has little air in it."""
    name = key.rpartition(b"/")[2]
    _, dot, extension = name.rpartition(b".")
    if dot and extension.lower() in _NAMES:
        return True
    for value in headers.get_all(b"content-encoding"):
        if any(coding.strip().lower() not in (b"", b"identity", b"aws-chunked") for coding in value.split(b",")):
            return True
    kind = (headers.get(b"content-type") or b"").partition(b";")[0].strip().lower()
    return kind in _TYPES or (kind.startswith(_KINDS) and kind not in _PLAIN_KINDS)


def may_compress(settings: Settings, enabled: bool, key: bytes, headers: Headers) -> bool:
    """Whether the body of an object may be stored smaller.

    :param settings: what a rule says of it holds, whatever the object is
    :param enabled: what holds without
    """
    if settings.compression is not None:
        return settings.compression
    return enabled and not is_compressed(key, headers)
