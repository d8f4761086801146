"""What each of several workers gets."""

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.config.load import load_config
from s3proxy.config.model import Config
from s3proxy.services.worker_settings import share_of


def config(**options: object) -> Config:
    """A configuration."""
    return load_config(
        None, environ={}, options={name.replace("__", "."): value for name, value in options.items()}
    ).config


class ShareTests(SynchronousTestCase):
    """The configuration of one of several workers."""

    def test_divided(self) -> None:
        """What is limited for the whole is divided, rounded up."""
        whole = config(server__max_concurrent_requests=100, connection_pool__max_connections=10,
                       cache__metadata_cache__max_entries=1000)  # fmt: skip
        part = share_of(whole, 3, 3000)
        self.assertEqual(part.server.max_concurrent_requests, 34)
        self.assertEqual(part.connection_pool.max_connections, 4)
        self.assertEqual(part.cache.metadata_cache.max_entries, 334)
        self.assertEqual(part.cache.max_ram_cache_size, 1000)

    def test_switched_off(self) -> None:
        """A limit of 0 is none, whatever the number of workers, and no share is less than its key allows."""
        part = share_of(config(), 4, 0)
        self.assertEqual((part.server.max_inflight_buffer_bytes, part.download_bandwidth.max_bytes_per_sec), (0, 0))
        part = share_of(config(server__max_inflight_buffer_bytes=2 << 20, server__max_concurrent_requests=2), 256, 1)
        self.assertEqual((part.server.max_inflight_buffer_bytes, part.server.max_concurrent_requests), (1 << 20, 1))

    def test_the_rest(self) -> None:
        """Everything else is as for the whole."""
        whole = config(cache__get_ttl=5.0)
        self.assertEqual(share_of(whole, 2, 10).cache.get_ttl, 5.0)
        self.assertEqual(share_of(whole, 2, 10).connection_pool.dns_servers, whole.connection_pool.dns_servers)
