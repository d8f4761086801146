"""Counters for a closed set of words."""

from collections.abc import Iterable

from s3proxy.telemetry.instruments import Counter, Instruments

__all__ = ["Words"]


class Words(dict[str, Counter]):
    """One counter per word of a closed set; every other word leads to that of "other".

    :param name: of a family with one label
    """

    def __init__(self, instruments: Instruments, name: str, words: Iterable[str]) -> None:
        super().__init__({word: instruments.counter(name, word) for word in (*words, "other")})

    def __missing__(self, word: str) -> Counter:
        return self["other"]
