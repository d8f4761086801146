"""Raw HTTP exchanges with a site, in memory."""

from collections.abc import Callable

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.web.resource import IResource

from s3proxy.admin.sites import admin_site


class Exchange:
    """One connection to a site."""

    def __init__(self, resource: IResource) -> None:
        self.clock = Clock()
        self.transport = StringTransport()
        self.site = admin_site(resource, self.clock)
        self.channel = self.site.buildProtocol(None)
        self.channel.makeConnection(self.transport)

    def send(self, data: bytes) -> bytes:
        """What comes back for these bytes, so far."""
        self.channel.dataReceived(data)
        answer = self.transport.value()
        self.transport.clear()
        return bytes(answer)


class Answer:
    """A parsed answer."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        self.status = int(first.split(b" ")[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(b": ") for line in lines)}


def ask(
    resource: IResource, path: str, method: str = "GET", wait: "Callable[[], object] | None" = None, **headers: str
) -> Answer:
    """The answer to one request; words of header names are joined by ``-``.

    :param wait: called when the request was received, and makes that the answer comes
    """
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    request = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n"
    exchange = Exchange(resource)
    answer = exchange.send(request.encode("latin-1"))
    if wait is not None:
        wait()
        answer += exchange.transport.value()
    return Answer(answer)
