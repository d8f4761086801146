"""``twistd s3proxy``: options, and the service they describe."""

import os
import sys

from twisted.application.service import IService
from twisted.python.util import gidFromString, uidFromString

from s3proxy.config.check import check_files
from s3proxy.config.command_line import Options
from s3proxy.config.load import ConfigError, Loaded, load_config

__all__ = ["Options", "makeService"]


def makeService(options: Options) -> IService:  # noqa: N802
    """The service; opens nothing yet. A configuration that can't be used ends the process with exit code 1."""

    def load() -> Loaded:
        return load_config(options["config"], environ=os.environ, options=options.overrides())

    try:
        loaded = load()
        problems = check_files(loaded.config, loaded.origins)
        if problems:
            raise ConfigError(problems)
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        raise SystemExit(1) from None
    if options["check"]:
        from s3proxy.services.rules_source import rules_problems

        for notice in loaded.notices:
            print(f"{notice.level}: {notice.text}")
        wrong_rules = rules_problems(loaded.config)
        for line in wrong_rules:
            print(line, file=sys.stderr)
        # The proxy would start, without these rules.
        print("The configuration can be used, the rules can't." if wrong_rules else "The configuration can be used.")
        raise SystemExit(1 if wrong_rules else 0)
    # Only now: these modules are many, and some of them must not be imported before twistd has chosen the reactor.
    from twisted.internet import reactor

    from s3proxy.services.application import ProxyService

    return ProxyService(reactor, load, loaded, _owner(options))


def _owner(options: Options) -> tuple[int, int] | None:
    """Whom twistd's --uid and --gid name."""
    parent = options.parent
    if parent is None or not (parent.get("uid") or parent.get("gid")):
        return None
    uid = parent.get("uid")
    gid = parent.get("gid")
    return (
        os.getuid() if uid is None else uidFromString(str(uid)),
        os.getgid() if gid is None else gidFromString(str(gid)),
    )
