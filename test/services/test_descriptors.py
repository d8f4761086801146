"""Tests for :mod:`s3proxy.services.descriptors`."""

import resource

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.services.descriptors import connections_for, raise_limit


class DescriptorsTests(SynchronousTestCase):
    """raise_limit and connections_for."""

    def test_raise_limit(self) -> None:
        """The soft limit becomes the hard one."""
        soft, hard = before = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512) if soft >= 0 else 512, hard))
        self.assertEqual(raise_limit(), hard if hard != resource.RLIM_INFINITY else 1 << 20)
        self.assertEqual(resource.getrlimit(resource.RLIMIT_NOFILE), (hard, hard))

    def test_connections(self) -> None:
        """Twice as many descriptors as connections, and what else there is, fit; a few connections there always are."""
        for descriptors in (1024, 4096, 65536, 1 << 20):
            self.assertLess(2 * connections_for(descriptors) + 512 + descriptors // 8, descriptors)
        self.assertEqual(connections_for(256), 32)
