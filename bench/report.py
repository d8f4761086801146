"""The report in Markdown: what was aimed at, every case with its ratios, and what the figures were taken with."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from bench.environment import environment_text
from bench.peers import TITLES
from bench.results import Results, median_of, samples_of

__all__ = ["AIMS", "Aim", "between_markers", "readme_figures", "report", "summary"]

BEGIN, END = "<!-- figures:begin -->", "<!-- figures:end -->"
OURS = "s3proxy"
QUIET_CPUS = 0.25
"""Processors that others may use in the mean. Some of it is the kernel, writing to the disk what servers wrote."""
CPU_OF = {"requests_per_s": "cpu_us_per_request", "mib_per_s": "cpu_s_per_gib"}
"""The processor time that belongs to a rate."""


@attrs.frozen
class Aim:
    """What a figure should be at least, or at most.

    :ivar cases: beginning of the names of the cases that it holds for
    :ivar against: the peer that the figure is divided by; None for the figure itself
    """

    text: str
    group: str
    cases: str
    figure: str
    limit: float
    at_least: bool = True
    against: str | None = "nginx"


AIMS = (
    Aim("hits of 1 KiB, requests/s ÷ nginx", "ram", "1 KiB", "requests_per_s", 0.6),
    Aim("hits of 64 KiB, requests/s ÷ nginx", "ram", "64 KiB", "requests_per_s", 0.8),
    Aim("hits of 8 MiB ranges, bytes/s ÷ nginx", "ram", "8 MiB", "mib_per_s", 0.95),
    Aim("hits of 64 MiB, bytes/s ÷ nginx", "ram", "64 MiB", "mib_per_s", 0.95),
    Aim("misses of 1 KiB over TLS, requests/s ÷ nginx", "misses", "1 KiB", "requests_per_s", 0.75),
    Aim("misses of 1 MiB over TLS, bytes/s ÷ nginx", "misses", "1 MiB", "mib_per_s", 0.75),
    Aim("misses of 64 MiB over TLS, bytes/s ÷ nginx", "misses", "64 MiB", "mib_per_s", 0.75),
    Aim("misses over TLS, first byte ÷ nginx", "misses", "", "first_byte_ms", 1.0, at_least=False),
    Aim("herd, upstream bytes ÷ object size", "herd", "", "upstream_ratio", 1.01, at_least=False, against=None),
    Aim("herd, first byte ÷ single client's", "herd", "", "first_byte_ratio", 1.2, at_least=False, against=None),
    Aim("herd, last byte ÷ single client's", "herd", "", "total_ratio", 1.3, at_least=False, against=None),
    Aim("slow readers, growth in MiB", "slow", "", "growth_mib", 16, at_least=False, against=None),
)


def number(value: float | None) -> str:
    """A figure with three significant digits, and all that are before the point."""
    if value is None:
        return "–"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def ratio(case: Mapping[str, Any], figure: str, peer: str) -> float | None:
    """Ours divided by the peer's, of medians."""
    ours, theirs = median_of(case, OURS, figure), median_of(case, peer, figure)
    return None if ours is None or not theirs else ours / theirs


def spread(case: Mapping[str, Any], figure: str, peer: str) -> str:
    """The lowest and the highest ratio of a single round."""
    pairs = zip(*(samples_of(case, name, figure) for name in (OURS, peer)))
    ratios = [ours / theirs for ours, theirs in pairs if ours is not None and theirs]
    return f"{min(ratios):.2f}–{max(ratios):.2f}" if len(ratios) > 1 else ""


def _ratio_text(case: Mapping[str, Any], figure: str, peer: str) -> str:
    found = ratio(case, figure, peer)
    if found is None:
        return "–"
    between = spread(case, figure, peer)
    return f"{found:.2f}" + (f" ({between})" if between else "")


def titles_of(results: Results) -> dict[str, str]:
    """What the peers are called; proxies of further interpreters are told apart by these."""
    titles = dict(TITLES)
    interpreters = results["environment"]["interpreters"]
    for name, found in interpreters.items():
        if name != OURS:
            titles[name] = f"{TITLES[OURS]} {name.partition('@')[2]} ({found['python']})"
    return titles


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(each) + " |" for each in (head, ["---"] * len(head), *rows)]


