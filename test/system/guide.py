"""A machine as the documentation speaks of it, in namespaces of its own, and an internet around it: S3 has S3's names
and ports, public name servers know it, the hosts file leads its names to this machine, and commands are typed as they
are written.

===========================  =========================================================================
10.0.1.101                   the machine, and its loopback; no other machine but the internet is there
/etc/hosts                   the lines of doc/getting-started.md, which lead S3's names to 127.0.0.1
8.8.8.8 and its neighbours   public name servers: for them, S3 is the two frontends
52.92.16.1, 52.92.16.2       frontends of S3, port 443, with a certificate of the system's authority
===========================  =========================================================================

:class:`Machine` starts it all, and runs commands on the machine. Run as a program, the module is the internet.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from test.support.certificates import CertificateAuthority
from test.support.content import content
from test.support.fake_dns import DNSAnswer, FakeDNS
from test.support.fake_s3 import FakeS3
from test.support.fake_store import FakeStore
from test.support.proxy_process import clean_environment
from test.support.sigv4 import Credential
from test.support.waiting import poll
from typing import IO, Any

from twisted.internet.task import LoopingCall

__all__ = ["BUCKETS", "FRONTENDS", "Machine", "can_have_namespaces", "hosts_of_the_guide"]

CHECKOUT = Path(__file__).resolve().parents[2]
GUIDE = CHECKOUT / "doc" / "getting-started.md"
NAME_SERVERS = ("8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1")
FRONTENDS = ("52.92.16.1", "52.92.16.2")
AWS = "amazonaws.com"
REGIONS = ("us-east-1", "us-west-2", "eu-west-1")
ENDPOINTS = (
    f"s3.{AWS}",
    *(f"s3.{region}.{AWS}" for region in REGIONS),
    *(f"s3-accesspoint.{region}.{AWS}" for region in REGIONS),
    f"accesspoint.s3-global.{AWS}",
)
BUCKETS = (
    "your-bucket", "another-bucket", "eu-bucket", "my-bucket", "my-ap-123456789012", "my-ap-abcdef123456-s3alias",
    "mfzwi23gnjvgw.mrap",
)  # fmt: skip
CREDENTIAL = Credential("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
KEYS = {"key": 50_000, "data/file.txt": 1_000, "data/part-0001.parquet": 3 << 20, "logs/2026-01-14/app.log": 200_000}

_INTERNET = ("unshare", "--user", "--map-root-user", "--net", "--mount")
#: What holds the machine's namespaces: it ends with its standard input.
_MACHINE = (
    "ip link set lo up && mount --bind hosts /etc/hosts && mount --bind resolv.conf /etc/resolv.conf && echo up && cat"
)
_PYTHON = f"#!{sys.executable}\n"
#: What a user has installed, and the tests have as modules.
_TOOLS = {
    "twistd": f"{_PYTHON}import sys\nsys.argv[0] = 'twistd'\nfrom twisted.scripts.twistd import run\nrun()\n",
    "s3proxyctl": f"{_PYTHON}from s3proxy.control.main import main\nmain()\n",
    "aws": f"{_PYTHON}import sys\nfrom awscli.clidriver import main\nsys.exit(main())\n",
    "python3": f'#!/bin/sh\nexec {sys.executable} "$@"\n',
    "python": f'#!/bin/sh\nexec {sys.executable} "$@"\n',
    # As sudo does: variables may stand before the command, and those of the caller are gone.
    "sudo": '#!/bin/sh\nexec env -u LOG_LEVEL "$@"\n',
    # Somebody looks, and presses Ctrl-C.
    "tail": f'#!/bin/sh\ntimeout 1 {shutil.which("tail")} "$@" || [ $? = 124 ]\n',
}


def can_have_namespaces() -> bool:
    """Whether this user may have a network, and mounts, of his own."""
    script = (
        "mount --bind /etc/hosts /etc/resolv.conf && ip link add wire type veth peer name eth9 && command -v nsenter"
    )
    try:
        return subprocess.run([*_INTERNET, "sh", "-c", script], capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def hosts_of_the_guide() -> "list[str]":
    """The lines of the hosts file that the guide shows."""
    return re.findall(r"^127\.0\.0\.1 \S+$", GUIDE.read_text("utf-8"), re.M)


class Machine:
    """The machine. :meth:`stop` ends it.

    :ivar folder: where commands are typed: a checkout, but for what the commands make there
    :ivar runs: the command by which the proxy that runs was started; empty without one
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="s3proxy-guide-"))
        self._internet: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self.runs = ""
        self._proxy: subprocess.Popen[bytes] | None = None
        self.tools = self.folder / "bin"
        self.tools.mkdir()
        (self.folder / "run").mkdir()
        for name, text in _TOOLS.items():
            (self.tools / name).write_text(text)
            (self.tools / name).chmod(0o755)
        for name in ("etc", "doc", "setup.cfg", "s3proxy", "twisted"):
            (self.folder / name).symlink_to(CHECKOUT / name)
        (self.folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *hosts_of_the_guide(), ""]))
        (self.folder / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        (self.folder / "file.txt").write_bytes(content(7, 0, 20_000))
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        with (self.folder / "internet.txt").open("wb") as output:
            self._internet = subprocess.Popen(
                [*_INTERNET, sys.executable, "-m", "test.system.guide", str(self.folder)],
                cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        ready = self.folder / "ready"

        def started() -> bool:
            if self._internet is not None and self._internet.poll() is not None:
                raise AssertionError((self.folder / "internet.txt").read_text())
            return ready.exists()

        poll(started, 60, "the machine")
        self._pid = int(ready.read_text())

    @property
    def environment(self) -> "dict[str, str]":
        """What commands find: the tools of the tests, a user's credential, and the authority of the frontends."""
        return {
            **clean_environment(),
            "PATH": f"{self.tools}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(CHECKOUT),
            "HOME": str(self.folder),
            "RUNTIME_DIRECTORY": str(self.folder / "run"),
            "S3PROXY_SOCKET": str(self.folder / "run" / "80.sock"),
            "SSL_CERT_FILE": str(self.folder / "ca.pem"),
            "AWS_ACCESS_KEY_ID": CREDENTIAL.access_key,
            "AWS_SECRET_ACCESS_KEY": CREDENTIAL.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": str(self.folder / "none"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",
        }

    def enter(self) -> "list[str]":
        """The beginning of a command that runs there."""
        found = ["nsenter", f"--target={self._pid}", "--user", "--preserve-credentials", "--net", "--mount"]
        return [*found, f"--wd={self.folder}"]

    def run(self, commands: str, seconds: float = 60) -> "subprocess.CompletedProcess[str]":
        """Type these commands; the first one that fails is the last."""
        return subprocess.run(
            [*self.enter(), "bash", "-eu", "-o", "pipefail", "-c", commands],
            env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=seconds, check=False,
        )  # fmt: skip

    def output(self, commands: str, seconds: float = 60) -> str:
        """What they print.

        :raises AssertionError: one fails
        """
        done = self.run(commands, seconds)
        if done.returncode != 0:
            raise AssertionError(f"exit code {done.returncode} of\n{commands}\n{done.stdout}{self.log()[-2000:]}")
        return done.stdout

    # The proxy

    def start_proxy(self, command: str, health: str = "http://localhost:8080/readyz") -> None:
        """Start a proxy by this command, and wait until it serves."""
        self.stop_proxy()
        shutil.rmtree(self.folder / "tmp", ignore_errors=True)
        with self._output().open("wb") as output:
            self._proxy = subprocess.Popen(
                [*self.enter(), "sh", "-c", f"exec {command}"],
                env=self.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

        def ready() -> bool:
            if self._proxy is None or self._proxy.poll() is not None:
                raise AssertionError(f"{command} has ended: {self.log()}")
            return self.run(f"curl -sf {health}").returncode == 0

        poll(ready, 60, f"{command} to be ready", interval=0.2)
        self.runs = command

    def stop_proxy(self) -> "int | None":
        """End it as systemd would; returns its exit code. Nothing happens without one."""
        self.runs = ""
        if self._proxy is None:
            return None
        if self._proxy.poll() is None:
            self._proxy.terminate()
        try:
            return self._proxy.wait(40)
        finally:
            if self._proxy.poll() is None:
                self._proxy.kill()
            self._proxy = None

    def _output(self) -> Path:
        return self.folder / "proxy.txt"

    def log(self) -> str:
        """What the proxy has printed."""
        return self._output().read_text(errors="replace") if self._output().exists() else ""

    # S3 and its name servers

    def requests(self) -> "list[dict[str, Any]]":
        """What the frontends were asked for so far: frontend, method, host, target, status, tls."""
        return self._lines("requests")

    def queries(self) -> "set[str]":
        """Names that the name servers were asked for."""
        return {each["name"] for each in self._lines("queries")}

    def _lines(self, name: str) -> "list[dict[str, Any]]":
        time.sleep(0.3)
        text = (self.folder / f"{name}.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def stop(self) -> None:
        """End everything, and remove the folder."""
        self.stop_proxy()
        if self._internet is not None:
            self._internet.terminate()
            self._internet.wait(20)
        shutil.rmtree(self.folder, ignore_errors=True)


# The internet


class _Journal:
    """Writes down what happened since the last time."""

    def __init__(self, folder: Path, frontends: "list[FakeS3]", servers: "list[FakeDNS]") -> None:
        self._frontends = frontends
        self._servers = servers
        self._requests: IO[str] = (folder / "requests.jsonl").open("a")
        self._queries: IO[str] = (folder / "queries.jsonl").open("a")
        self._seen = [0] * len(frontends)
        self._asked = [0] * len(servers)

    def write(self) -> None:
        """Append what is finished, in order."""
        for number, frontend in enumerate(self._frontends):
            while self._seen[number] < len(frontend.requests):
                request = frontend.requests[self._seen[number]]
                if not request.status:
                    break
                self._seen[number] += 1
                found = {
                    "frontend": FRONTENDS[number], "method": request.method.decode(),
                    "host": (request.header(b"host") or b"").decode(), "target": request.target.decode(),
                    "status": request.status, "tls": request.tls,
                }  # fmt: skip
                self._requests.write(json.dumps(found) + "\n")
        for number, server in enumerate(self._servers):
            for name, _, _ in server.queries[self._asked[number] :]:
                self._asked[number] += 1
                self._queries.write(json.dumps({"name": name.decode()}) + "\n")
        self._requests.flush()
        self._queries.flush()


def _connect_machine(folder: Path) -> "subprocess.Popen[bytes]":
    """Make the machine, and a wire to it."""
    process = subprocess.Popen(
        ["unshare", "--net", "--mount", "sh", "-c", _MACHINE],
        cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    if process.stdout.readline() != b"up\n":
        raise AssertionError("there is no machine")
    there = ("nsenter", f"--target={process.pid}", "--net")
    for command in (
        ("ip", "link", "add", "wire", "type", "veth", "peer", "name", "eth0", "netns", str(process.pid)),
        ("ip", "address", "add", "10.0.1.1/24", "dev", "wire"),
        ("ip", "link", "set", "wire", "up"),
        (*there, "ip", "address", "add", "10.0.1.101/24", "dev", "eth0"),
        (*there, "ip", "link", "set", "eth0", "up"),
        (*there, "ip", "route", "add", "default", "via", "10.0.1.1"),
    ):
        subprocess.run(command, check=True)
    return process


def _serve(folder: Path) -> None:
    from test.system.scene import bring_up

    from twisted.internet import reactor as running

    reactor: Any = running
    bring_up((*NAME_SERVERS, *FRONTENDS))
    machine = _connect_machine(folder)
    (folder / "authority").mkdir()
    authority = CertificateAuthority(folder / "authority")
    shutil.copy(authority.ca_file, folder / "ca.pem")
    certificate = authority.issue([name for each in ENDPOINTS for name in (each, f"*.{each}")]).options()
    servers = []
    for address in NAME_SERVERS:
        server = FakeDNS(reactor)
        for endpoint in ENDPOINTS:
            if not endpoint.startswith("s3-accesspoint"):
                server.set(endpoint.encode(), DNSAnswer(ipv4=FRONTENDS, ttl=60))
            for bucket in BUCKETS:
                server.set(f"{bucket}.{endpoint}".encode(), DNSAnswer(ipv4=FRONTENDS, ttl=60))
                server.set(f"{bucket.removesuffix('.mrap')}.{endpoint}".encode(), DNSAnswer(ipv4=FRONTENDS, ttl=60))
        server.listen(53, address)
        servers.append(server)
    store = FakeStore(time.time)
    for bucket in BUCKETS:
        store.create_bucket(bucket.encode())
        for number, (key, size) in enumerate(KEYS.items()):
            store.put_generated(store.buckets[bucket.encode()], key.encode(), number, size)
    frontends = []
    for address in FRONTENDS:
        fake = FakeS3(reactor, domains=[each.encode() for each in ENDPOINTS], region=None)
        fake.store = store
        fake.add_credential(CREDENTIAL)
        fake.listen(443, address, certificate)
        frontends.append(fake)
    LoopingCall(_Journal(folder, frontends, servers).write).start(0.1)
    partial = folder / "ready.new"
    partial.write_text(str(machine.pid))
    partial.rename(folder / "ready")
    reactor.run()
    machine.kill()
    machine.wait()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
