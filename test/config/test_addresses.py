"""Tests for :mod:`s3proxy.config.addresses`."""

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.config.addresses import (
    host_and_port,
    host_name,
    host_pattern,
    ip_address,
    ip_and_port,
    overridden_host,
    override_target,
)


class Addresses(SynchronousTestCase):
    """Spellings that are accepted, and what becomes of them; None where one is not."""

    def compare(self, function: object, wanted: dict[str, str | None]) -> None:
        """Apply the function to each text."""
        assert callable(function)
        self.assertEqual({text: function(text) for text in wanted}, wanted)

    def test_ip_address(self) -> None:
        """IPv4 and IPv6, without brackets, zones, ports, networks and odd spellings."""
        self.compare(ip_address, {
            "10.0.0.1": "10.0.0.1", "::0001": "::1", "2001:DB8::1": "2001:db8::1", "0.0.0.0": "0.0.0.0", "": None,
            "10.0.0.1/8": None, "10.0.0.1:80": None, "[::1]": None, "fe80::1%eth0": None, "010.0.0.1": None, "1": None,
            "10.0.0.256": None, " 10.0.0.1": None,
        })

    def test_host_name(self) -> None:
        """Names in lower case; nothing that is an address, or nearly one."""
        self.compare(host_name, {
            "S3.Amazonaws.COM.": "s3.amazonaws.com", "localhost": "localhost", "a_b.c": "a_b.c", "a-b": "a-b",
            "1.2.x": "1.2.x", "": None, ".": None, "a..b": None, "-a.b": None, "a-.b": None, "10.0.0.1": None,
            "10.0.0.300": None,
            "a b": None, "ä.de": None, "a:80": None, "*.a": None, "x" * 64: None, "x" * 63: "x" * 63,
            "a." * 127 + "b": None,
        })

    def test_host_pattern(self) -> None:
        """A star may stand for the first label only."""
        self.compare(host_pattern, {
            "*.S3.x": "*.s3.x", "s3.x": "s3.x", "*": None, "*.": None, "a.*.b": None, "**.a": None,
        })

    def test_ip_and_port(self) -> None:
        """IPv6 needs brackets."""
        self.compare(ip_and_port, {
            "10.0.0.1:80": "10.0.0.1:80", "[::0001]:80": "[::1]:80", "::1:80": None, "10.0.0.1:0": None,
            "10.0.0.1:65536": None, "10.0.0.1:": None, "10.0.0.1": None, "[10.0.0.1]:80": None, "a:80": None,
            "10.0.0.1:８0": None,
        })

    def test_override_target(self) -> None:
        """Addresses and names, with and without ports."""
        self.compare(override_target, {
            "10.0.0.1": "10.0.0.1", "10.0.0.1:80": "10.0.0.1:80", "::1": "::1", "[::1]": "::1", "[::1]:80": "[::1]:80",
            "VPCE.example": "vpce.example", "vpce.example:80": "vpce.example:80", "*.example": None,
            "[10.0.0.1]": None, "": None,
        })

    def test_overridden_host(self) -> None:
        """Names, suffixes and addresses, with and without ports."""
        self.compare(overridden_host, {
            "Store.lan": "store.lan", "Store.lan:9000": "store.lan:9000", "*.Lan": "*.lan", "*.Lan:443": "*.lan:443",
            "10.0.0.1": "10.0.0.1", "10.0.0.1:80": "10.0.0.1:80", "::0001": "::1", "[::0001]:80": "[::1]:80",
            "*": None, "*:80": None, "*.10.0.0.1:80": None, "*.10.0.0.1": None, "store.lan:0": None,
            "store.lan:": None, "*.store.lan:x": None, "[::1]": None, "": None,
        })

    def test_host_and_port(self) -> None:
        """Names and addresses, always with a port."""
        self.compare(host_and_port, {
            "Store.lan:9000": "store.lan:9000", "10.0.0.1:80": "10.0.0.1:80", "[::1]:443": "[::1]:443",
            "store.lan": None, "store.lan:": None, ":80": None, "*:80": None, "*.lan:80": None, "::1:80": None,
            "store.lan:99999": None,
        })
