"""Settings from environment variables.

Numbers are plain, durations whole seconds (VALIDATION_FREQUENCY: hours), booleans ``true`` or anything else for false.
Paths are taken as they are. A value that cannot be read is ignored with a warning: these names are short, and other
programs may use them, too.
"""

from collections.abc import Mapping

from s3proxy.config.kinds import Flag, Kind
from s3proxy.config.model import Config
from s3proxy.config.problems import Report, quoted
from s3proxy.config.schema import Given, keys

__all__ = ["VARIABLES", "read_environment"]

_STORAGE = "cache.shared_storage"

#: Variable to dotted path.
VARIABLES: dict[str, str] = {
    "HTTP_PORT": "server.http_port",
    "HTTPS_PORT": "server.https_port",
    "MAX_CONCURRENT_REQUESTS": "server.max_concurrent_requests",
    "CACHE_DIR": "cache.cache_dir",
    "RAM_CACHE_ENABLED": "cache.ram_cache_enabled",
    "WRITE_CACHE_ENABLED": "cache.write_cache_enabled",
    "PARALLEL_SCAN": "cache.initialization.parallel_scan",
    "PROGRESS_LOGGING": "cache.initialization.progress_logging",
    "SCAN_TIMEOUT": "cache.initialization.scan_timeout",
    "LOCK_TIMEOUT": f"{_STORAGE}.lock_timeout",
    "LOCK_REFRESH_INTERVAL": f"{_STORAGE}.lock_refresh_interval",
    "LOCK_MAX_RETRIES": f"{_STORAGE}.lock_max_retries",
    "CONSOLIDATION_INTERVAL": f"{_STORAGE}.consolidation_interval",
    "CONSOLIDATION_SIZE_THRESHOLD": f"{_STORAGE}.consolidation_size_threshold",
    "EVICTION_LOCK_TIMEOUT": f"{_STORAGE}.eviction_lock_timeout",
    "RECOVERY_MAX_CONCURRENT": f"{_STORAGE}.recovery_max_concurrent",
    "VALIDATION_FREQUENCY": f"{_STORAGE}.validation_frequency",
    "VALIDATION_THRESHOLD_WARN": f"{_STORAGE}.validation_threshold_warn",
    "VALIDATION_THRESHOLD_ERROR": f"{_STORAGE}.validation_threshold_error",
    "COMPRESSION_ENABLED": "compression.enabled",
    "ACCESS_LOG_DIR": "logging.access_log_dir",
    "APP_LOG_DIR": "logging.app_log_dir",
    "LOG_LEVEL": "logging.log_level",
    "HEALTH_ENABLED": "health.enabled",
    "METRICS_ENABLED": "metrics.enabled",
    "OTLP_ENDPOINT": "metrics.otlp.endpoint",
    "OTLP_EXPORT_INTERVAL": "metrics.otlp.export_interval",
    "DASHBOARD_ENABLED": "dashboard.enabled",
    "DASHBOARD_PORT": "dashboard.port",
    "DASHBOARD_BIND_ADDRESS": "dashboard.bind_address",
    "DASHBOARD_CACHE_STATS_REFRESH_INTERVAL": "dashboard.cache_stats_refresh_interval",
    "DASHBOARD_LOGS_REFRESH_INTERVAL": "dashboard.logs_refresh_interval",
    "DASHBOARD_MAX_LOG_ENTRIES": "dashboard.max_log_entries",
}

_KINDS: dict[str, Kind] = {key.path: key.kind for key in keys(Config)}


def read_environment(environ: Mapping[str, str], report: Report) -> dict[str, Given]:
    """What the environment sets: dotted path to value. OTLP_ENDPOINT also switches the export on."""
    given: dict[str, Given] = {}
    for name, path in VARIABLES.items():
        text = environ.get(name)
        if text is None:
            continue
        kind = _KINDS[path]
        origin = f"environment variable {name}"
        shown = "(hidden)" if kind.hides else quoted(text)
        try:
            value = kind.parse(text)
        except ValueError as error:
            report.warn(origin, path, f"value {shown} {error}; ignored; allowed {kind.allowed}")
            continue
        if isinstance(kind, Flag) and text.lower() not in ("true", "false"):
            report.warn(origin, path, f"value {shown} is not true and so means false")
        given[path] = Given(value, shown, origin)
        if name == "OTLP_ENDPOINT":
            given["metrics.otlp.enabled"] = Given(True, "true", origin)
    return given
