"""Settings from the command line of ``twistd s3proxy``."""

import os
import sys
from collections.abc import Callable
from functools import partial

from twisted.python import usage

from s3proxy import __version__
from s3proxy.config.kinds import Kind
from s3proxy.config.model import Config
from s3proxy.config.problems import quoted
from s3proxy.config.schema import keys

__all__ = ["FLAGS", "Options", "VALUES"]

_STORAGE = "cache.shared_storage"
_KINDS: dict[str, Kind] = {key.path: key.kind for key in keys(Config)}

#: Options with a value: name, dotted path, help.
VALUES: tuple[tuple[str, str, str], ...] = (
    ("http-port", "server.http_port", "Port of the caching HTTP listener."),
    ("https-port", "server.https_port", "Port of the HTTPS passthrough."),
    ("max-concurrent-requests", "server.max_concurrent_requests", "Requests served at once; more get 503 SlowDown."),
    ("cache-dir", "cache.cache_dir", "Directory of the cache."),
    ("log-level", "logging.log_level", "error, warn, info, debug or trace."),
    ("otlp-endpoint", "metrics.otlp.endpoint", "URL for the OTLP export; switches the export on."),
    ("otlp-export-interval", "metrics.otlp.export_interval", "Seconds between two exports."),
    ("scan-timeout", "cache.initialization.scan_timeout", "Seconds for the scan at start."),
    ("dashboard-port", "dashboard.port", "Port of the dashboard."),
    ("dashboard-bind-address", "dashboard.bind_address", "IP address of the dashboard."),
    ("lock-timeout", f"{_STORAGE}.lock_timeout", "Seconds to wait for a lock."),
    ("lock-refresh-interval", f"{_STORAGE}.lock_refresh_interval", "Seconds between two refreshes of a lock."),
    ("lock-max-retries", f"{_STORAGE}.lock_max_retries", "Attempts to get a lock."),
    ("eviction-lock-timeout", f"{_STORAGE}.eviction_lock_timeout", "Seconds after which an eviction lock is void."),
    ("consolidation-interval", f"{_STORAGE}.consolidation_interval", "Seconds between two consolidations."),
    ("consolidation-size-threshold", f"{_STORAGE}.consolidation_size_threshold", "Bytes that start a consolidation."),
    ("validation-frequency", f"{_STORAGE}.validation_frequency", "Hours between two validations."),
    ("validation-threshold-warn", f"{_STORAGE}.validation_threshold_warn", "Drift in percent that is a warning."),
    ("validation-threshold-error", f"{_STORAGE}.validation_threshold_error", "Drift in percent that is an error."),
    ("recovery-max-concurrent", f"{_STORAGE}.recovery_max_concurrent", "Recoveries at once."),
)

#: Options without a value: name, dotted path, what the option sets, help. Where both senses are given, "off" wins.
FLAGS: tuple[tuple[str, str, bool, str], ...] = (
    ("ram-cache-enabled", "cache.ram_cache_enabled", True, "Keep hot data in memory."),
    ("write-cache-enabled", "cache.write_cache_enabled", True, "Keep what is uploaded."),
    ("health-enabled", "health.enabled", True, "Serve the health page."),
    ("metrics-enabled", "metrics.enabled", True, "Serve metrics."),
    ("dashboard-enabled", "dashboard.enabled", True, "Serve the dashboard."),
    ("dashboard-disabled", "dashboard.enabled", False, "Do not serve the dashboard."),
    ("parallel-scan", "cache.initialization.parallel_scan", True, "Scan with several threads at start."),
    ("no-parallel-scan", "cache.initialization.parallel_scan", False, "Scan with one thread at start."),
    ("progress-logging", "cache.initialization.progress_logging", True, "Log the progress of the scan."),
    ("no-progress-logging", "cache.initialization.progress_logging", False, "Do not log the progress of the scan."),
)


def _coerce(name: str, text: str) -> object:
    kind = _KINDS[next(path for option, path, _ in VALUES if option == name)]
    try:
        return kind.parse(text)
    except ValueError as error:
        shown = "(hidden)" if kind.hides else quoted(text)
        raise ValueError(f"--{name}: value {shown} {error}; allowed {kind.allowed}") from None


def _parameter(name: str, text: str) -> list[str | None | Callable[[str], object]]:
    return [name, None, None, text, partial(_coerce, name)]


class Options(usage.Options):
    """The options of ``twistd s3proxy``. A value that cannot be read is a usage error."""

    synopsis = "[options]"
    longdesc = (
        "A transparent caching proxy for Amazon S3 and compatible stores. Options win over the environment, the"
        " environment over the file. See doc/configuration.md."
    )

    optParameters = [
        ["config", "c", None, "File with the configuration (YAML); without it: defaults.", os.path.abspath],
        *(_parameter(name, text) for name, _, text in VALUES),
        ["https-mode", None, None, "Accepted and ignored."],
    ]
    optFlags = [
        ["check", None, "Check the configuration, print what is wrong with it, and exit."],
        *([name, None, text] for name, _, _, text in FLAGS),
    ]

    def opt_version(self) -> None:
        """Print the version of S3 Proxy and exit."""
        print(f"S3 Proxy {__version__}")
        sys.exit(0)

    def parseArgs(self, *args: str) -> None:  # noqa: D102
        if args:
            raise usage.UsageError(f"no argument is expected, but there is {quoted(args[0])}; see --help")

    def overrides(self) -> dict[str, object]:
        """What the command line sets: dotted path to value. --otlp-endpoint also switches the export on."""
        values: dict[str, object] = {path: self[name] for name, path, _ in VALUES if self[name] is not None}
        for sense in (True, False):
            values.update({path: sense for name, path, sets, _ in FLAGS if sets is sense and self[name]})
        if "metrics.otlp.endpoint" in values:
            values["metrics.otlp.enabled"] = True
        if self["https-mode"] is not None:
            values["server.https_mode"] = self["https-mode"]
        return values


#: Dotted path to the option that sets it, for messages.
OPTION_NAMES: dict[str, str] = {
    **{path: f"--{name}" for name, path, _, _ in FLAGS},
    **{path: f"--{name}" for name, path, _ in VALUES},
    "metrics.otlp.enabled": "--otlp-endpoint",
    "server.https_mode": "--https-mode",
}
