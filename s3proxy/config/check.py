"""Rules that join several keys, and what the machine has to say about a configuration."""

import importlib
import itertools
import ssl
from collections.abc import Iterator, Mapping

import attrs

from s3proxy.config.model import Config, Otlp
from s3proxy.config.problems import Notice, Problem, Report
from s3proxy.config.schema import Given, Key, keys
from s3proxy.util.filevalue import file_of
from s3proxy.util.quantities import format_bytes

__all__ = ["check", "check_files", "effective_ram_cache_size", "move_dashboard", "waivers"]

_STORAGE = "cache.shared_storage"
_OTLP_EXPORTER = "opentelemetry.exporter.otlp.proto.http.metric_exporter"
_KEYS: dict[str, Key] = {key.path: key for key in keys(Config)}

#: The first must be less than the second.
_ORDERED = (
    (f"{_STORAGE}.lock_refresh_interval", f"{_STORAGE}.lock_timeout"),
    (f"{_STORAGE}.validation_threshold_warn", f"{_STORAGE}.validation_threshold_error"),
)


def _value(config: Config, path: str) -> object:
    value: object = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


@attrs.frozen
class _Judge:
    """Words findings about a configuration. A rule is silent when one of its keys was found wrong before."""

    config: Config
    given: Mapping[str, Given]
    report: Report

    def shown(self, path: str) -> str:
        return _KEYS[path].kind.show(_value(self.config, path))

    def origin(self, path: str) -> str:
        return self.given[path].origin if path in self.given else "defaults"

    def problem(self, path: str, others: tuple[str, ...], text: str) -> None:
        if not any(self.report.failed(each) for each in (path, *others)):
            named = next((each for each in (path, *others) if each in self.given), path)
            self.report.problem(self.origin(named), path, text)


def check(config: Config, given: Mapping[str, Given], report: Report) -> None:
    """Report every rule that joins several keys and that this configuration breaks.

    :param given: what was set, for the lines in messages; what is missing there has its default
    """
    judge = _Judge(config, given, report)
    for small, big in _ORDERED:
        if not _value(config, small) < _value(config, big):  # type: ignore[operator]
            if small in given or big not in given:
                judge.problem(small, (big,), f"value {judge.shown(small)} is not below {big}; "
                                             f"allowed less than {judge.shown(big)}")
            else:
                judge.problem(big, (small,), f"value {judge.shown(big)} is not above {small}; "
                                             f"allowed more than {judge.shown(small)}")
    _check_listeners(judge)


def _check_listeners(judge: _Judge) -> None:
    server = judge.config.server
    if server.tls.enabled:
        for path in ("server.tls.cert_path", "server.tls.key_path"):
            if not _value(judge.config, path):
                judge.problem(path, ("server.tls.enabled",),
                              "the value is missing; allowed the path of a PEM file when server.tls.enabled is true")
    if server.mode == "proxy_only" and server.proxy_port == 0:
        judge.problem("server.proxy_port", (), "value 0 is no port; allowed 1 to 65535 when server.mode is proxy_only")
    for first, second in _clashes(judge.config):
        path, other = (second, first) if second in judge.given or first not in judge.given else (first, second)
        judge.problem(path, (other,), f"value {judge.shown(path)} is also {other}; allowed a port of its own")


def _listeners(config: Config) -> list[tuple[str, int, bool]]:
    """Key, port and whether the listener is started, in the order in which they are named in messages."""
    server = config.server
    standard = server.mode == "standard"
    return [
        ("server.http_port", server.http_port, standard),
        ("server.https_port", server.https_port, standard),
        ("server.proxy_port", server.proxy_port, not standard),
        ("server.tls.tls_proxy_port", server.tls.tls_proxy_port, server.tls.enabled),
        ("health.port", config.health.port, config.health.enabled),
        ("metrics.port", config.metrics.port, config.metrics.enabled),
        ("dashboard.port", config.dashboard.port, config.dashboard.enabled),
    ]


def _clashes(config: Config) -> Iterator[tuple[str, str]]:
    """Pairs of keys with the same port. The TLS listener's must differ also from those of listeners that are off."""
    for (first, a, a_on), (second, b, b_on) in itertools.combinations(_listeners(config), 2):
        tls = "server.tls.tls_proxy_port" in (first, second) and config.server.tls.enabled
        strict = tls and not (first == "server.proxy_port" and not a_on)
        if a == b != 0 and (strict or (a_on and b_on)):
            yield first, second


def move_dashboard(config: Config) -> tuple[Config, Notice | None]:
    """The configuration with a dashboard port of its own: the next number that no other listener has.

    For a port that nobody chose; one that was set stays and is a problem of :func:`check`.
    """
    if not any(second == "dashboard.port" for _, second in _clashes(config)):
        return config, None
    taken = {port for path, port, _ in _listeners(config) if path != "dashboard.port"}
    wanted = config.dashboard.port
    port = next(number for number in itertools.chain(range(wanted + 1, 65536), range(1024, wanted))
                if number not in taken)
    notice = Notice("warn", f"dashboard.port: the default {wanted} is the port of another listener; using {port}")
    return attrs.evolve(config, dashboard=attrs.evolve(config.dashboard, port=port)), notice


