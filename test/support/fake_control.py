"""The fake S3 as a process of its own, and how tests drive it.

The child is ``python -m test.support.fake_s3``. It prints one JSON line with its ports when it is ready, then answers
``POST /`` on its control port: ``{"call": NAME, "arguments": {...}}`` gives ``{"result": ...}`` or ``{"error": TEXT}``.
Bytes travel as ISO 8859-1 text. The child ends when its standard input ends, so it can't outlive the test run.
"""

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import attrs
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from test.support.certificates import CertificateAuthority, ServerCertificate
from test.support.fake_s3 import DEFAULT_CREDENTIAL, FakeS3
from test.support.fake_script import Action, Match, RecordedRequest, RequestLog, Script
from test.support.http_connection import BodyReader, ConnectionFactory, HTTPConnection
from test.support.sigv4 import Credential
from test.support.waiting import poll

__all__ = ["RemoteFakeS3", "RemoteScript", "serve"]

_CHECKOUT = Path(__file__).resolve().parents[2]
_READY_SECONDS = 30


class _Commands:
    """What can be called; every argument and result is JSON."""

    def __init__(self, fake: FakeS3) -> None:
        self._fake = fake
        self._scripts: list[Script] = []

    def create_bucket(self, name: str, versioned: bool, cors: bool, public: bool) -> None:
        self._fake.create_bucket(name, versioned=versioned, cors=cors, public=public)

    def put_object(self, bucket: str, key: str, data: str, headers: list[list[str]]) -> str:
        pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        version = self._fake.put_object(bucket, key.encode("latin-1"), data.encode("latin-1"), headers=pairs)
        return version.etag.decode("latin-1")

    def put_generated(self, bucket: str, key: str, seed: int, size: int) -> str:
        return self._fake.put_generated(bucket, key.encode("latin-1"), seed, size).etag.decode("latin-1")

    def delete_object(self, bucket: str, key: str) -> None:
        self._fake.delete_object(bucket, key.encode("latin-1"))

    def add_credential(self, access_key: str, secret_key: str, session_token: str | None) -> None:
        self._fake.add_credential(Credential(access_key, secret_key, session_token))

    def deny(self, access_key: str, bucket: str | None, key: str | None) -> None:
        self._fake.deny(access_key, bucket, None if key is None else key.encode("latin-1"))

    def allow_all(self) -> None:
        self._fake.allow_all()

    def script(self, match: dict[str, Any], action: dict[str, Any], times: int | None) -> int:
        script = self._fake.script(_build(Match, match), _build(Action, action), times)
        self._scripts.append(script)
        return len(self._scripts) - 1

    def script_state(self, number: int) -> dict[str, int]:
        script = self._scripts[number]
        return {"hits": len(script.hits), "held": script.held}

    def release(self, number: int) -> None:
        self._scripts[number].release()

    def behave(self) -> None:
        self._fake.behave()

    def requests(self) -> list[dict[str, Any]]:
        return [request.to_json() for request in self._fake.requests]

    def clear_requests(self) -> None:
        self._fake.requests.clear()

    def bad_requests(self) -> list[str]:
        return self._fake.bad_requests

    def close_idle_connections(self, reset: bool) -> int:
        return self._fake.close_idle_connections(reset)

    def reset_connections(self) -> None:
        self._fake.reset_connections()

    def connection_counts(self) -> dict[str, int]:
        return {"open": self._fake.open_connections, "accepted": self._fake.accepted}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"bytes": value.decode("latin-1")}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _rich(value: Any) -> Any:
    if isinstance(value, dict):
        return value["bytes"].encode("latin-1")
    if isinstance(value, list):
        return tuple(_rich(item) for item in value)
    return value


def _build(kind: type, values: dict[str, Any]) -> Any:
    return kind(**{name: _rich(value) for name, value in values.items()})


def _changed(value: Match | Action) -> dict[str, Any]:
    """The fields that differ from their defaults."""
    given = {field.name: getattr(value, field.name) for field in attrs.fields(type(value))}
    if given.get("predicate") is not None:
        raise ValueError("a predicate can't be sent to another process")
    standard = type(value)()
    return {name: _plain(item) for name, item in given.items() if item != getattr(standard, name)}


