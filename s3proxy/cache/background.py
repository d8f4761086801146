"""Work on the store that is done behind an answer, in a thread."""

from collections.abc import Callable
from typing import Any

__all__ = ["write_small_range"]


def write_small_range(open_writer: Callable[[int], Any], start: int, chunks: list[bytes]) -> Any:
    """Write and publish a range that was answered from memory.

    :param open_writer: gives the writer for the bytes from an offset on; it decides how many it takes
    :return: the last commit's result
    """
    result = None
    body = b"".join(chunks)
    position = 0
    while position < len(body):
        writer = open_writer(start + position)
        try:
            writer.append([body[position : position + writer.length]])
            result = writer.commit()
            position += writer.length
        finally:
            writer.close()
    return result