def tight_limits(config: Config) -> Iterator[str]:
    """Limits that another one makes pointless."""
    connections, requests = config.connection_pool.max_connections, config.server.max_concurrent_requests
    if 0 < connections < requests:
        yield (
            f"connection_pool.max_connections: {connections} is less than server.max_concurrent_requests ({requests}): "
            "requests may have to wait for a connection to S3"
        )


def waivers(config: Config) -> Iterator[str]:
    """What each upstream override gives up that lacks the protection of verified TLS."""
    for name, override in config.connection_pool.upstream_overrides.items():
        path = f'connection_pool.upstream_overrides."{name}"'
        if override.scheme == "http":
            yield f"{path}: requests to {name} travel without TLS: anybody on the way can read and change them"
        elif not override.validate_tls:
            yield f"{path}: the certificate of {name} is not checked: anybody on the way can pose as it"
        if override.ca_file is not None and (override.scheme == "http" or not override.validate_tls):
            yield f"{path}.ca_file: without effect, because no certificate is checked"


def effective_ram_cache_size(config: Config, machine_memory: int) -> tuple[int, Notice | None]:
    """Bytes of the RAM cache on a machine with this many bytes of memory, and what to say about it.

    Never more than a quarter of the machine's memory; 0 when the RAM cache is off, and when nothing is fresh by rule
    (``get_ttl`` 0).
    """
    cache = config.cache
    if not cache.ram_cache_enabled or cache.get_ttl == 0:
        return 0, None
    limit = machine_memory // 4
    if cache.max_ram_cache_size <= limit:
        return cache.max_ram_cache_size, None
    return limit, Notice(
        "warn", f"cache.max_ram_cache_size: {format_bytes(cache.max_ram_cache_size)} "
                f"is more than a quarter of the machine's memory; using {format_bytes(limit)}")


def check_files(config: Config, origins: Mapping[str, str]) -> tuple[Problem, ...]:
    """Problems of what the configuration needs beside itself: files that cannot be used, packages that are not there.
    Reads and imports them.

    :param origins: dotted path to where it was set, as in :class:`~s3proxy.config.load.Loaded`
    """
    found: list[Problem] = []
    tls = config.server.tls
    if tls.enabled and tls.cert_path and tls.key_path:
        fault = _unreadable(tls.cert_path)
        if fault is not None:
            found.append(_file_problem(origins, "server.tls.cert_path", tls.cert_path, fault))
        fault = _unreadable(tls.key_path)
        if fault is not None:
            found.append(_file_problem(origins, "server.tls.key_path", tls.key_path, fault))
        if not found:
            fault = _pair_fault(tls.cert_path, tls.key_path)
            if fault is not None:
                found.append(_file_problem(origins, "server.tls.cert_path", tls.cert_path, fault))
    for name, override in config.connection_pool.upstream_overrides.items():
        if override.ca_file is not None:
            fault = _unreadable(override.ca_file) or _authorities_fault(override.ca_file)
            if fault is not None:
                path = f'connection_pool.upstream_overrides."{name}".ca_file'
                found.append(_file_problem(origins, path, override.ca_file, fault))
    if config.metrics.otlp.enabled:
        found += _otlp_problems(config.metrics.otlp, origins)
    return tuple(found)


def _otlp_problems(otlp: Otlp, origins: Mapping[str, str]) -> Iterator[Problem]:
    try:
        importlib.import_module(_OTLP_EXPORTER)
    except ImportError as error:
        path = "metrics.otlp.enabled"
        yield Problem(origins.get(path, ""), path, f"the value true needs packages that are not installed ({error}); "
                      'install them: pip install "s3proxy[otlp]"')
    if otlp.ca_file is not None:
        fault = _unreadable(otlp.ca_file) or _authorities_fault(otlp.ca_file)
        if fault is not None:
            yield _file_problem(origins, "metrics.otlp.ca_file", otlp.ca_file, fault)
    for name, value in otlp.headers.items():
        named = file_of(value)
        fault = None if named is None else _unreadable(named)
        if named is not None and fault is not None:
            origin = origins.get("metrics.otlp.headers", "")
            yield Problem(origin, f'metrics.otlp.headers."{name}"', f"file {named} {fault}")


def _file_problem(origins: Mapping[str, str], path: str, name: str, fault: str) -> Problem:
    origin = origins.get(path) or origins.get("connection_pool.upstream_overrides", "")
    return Problem(origin, path, f"file {name} {fault}")


def _unreadable(name: str) -> str | None:
    try:
        with open(name, "rb") as file:
            file.read(1)
    except (OSError, ValueError) as error:
        return f"cannot be read: {getattr(error, 'strerror', None) or error}"
    return None


def _pair_fault(cert_path: str, key_path: str) -> str | None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert_path, key_path, password=lambda: b"")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            return f"holds a certificate that does not belong to the key in {key_path}"
        return (f"or {key_path} is not usable ({error.reason or error}); "
                "allowed a certificate chain and its key, both PEM, the key without a password")
    return None


def _authorities_fault(name: str) -> str | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(name)
    except ssl.SSLError as error:
        return f"holds no certificates ({error.reason or error}); allowed certificates of authorities, PEM"
    return None if context.get_ca_certs() else "holds no certificates of authorities; allowed PEM certificates"
