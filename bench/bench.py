"""Measures S3 Proxy and its peers on this machine and prints a report: ``python bench/bench.py --help``."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # The modules beside this file are the package "bench" of the checkout.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from bench.command import main

    sys.exit(main())
