"""Who may ask, and who may change."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from s3proxy.dashboard.guard import may_change, names_of, names_us

NAMES = names_of("Proxy-1", "nameserver 192.0.2.1\nsearch corp.example. lab.example\n# domain x.example\n")

OURS = (
    "localhost", "localhost:8081", "LOCALHOST", "localhost.", "a.localhost:1", "127.0.0.1:8081", "[::1]:8081", "[::1]",
    "192.0.2.7", "proxy-1", "proxy-1:8081", "proxy-1.corp.example:8081", "PROXY-1.lab.example", "[fe80::1%eth0]:8081",
)  # fmt: skip
FOREIGN = (
    "", "evil.example", "evil.example:8081", "proxy-1.evil.example", "localhost.evil.example", "127.0.0.1.evil.example",
    "user@localhost", "localhost:8081:1", "localhost/x", "proxy-1.x.example", "[::1", "::1", "a b", "localhost#",
    "127.0.0.1:999999",
)  # fmt: skip


class NamesTests(SynchronousTestCase):
    """A page whose name leads here by its owner's doing is not answered."""


def _add(host: str, ours: bool) -> None:
    def test(self: NamesTests) -> None:
        self.assertIs(names_us(host, NAMES), ours)

    test.__doc__ = f"{host!r} is {'this host' if ours else 'another'}."
    setattr(NamesTests, f"test_{'ours' if ours else 'foreign'}_{(OURS if ours else FOREIGN).index(host):02}", test)


for _host in OURS:
    _add(_host, True)
for _host in FOREIGN:
    _add(_host, False)


class NoHostTests(SynchronousTestCase):
    def test_no_host(self) -> None:
        """Browsers always send the field; HTTP/1.0 tools need not."""
        self.assertTrue(names_us(None, NAMES))


class FakeRequest:
    def __init__(self, **fields: str | None) -> None:
        given = {
            "content_type": "application/json",
            "x_s3proxy": "1",
            "host": "localhost:8081",
            "origin": "http://localhost:8081",
            "sec_fetch_site": "same-origin",
            **fields,
        }
        self.requestHeaders = Headers(
            {name.replace("_", "-"): [value] for name, value in given.items() if value is not None}
        )


class ChangeTests(SynchronousTestCase):
    """A foreign page can send only what a form could, and is told by what browsers add."""

    def refusal(self, **fields: Any) -> str | None:
        return may_change(FakeRequest(**fields))

    def test_the_page(self) -> None:
        """The page itself may."""
        self.assertIsNone(self.refusal())
        self.assertIsNone(self.refusal(content_type="application/json; charset=utf-8"))

    def test_tools(self) -> None:
        """curl sends neither Origin nor Sec-Fetch-Site."""
        self.assertIsNone(self.refusal(origin=None, sec_fetch_site=None))

    def test_forms(self) -> None:
        """What a form can send without being asked about it does nothing."""
        for kind in (None, "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
            self.assertIn("JSON", self.refusal(content_type=kind) or "")
        self.assertIn("X-S3Proxy", self.refusal(x_s3proxy=None) or "")
        self.assertIn("X-S3Proxy", self.refusal(x_s3proxy="0") or "")

    def test_other_sites(self) -> None:
        """Whatever says that it comes from elsewhere is refused."""
        for fields in (
            {"sec_fetch_site": "cross-site"}, {"sec_fetch_site": "same-site"}, {"sec_fetch_site": "none"},
            {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "http://localhost:8080"}, {"origin": ""},
        ):  # fmt: skip
            self.assertIn("another site", self.refusal(**fields) or "", fields)
