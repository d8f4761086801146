"""What needs no proxy: is the configuration right, are the rules, and what would they mean for an object?"""

import os
from collections.abc import Mapping
from typing import Any

import attrs

from s3proxy.config.check import check_files
from s3proxy.config.features import inactive_features, rule_remarks
from s3proxy.config.load import ConfigError, load_config
from s3proxy.config.model import Config
from s3proxy.control.names import ObjectName
from s3proxy.control.outcome import Usage
from s3proxy.policy.explain import explain
from s3proxy.policy.rules import Rules
from s3proxy.policy.rules_file import FILE_NAME, LONGEST_FILE, RulesError, RulesFile, read_rules

__all__ = ["check_config", "check_rules", "explain_rules", "rules_path"]


def rules_path(config: Config) -> str:
    """The file of rules that a proxy with this configuration reads."""
    return os.path.join(config.cache.cache_dir, FILE_NAME)


def _read(path: str, config: Config) -> RulesFile:
    """:raises RulesError: the file can't be used; :raises FileNotFoundError: there is none"""
    try:
        with open(path, "rb") as file:
            data = file.read(LONGEST_FILE + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RulesError(f"can't be read: {error.strerror or error}") from None
    return read_rules(data, config.connection_pool.upstream_first_byte_timeout)


def check_rules(path: str, config: Config, *, needed: bool) -> dict[str, Any]:
    """Problems and remarks of a file of rules.

    :param needed: that there is no such file is a problem
    """
    try:
        file = _read(path, config)
    except RulesError as error:
        return _verdict([f"{path}: {each}" for each in error.problems], [], "The rules can't be used.")
    except FileNotFoundError:
        if needed:
            return _verdict([f"{path}: there is no such file"], [], "The rules can't be used.")
        return _verdict([], [], f"{path} is not there: no rules, the configuration decides.")
    fields = {field for rule in file.rules for field in rule.given()}
    notices = [f"{path}: {each}" for each in (*file.remarks, *rule_remarks(fields))]
    return {
        **_verdict([], notices, f"{path}: {len(file.rules)} rule(s), all of them can be used."),
        "rules": len(file.rules),
    }


def check_config(path: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """Problems and remarks of a configuration, of the files that it names, and of its rules."""
    try:
        loaded = load_config(os.path.abspath(path), environ=environ, options={})
    except ConfigError as error:
        return _verdict([str(each) for each in error.problems], [], "The configuration can't be used.")
    problems = [str(each) for each in check_files(loaded.config, loaded.origins)]
    notices = [notice.text for notice in loaded.notices]
    idle = inactive_features(loaded.config)
    if idle:
        notices.append(f"not in this version, although configured: {', '.join(idle)}")
    verdict = "The configuration can't be used." if problems else "The configuration can be used."
    rules = check_rules(rules_path(loaded.config), loaded.config, needed=False)
    found = _verdict([*problems, *rules["problems"]], [*notices, *rules["notices"]], verdict)
    found["verdict"] += rules["verdict"]
    return found


def explain_rules(name: ObjectName, path: str, config: Config, *, needed: bool) -> dict[str, Any]:
    """What the rules of a file mean for an object.

    :raises Usage: the file can't be used
    """
    try:
        rules = _read(path, config).rules
    except RulesError as error:
        raise Usage("\n".join(f"{path}: {each}" for each in error.problems)) from None
    except FileNotFoundError:
        if needed:
            raise Usage(f"{path}: there is no such file") from None
        rules = ()
    explanation = explain(Rules(config, rules), name.address)
    return {"name": name.text, "store": name.address.store, **attrs.asdict(explanation)}


def _verdict(problems: list[str], notices: list[str], verdict: str) -> dict[str, Any]:
    return {"problems": problems, "notices": notices, "verdict": [verdict]}
