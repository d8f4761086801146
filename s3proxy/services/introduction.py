"""The first lines of the application log."""

from twisted.logger import Logger

from s3proxy import __version__
from s3proxy.config.features import inactive_features
from s3proxy.config.load import Loaded
from s3proxy.config.model import Config
from s3proxy.config.schema import keys, value_of
from s3proxy.services.listeners import BoundPort

__all__ = ["introduce"]


def introduce(log: Logger, loaded: Loaded, bound: dict[str, BoundPort]) -> None:
    """Say who this is, and everything that was found while the configuration was read."""
    config = loaded.config
    log.info(
        "S3 Proxy {version}: mode {mode}, {ports}; cache {directory}, {size}, {algorithm}",
        version=__version__,
        mode=config.server.mode,
        ports=", ".join(f"{name} on port {each.port}" for name, each in bound.items()),
        directory=config.cache.cache_dir,
        size=f"at most {config.cache.max_cache_size} bytes" if config.cache.max_cache_size else "without a limit",
        algorithm=config.cache.eviction_algorithm,
    )
    for notice in loaded.notices:
        write = log.warn if notice.level == "warn" else log.info
        write("{text}", text=notice.text)
    waiting = inactive_features(config)
    if waiting:
        log.info("not in this version, although configured: {features}", features=", ".join(waiting))
    for key in keys(Config):
        value = "(hidden)" if key.kind.hides else key.kind.show(value_of(config, key.path))
        log.debug("{path}: {value}", path=key.path, value=value)
