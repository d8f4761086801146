"""Half an hour of chaos: ``python bench/chaos.py [--seconds N] [--seed N] [--clients N] [--skew N]``.

Two instances with two workers each share one cache directory, which is too small for the objects; their clocks differ.
Clients read, write and delete through both, and objects change behind them, while workers and instances are killed and
restarted, files are truncated, damaged and deleted, and the disk is full from time to time (only where this program may
mount a small file system). Every byte and every version is compared with what it may be. The exit code is 1 if
something was wrong; the seed and the last operations are printed then.
"""

import argparse
import random
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from test.support.chaos import Chaos, Setting


def main() -> int:
    """Run it; the exit code."""
    parser = argparse.ArgumentParser(description="Chaos for two instances on one cache directory.")
    parser.add_argument("--seconds", type=float, default=1800.0, help="how long (1800)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30), help="repeat a run")
    parser.add_argument("--clients", type=int, default=6, help="how many at once (6)")
    parser.add_argument("--skew", type=float, default=2.0, help="seconds by which the second clock is ahead (2)")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    chaos = Chaos(
        Setting(seconds=options.seconds, seed=options.seed, clients=options.clients, skew=options.skew)
    )  # fmt: skip
    try:
        faults = chaos.run()
    finally:
        chaos.close()
    for name, count in sorted(chaos.counts.items()):
        print(f"{count:>14,}  {name}")
    if not chaos.stage.small_disk:
        print("no small file system could be mounted: the disk was never full")
    for fault in faults:
        print(f"\n{fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
