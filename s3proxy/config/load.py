"""From a file, the environment and the command line to a :class:`~s3proxy.config.model.Config`.

Each layer wins over the one before: defaults, file, environment, command line. Whatever is wrong in any of them is
collected and raised at once.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from s3proxy.config import check, features
from s3proxy.config.collection_kinds import frozen
from s3proxy.config.command_line import OPTION_NAMES
from s3proxy.config.environment import read_environment
from s3proxy.config.kinds import REJECTED, Nullable, Source, mismatch
from s3proxy.config.model import Config
from s3proxy.config.problems import ConfigError, Notice, Problem, Report, quoted
from s3proxy.config.schema import Given, Key, keys, sections, unknown_key
from s3proxy.config.text_kinds import Path
from s3proxy.config.yaml_source import LARGEST_FILE, MapNode, Node, ScalarNode, read_yaml
from s3proxy.util.filevalue import absolute

__all__ = ["ConfigError", "Loaded", "Notice", "Problem", "load_config"]

_KEYS: dict[str, Key] = {key.path: key for key in keys(Config)}
_SECTIONS: dict[str, type] = dict(sections(Config))


@attrs.frozen
class Loaded:
    """A usable configuration.

    :ivar notices: to be logged when logging is up
    :ivar origins: dotted path of every key that was set, to where: ``FILE:LINE`` and so on
    """

    config: Config
    notices: tuple[Notice, ...] = ()
    origins: Mapping[str, str] = attrs.field(factory=dict)


def load_config(path: str | None, *, environ: Mapping[str, str], options: Mapping[str, object]) -> Loaded:
    """Load the configuration.

    Paths in the result are absolute; relative ones start at the current directory.

    :param path: the YAML file; None for none
    :param environ: environment variables
    :param options: what the command line sets: dotted path to value, see ``Options.overrides``
    :raises ConfigError: with everything that is wrong
    """
    report = Report()
    given: dict[str, Given] = {}
    if path is not None:
        given.update(_read_file(path, environ, report))
    given.update(read_environment(environ, report))
    given.update(_read_options(options, report))
    for key in _KEYS.values():
        if key.path in given:
            given[key.path] = _judged(key, given[key.path], report)
    config = _build(given, report)
    config = _settle(config, given, report)
    check.check(config, given, report)
    if report.problems:
        raise ConfigError(tuple(sorted(report.problems, key=lambda problem: _place(problem, path))))
    for text in (*check.waivers(config), *check.tight_limits(config)):
        report.notices.append(Notice("warn", text))
    report.notices.extend(Notice(level, text) for level, text in features.remarks(config, given))
    return Loaded(config, tuple(report.notices), {path: each.origin for path, each in given.items()})


def _place(problem: Problem, path: str | None) -> tuple[bool, int]:
    """Sorts problems of the file by their lines, before all others."""
    name, _, line = problem.origin.rpartition(":")
    if problem.origin == path:
        return False, 0
    return (False, int(line)) if path is not None and name == path and line.isdecimal() else (True, 0)


def _read_file(path: str, environ: Mapping[str, str], report: Report) -> dict[str, Given]:
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        report.problem(path, "", f"the file cannot be read: {getattr(error, 'strerror', None) or error}")
        return {}
    document = read_yaml(data, path, report)
    if document is None:
        return {}
    home = environ.get("HOME", "")
    return {
        path: attrs.evolve(each, value=_at_home(_KEYS[path], each.value, home))
        for path, each in _read_section(document, "", Source(path, report))
    }


def _at_home(key: Key, value: Any, home: str) -> Any:
    if home and isinstance(key.kind, Path) and key.kind.home and value.startswith("~/"):
        return home + value[1:]
    return value


def _read_section(node: MapNode, prefix: str, source: Source) -> Iterator[tuple[str, Given]]:
    for entry in node.entries:
        path = prefix + entry.key
        if path in _SECTIONS:
            if isinstance(entry.node, MapNode):
                yield from _read_section(entry.node, f"{path}.", source)
            elif not (isinstance(entry.node, ScalarNode) and (entry.node.broken or entry.node.value is None)):
                source.problem(entry.line, path, f"{mismatch(entry.node)}; allowed a section with keys and values")
        elif path in _KEYS:
            kind = _KEYS[path].kind
            value = kind.read(entry.node, path, source)
            if value is not REJECTED:
                shown = "(hidden)" if kind.hides else _shown(entry.node)
                yield path, Given(value, shown, source.origin(entry.line))
        elif path in features.RETIRED:
            source.warn(entry.line, path, features.RETIRED[path])
        else:
            source.warn(entry.line, path, unknown_key(path, [*_SECTIONS, *_KEYS]))


def _shown(node: Node) -> str:
    if isinstance(node, ScalarNode):
        return node.shown
    return node.shown if (node.entries if isinstance(node, MapNode) else node.items) else "[]"


def _read_options(options: Mapping[str, object], report: Report) -> Iterator[tuple[str, Given]]:
    for path, value in options.items():
        origin = f"option {OPTION_NAMES.get(path, path)}"
        key = _KEYS.get(path)
        if path in features.RETIRED:
            report.warn(origin, path, features.RETIRED[path])
        elif key is None:
            report.problem(origin, path, "unknown key")
        else:
            shown = "(hidden)" if key.kind.hides else quoted(value) if isinstance(value, str) else str(value)
            yield path, Given(key.kind.convert(value), shown, origin)


def _judged(key: Key, given: Given, report: Report) -> Given:
    """The value within bounds that are worth a warning only; what is beyond the others is reported."""
    value, note = key.kind.adjust(given.value, key.default)
    if note is not None:
        report.warn(given.origin, key.path, f"value {given.shown} {note}")
    fault = key.kind.fault(value)
    if fault is not None and not report.failed(key.path):
        report.problem(given.origin, key.path, f"value {given.shown} {fault}; allowed {key.kind.allowed}")
    return attrs.evolve(given, value=value)


def _build(given: Mapping[str, Given], report: Report) -> Config:
    """The model with everything that is right; the rest has its defaults."""
    values = {path: each.value for path, each in given.items() if _KEYS[path].kind.fault(each.value) is None}
    config: Config = _section(Config, "", values)
    return config


def _section(cls: type, prefix: str, values: Mapping[str, object]) -> Any:
    arguments: dict[str, object] = {}
    for field in attrs.fields(cls):
        path = prefix + field.name
        if path in _SECTIONS:
            arguments[field.name] = _section(_SECTIONS[path], f"{path}.", values)
        elif path in values:
            arguments[field.name] = _absolute(_KEYS[path], values[path])
    return cls(**arguments)


def _absolute(key: Key, value: Any) -> Any:
    kind = key.kind.kind if isinstance(key.kind, Nullable) else key.kind
    if isinstance(kind, Path) and value:
        return os.path.abspath(value)
    if key.path == "connection_pool.upstream_overrides":
        return frozen({
            name: attrs.evolve(each, ca_file=each.ca_file and os.path.abspath(each.ca_file))
            for name, each in value.items()
        })
    if key.path == "metrics.otlp.headers":
        return frozen({name: absolute(each) for name, each in value.items()})
    return value


def _settle(config: Config, given: dict[str, Given], report: Report) -> Config:
    """Adjust what depends on several keys, and say so."""
    cache = config.cache
    trigger, target = cache.eviction_trigger_percent, cache.eviction_target_percent
    if target >= trigger and target != max(50, trigger - 10):
        lowered = max(50, trigger - 10)
        path = "cache.eviction_target_percent"
        origin = given[path if path in given else "cache.eviction_trigger_percent"].origin
        above = f"cache.eviction_trigger_percent ({trigger})"
        report.warn(origin, path, f"value {target} is not below {above}; using {lowered}")
        cache = attrs.evolve(cache, eviction_target_percent=lowered)
    if cache.get_ttl == 0:
        if cache.ram_cache_enabled:
            report.info("cache.get_ttl is 0s, every read is checked with S3: the RAM cache is switched off")
            cache = attrs.evolve(cache, ram_cache_enabled=False)
        if cache.actively_remove_cached_data:
            report.warn(given["cache.get_ttl"].origin, "cache.get_ttl",
                        "value 0s with cache.actively_remove_cached_data removes every object soon after it was stored")
    config = attrs.evolve(config, cache=cache)
    otlp = config.metrics.otlp
    if otlp.enabled and not otlp.endpoint:
        report.warn(given["metrics.otlp.endpoint"].origin, "metrics.otlp.endpoint",
                    "the value is empty; the OTLP export is switched off")
        otlp = attrs.evolve(otlp, enabled=False)
        config = attrs.evolve(config, metrics=attrs.evolve(config.metrics, otlp=otlp))
    server = config.server
    if server.mode == "proxy_only" and 0 < server.proxy_port < 1024:
        report.warn(given["server.proxy_port"].origin, "server.proxy_port",
                    f"value {server.proxy_port} is a privileged port; the start needs root or CAP_NET_BIND_SERVICE")
    if "dashboard.port" not in given:
        config, notice = check.move_dashboard(config)
        if notice is not None and config.dashboard.enabled:
            report.notices.append(notice)
    return config
