"""Tests for what the process harness does by itself; that it starts the proxy is shown by the system tests."""

import os
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from test.support.proxy_process import ProxyEnded, ProxyProcess, clean_environment


class ConfigurationTests(SynchronousTestCase):
    """The configuration that is written."""

    def make(self, config: dict[str, Any]) -> ProxyProcess:
        """A harness in a folder of this test."""
        return ProxyProcess(config, folder=Path(self.mktemp()))

    def test_sections_are_merged(self) -> None:
        """A key that is given replaces one default and leaves its neighbours; override maps are replaced whole."""
        proxy = self.make({"cache": {"get_ttl": "1s"}, "connection_pool": {"endpoint_overrides": {"a": ["127.0.0.1"]}}})
        self.assertEqual(proxy.config["cache"]["get_ttl"], "1s")
        self.assertIn("cache_dir", proxy.config["cache"])
        proxy.configure({"connection_pool": {"endpoint_overrides": {"b": ["127.0.0.2"]}}})
        self.assertEqual(proxy.config["connection_pool"]["endpoint_overrides"], {"b": ["127.0.0.2"]})
        self.assertIn("dns_servers", proxy.config["connection_pool"])

    def test_ports(self) -> None:
        """All listeners of all proxies have ports of their own, and the mode decides which one serves."""
        first, second = self.make({}), self.make({"server": {"mode": "proxy_only"}})
        ports = [
            proxy.config[section][key]
            for proxy in (first, second)
            for section, key in (
                ("server", "http_port"), ("server", "https_port"), ("server", "proxy_port"), ("health", "port"),
                ("metrics", "port"), ("dashboard", "port"),
            )
        ]
        self.assertEqual(len(set(ports)), len(ports))
        self.assertEqual(first.port, first.config["server"]["http_port"])
        self.assertEqual(second.port, second.config["server"]["proxy_port"])

    def test_not_running(self) -> None:
        """A proxy that was not started has no process."""
        proxy = self.make({})
        self.assertFalse(proxy.running)
        self.assertRaises(ProxyEnded, lambda: proxy.pid)
        proxy.stop()

    def test_environment(self) -> None:
        """Proxies, AWS settings and our own of the environment don't reach the processes under test."""
        for name in ("http_proxy", "HTTPS_PROXY", "AWS_ENDPOINT_URL", "S3PROXY_TEST_X"):
            self.patch(os, "environ", {**os.environ, name: "x"})
        found = clean_environment()
        self.assertNotIn("x", found.values())
        self.assertIn("PATH", found)
