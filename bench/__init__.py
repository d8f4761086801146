"""The benchmark: S3 Proxy and its peers measured in turns on one machine. ``python bench/bench.py --help``."""
