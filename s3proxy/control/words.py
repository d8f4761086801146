"""Values as people read them."""

from datetime import datetime, timezone

from s3proxy.util.quantities import format_bytes

__all__ = ["age", "count", "moment", "percent", "printable", "rate", "size"]


def printable(text: str) -> str:
    """Without anything that a terminal would obey: names of objects are the clients' choice."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)


def size(number: float | None) -> str:
    """Bytes: ``1.5 GiB``."""
    return "-" if number is None else format_bytes(int(number))


def rate(number: float | None) -> str:
    """Bytes per second."""
    return "-" if number is None else f"{format_bytes(int(number))}/s"


def count(number: float) -> str:
    """A whole number with separators: ``1,234,567``."""
    return f"{int(number):,}"


def percent(share: float | None) -> str:
    """A share from 0 to 1: ``87.4 %``."""
    return "-" if share is None else f"{100 * share:.1f} %"


def age(seconds: float | None) -> str:
    """A span of time, to about two digits: ``3 d 4 h``, ``12 s``, ``0.4 s``."""
    if seconds is None:
        return "-"
    if seconds < 0:
        return f"-{age(-seconds)}"
    if seconds < 10:
        return f"{seconds:.1f} s".replace(".0", "")
    whole = int(seconds)
    for unit, length, below, shorter in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= length:
            rest = whole % length // shorter
            return f"{whole // length} {unit} {rest} {below}" if rest else f"{whole // length} {unit}"
    return f"{whole} s"


def moment(at: float | None) -> str:
    """Unix time, in UTC."""
    return "-" if not at else datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