class _Leash(Protocol):
    """Ends the process when its standard input ends."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._reactor.stop()


def serve() -> None:
    """Run the fake until standard input ends."""
    from twisted.internet import reactor as installed, stdio

    reactor: Any = installed
    parser = argparse.ArgumentParser(description="A strict, scriptable S3 on loopback.")
    parser.add_argument("--port", type=int, default=0, help="port for plain HTTP (default: any free one)")
    parser.add_argument("--tls-port", type=int, default=0, help="port for TLS (default: any free one)")
    parser.add_argument("--control-port", type=int, default=0, help="port of the control channel")
    parser.add_argument("--certificate", type=Path, help="PEM file; without it there is no TLS port")
    parser.add_argument("--key", type=Path, help="PEM file of the certificate's key")
    parser.add_argument("--domain", action="append", default=[], help="name before which a bucket may stand in Host")
    parser.add_argument("--any-region", action="store_true", help="accept signatures for every region")
    parser.add_argument("--min-part-size", type=int, default=5 << 20)
    parser.add_argument("--idle-timeout", type=float, default=0)
    options = parser.parse_args()
    fake = FakeS3(
        reactor,
        domains=[domain.encode() for domain in options.domain] or (b"s3.test",),
        region=None if options.any_region else "us-east-1",
        min_part_size=options.min_part_size,
        idle_timeout=options.idle_timeout,
    )
    ports = {"port": fake.listen(options.port)}
    if options.certificate is not None:
        tls = ServerCertificate(certificate=options.certificate, key=options.key).options()
        ports["tls_port"] = fake.listen(options.tls_port, tls=tls)
    commands = _Commands(fake)

    async def control(connection: HTTPConnection) -> None:
        while True:
            head = await connection.read_head()
            asked = json.loads(await BodyReader(connection, head).read_all(1 << 30))
            try:
                answer = {"result": getattr(commands, asked["call"])(**asked["arguments"])}
            except Exception as problem:
                answer = {"error": f"{type(problem).__name__}: {problem}"}
            data = json.dumps(answer).encode()
            await connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data))

    factory = ConnectionFactory(lambda: HTTPConnection(0, control))
    listening = reactor.listenTCP(options.control_port, factory, interface="127.0.0.1")
    ports["control_port"] = listening.getHost().port
    stdio.StandardIO(_Leash(reactor))
    print(json.dumps(ports), flush=True)
    reactor.run()


class RemoteScript:
    """A script in the other process."""

    def __init__(self, fake: "RemoteFakeS3", number: int) -> None:
        self._fake = fake
        self._number = number

    @property
    def hits(self) -> int:
        """How many requests it was applied to."""
        found: int = self._fake.call("script_state", number=self._number)["hits"]
        return found

    @property
    def held(self) -> int:
        """How many requests it holds."""
        found: int = self._fake.call("script_state", number=self._number)["held"]
        return found

    def release(self) -> None:
        """Let everything go that is held."""
        self._fake.call("release", number=self._number)


class RemoteFakeS3:
    """Starts the fake in a process of its own. Every method blocks; same meaning as :class:`FakeS3`'s.

    :param names: for whom its TLS certificate is; None for no TLS port.
    """

    credential = DEFAULT_CREDENTIAL

    def __init__(
        self, *, names: Sequence[str] | None = ("localhost", "127.0.0.1"), options: Sequence[str] = ()
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fake-s3-")
        folder = Path(self._folder.name)
        arguments = [sys.executable, "-m", "test.support.fake_s3", *options]
        self.ca_file: Path | None = None
        if names is not None:
            authority = CertificateAuthority(folder)
            issued = authority.issue(names)
            self.ca_file = authority.ca_file
            arguments += ["--certificate", str(issued.certificate), "--key", str(issued.key)]
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                arguments,
                cwd=_CHECKOUT,
                env={**os.environ, "PYTHONPATH": str(_CHECKOUT)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        ports = self._read_ports()
        self.port: int = ports["port"]
        self.tls_port: int = ports.get("tls_port", 0)
        self._control_port: int = ports["control_port"]

    def _read_ports(self) -> dict[str, int]:
        stdout: IO[bytes] | None = self._process.stdout
        line = stdout.readline() if stdout is not None else b""
        if not line:
            self.stop()
            raise RuntimeError(f"the fake S3 did not start: {self.log()}")
        found: dict[str, int] = json.loads(line)
        return found

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def log(self) -> str:
        """What it wrote to standard error."""
        return self._log.read_text(errors="backslashreplace") if self._log.exists() else ""

    def stop(self) -> None:
        """End the process and remove its files."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._folder.cleanup()

    def call(self, name: str, /, **arguments: Any) -> Any:
        """Call one command of the child.

        :raises RuntimeError: with its error.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self._control_port, timeout=60)
        try:
            connection.request("POST", "/", json.dumps({"call": name, "arguments": arguments}))
            answer = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]

    def create_bucket(self, name: str, *, versioned: bool = False, cors: bool = False, public: bool = False) -> None:
        """Add a bucket."""
        self.call("create_bucket", name=name, versioned=versioned, cors=cors, public=public)

    def put_object(self, bucket: str, key: bytes, data: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
        """Store an object behind everybody's back; returns its ETag."""
        pairs = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in headers]
        etag: str = self.call(
            "put_object", bucket=bucket, key=key.decode("latin-1"), data=data.decode("latin-1"), headers=pairs
        )
        return etag.encode("latin-1")

    def put_generated(self, bucket: str, key: bytes, seed: int, size: int) -> bytes:
        """Store ``content(seed, 0, size)``; returns its ETag."""
        etag: str = self.call("put_generated", bucket=bucket, key=key.decode("latin-1"), seed=seed, size=size)
        return etag.encode("latin-1")

    def delete_object(self, bucket: str, key: bytes) -> None:
        """Delete an object behind everybody's back."""
        self.call("delete_object", bucket=bucket, key=key.decode("latin-1"))

    def add_credential(self, credential: Credential) -> None:
        """Know this access key from now on."""
        self.call("add_credential", **attrs.asdict(credential))

    def deny(self, access_key: str, bucket: str | None = None, key: bytes | None = None) -> None:
        """Answer 403 to this access key."""
        self.call("deny", access_key=access_key, bucket=bucket, key=None if key is None else key.decode("latin-1"))

    def allow_all(self) -> None:
        """Forget all that :meth:`deny` was told."""
        self.call("allow_all")

    def script(self, match: Match, action: Action, times: int | None = 1) -> RemoteScript:
        """Misbehave."""
        number = self.call("script", match=_changed(match), action=_changed(action), times=times)
        return RemoteScript(self, number)

    def behave(self) -> None:
        """Forget all scripts and release what they hold."""
        self.call("behave")

    @property
    def requests(self) -> RequestLog:
        """The requests so far, as they are at this moment."""
        return RequestLog([RecordedRequest.from_json(values) for values in self.call("requests")])

    def clear_requests(self) -> None:
        """Forget the requests so far."""
        self.call("clear_requests")

    def bad_requests(self) -> list[str]:
        """What was wrong with bytes that were no request."""
        found: list[str] = self.call("bad_requests")
        return found

    def close_idle_connections(self, reset: bool = False) -> int:
        """Close the connections that wait for a request; returns how many there were."""
        count: int = self.call("close_idle_connections", reset=reset)
        return count

    def reset_connections(self) -> None:
        """Reset every connection."""
        self.call("reset_connections")

    def connection_counts(self) -> dict[str, int]:
        """``open`` now and ``accepted`` so far."""
        counts: dict[str, int] = self.call("connection_counts")
        return counts

    def wait_finished(self, count: int, seconds: float = 30) -> RequestLog:
        """The log, once at least so many requests are finished."""
        poll(lambda: sum(request.finished for request in self.requests) >= count, seconds, "requests to finish")
        return self.requests
