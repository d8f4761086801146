"""Which bodies the cache stores smaller, by configuration and rules."""

from twisted.logger import Logger

from s3proxy.cache.entry import ObjectVersion
from s3proxy.cache.packer import PackingRules
from s3proxy.config.model import Config
from s3proxy.policy.compression import may_compress
from s3proxy.policy.rules import Rules
from s3proxy.s3.address import ObjectAddress
from s3proxy.storage.codec import can_decode

__all__ = ["packing_rules"]

_log = Logger()


def packing_rules(config: Config, rules: Rules) -> PackingRules | None:
    """What the cache goes by; None: everything is stored as it comes."""
    enabled = config.compression.enabled
    if config.compression.preferred_algorithm == "none":
        return None
    if not enabled and not any(rule.compression_enabled for rule in rules.rules):
        return None
    if not can_decode():
        _log.warn(
            "compression.enabled: the Python package lz4 is not installed, so everything is stored as it comes; "
            "install it (pip install lz4), or set compression.enabled to false"
        )
        return None

    def wants(version: ObjectVersion) -> bool:
        id = version.id
        settings = rules.resolve(ObjectAddress(store=id.store, bucket=id.bucket, key=id.key))
        return may_compress(settings, enabled, id.key, version.headers)

    # A power of two, not above what is configured.
    block = config.cache.compression_batch_size.bit_length() - 1
    return PackingRules(wants=wants, threshold=config.compression.threshold, block=block)
