"""Who may ask, and what a browser may do with the answers.

There is no password: the listener's address is the fence. A browser of somebody who is inside must not become the tool
of a page from outside, hence:

* A request must name this host by a name that is known to be its own, or by an IP address. A page whose name somebody
  lets lead here (DNS rebinding) is not answered.
* Nothing is changed but by POST with a JSON body and a header that no foreign page can send without asking first
  (CORS), and a browser must say that its page is one of ours.
* The page runs and loads nothing that does not come from here, and nobody may put it in a frame.
"""

import ipaddress
import re
from collections.abc import Collection
from typing import Any, Final

__all__ = ["HEADERS", "may_change", "names_of", "names_us"]

HEADERS: Final = (
    (
        b"Content-Security-Policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Referrer-Policy", b"no-referrer"),
    (b"Cross-Origin-Resource-Policy", b"same-origin"),
    (b"Cross-Origin-Opener-Policy", b"same-origin"),
)
"""Of every answer."""

_HOST: Final = re.compile(r"(\[[0-9a-z:.%]+\]|[^\[\]:/?#@\s]+)(?::\d{1,5})?")


def names_of(hostname: str, resolver_configuration: str = "") -> frozenset[str]:
    """The names by which this host is known.

    :param resolver_configuration: what resolv.conf says: the host's name may be used with the domains listed there
    """
    name = hostname.lower().rstrip(".")
    names = {"localhost", name}
    for line in resolver_configuration.splitlines():
        words = line.lower().split()
        if words and words[0] in ("search", "domain"):
            names.update(f"{name}.{domain.strip('.')}" for domain in words[1:] if domain.strip("."))
    return frozenset(names)


def names_us(host: str | None, names: Collection[str]) -> bool:
    """Whether a Host header names this host. A request without one was not made by a browser."""
    if host is None:
        return True
    match = _HOST.fullmatch(host.lower())
    if match is None:
        return False
    name = match[1].rstrip(".")
    if name in names or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name.strip("[]").partition("%")[0])
    except ValueError:
        return False
    return True


def may_change(request: Any) -> str | None:
    """Why this POST may change nothing; None when it may."""
    headers = request.requestHeaders

    def header(name: str) -> str | None:
        values = headers.getRawHeaders(name)
        return values[-1] if values else None

    if (header("content-type") or "").partition(";")[0].strip().lower() != "application/json":
        return "The body must be JSON, and its Content-Type application/json."
    if header("x-s3proxy") != "1":
        return "The header X-S3Proxy: 1 is missing."
    if header("sec-fetch-site") not in (None, "same-origin"):
        return "The request comes from another site's page."
    origin = header("origin")
    if origin is not None and origin.partition("://")[2].lower() != (header("host") or "").lower():
        return "The request comes from another site's page."
    return None
