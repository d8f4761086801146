"""What is known of the process, of Python and of the installation: by the library's collectors, and by pip."""

import importlib.metadata
import json
from collections.abc import Iterator
from typing import Any, Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

__all__ = ["collect", "installed_commit", "register"]

# How what the library says becomes one value for several processes.
_MERGES: Final = {"process_start_time_seconds": "min", "python_info": "max"}


def register(registry: CollectorRegistry) -> None:
    """Make the registry the home of metrics about process, Python and garbage collection."""
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)


def collect(registry: CollectorRegistry) -> Iterator[tuple[str, dict[str, Any]]]:
    """The families of a registry as parts of a snapshot, by their names."""
    return map(_family, registry.collect())


def _family(metric: Any) -> tuple[str, dict[str, Any]]:
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    keys = list(metric.samples[0].labels) if metric.samples else []
    return name, {
        "type": "counter" if metric.type == "counter" else "gauge",
        "help": metric.documentation.rstrip(".") + ".",
        "labels": keys,
        "merge": _MERGES.get(name, "sum"),
        "samples": [[list(sample.labels.values()), sample.value] for sample in metric.samples if sample.name == name],
    }


def installed_commit() -> str:
    """Of the repository that the program was installed from, as pip notes it (PEP 610); unknown otherwise."""
    try:
        noted = importlib.metadata.distribution("s3proxy").read_text("direct_url.json")
        return str(json.loads(noted or "{}")["vcs_info"]["commit_id"])
    except (importlib.metadata.PackageNotFoundError, OSError, ValueError, KeyError, TypeError):
        return "unknown"