def group_lines(group: Mapping[str, Any], titles: Mapping[str, str]) -> Iterator[str]:
    """A group's section."""
    peers = [name for name in group["resident_mib"] if any(name in case["peers"] for case in group["cases"])]
    theirs = [name for name in peers if name != OURS]
    rows = []
    for case in group["cases"]:
        for position, (figure, unit) in enumerate(case["columns"]):
            row = [case["name"] if position == 0 else "", unit]
            row += [number(median_of(case, peer, figure)) for peer in peers]
            rows.append(row + [_ratio_text(case, figure, peer) for peer in theirs])
    memory = ["most resident memory", "MiB", *(number(group["resident_mib"][peer]) for peer in peers)]
    rows.append(memory + [""] * len(theirs))
    head = ["case", "figure", *(titles[peer] for peer in peers), *(f"÷ {titles[peer]}" for peer in theirs)]
    yield from (f"### {group['title']}", "", group["about"], "", *_table(head, rows), "")


def aim_rows(results: Results) -> list[list[str]]:
    """Every aim whose group was measured: text, limit, the figures of its cases, whether the worst one reaches it, and
    the ratios of processor time, which other load on the machine disturbs less."""
    groups = {group["name"]: group for group in results["groups"]}
    rows = []
    for aim in AIMS:
        cases = [case for case in groups.get(aim.group, {}).get("cases", []) if case["name"].startswith(aim.cases)]
        if aim.against is None:
            found = [median_of(case, OURS, aim.figure) for case in cases]
        else:
            found = [ratio(case, aim.figure, aim.against) for case in cases]
        figures = [each for each in found if each is not None]
        if figures:
            kept = min(figures) >= aim.limit if aim.at_least else max(figures) <= aim.limit
            limit = f"{'≥' if aim.at_least else '≤'} {aim.limit:g}"
            cpu = []
            if aim.against is not None and aim.figure in CPU_OF:
                cpu = [ratio(case, CPU_OF[aim.figure], aim.against) for case in cases]
            rows.append([aim.text, limit, _list(figures), "yes" if kept else "no", _list(cpu)])
    return rows


def _list(figures: Sequence[float | None]) -> str:
    return ", ".join("–" if each is None else f"{each:.2f}" for each in figures)


def summary(results: Results) -> str:
    """The aims as a table."""
    return "\n".join(_table(["measured", "aim", "figures", "reached", "CPU time ÷ nginx"], aim_rows(results)))


def readme_figures(results: Results) -> str:
    """What the project's README says: the aims, and where the rest is."""
    environment = results["environment"]
    nginx, processors = environment["nginx"], environment["processors"]
    return (
        f"{summary(results)}\n\n"
        f"One process against one worker of nginx {nginx}; several figures are those of several cases or numbers of\n"
        f"connections. Clients, proxy and origin shared {processors} processors and one disk.\n"
        "[bench/README.md](bench/README.md) has all cases, Varnish among the peers, and how they are measured."
    )


def disturbance(results: Results) -> str:
    """How much of the machine others used."""
    foreign = observed = 0.0
    for group in results["groups"]:
        for case in group["cases"]:
            for peer in case["peers"]:
                foreign += sum(value or 0.0 for value in samples_of(case, peer, "foreign_s"))
                observed += sum(value or 0.0 for value in samples_of(case, peer, "observed_s"))
    if not observed:
        return ""
    told = f"Others used {foreign / observed:.2f} processors in the mean of all measurements."
    return told if foreign / observed < QUIET_CPUS else f"**Disturbed run: no figures to quote.** {told}"


def report(results: Results) -> str:
    """All of it."""
    titles = titles_of(results)
    rounds = results["options"]["rounds"]
    lines = [environment_text(results["environment"], titles), ""]
    lines += [f"Medians of {rounds}; in brackets the lowest and the highest ratio of one round."]
    lines += [disturbance(results), ""]
    if results["options"]["quick"]:
        lines += ["**Taken with --quick: no figures to quote.**", ""]
    if aim_rows(results):
        lines += ["### Aims", "", summary(results), ""]
    for group in results["groups"]:
        lines += group_lines(group, titles)
    return "\n".join(lines).rstrip() + "\n"


def between_markers(text: str, figures: str) -> str:
    """A document with these figures between its markers.

    :raises ValueError: it has no markers
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"there is no {BEGIN} with an {END} behind it")
    return f"{before}{BEGIN}\n{figures.strip()}\n{END}{after}"
