"""Every command of the documentation is run, in the network of :mod:`test.system.guide`, or stands in a table here with
the reason why it can't be.

The commands of the runbook are run by :mod:`test.system.test_runbook`.
"""

import atexit
import functools
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from test.system.guide import Machine, can_have_namespaces

import attrs
from twisted.trial.unittest import SkipTest, SynchronousTestCase

CHECKOUT = Path(__file__).resolve().parents[2]
PAGES = (CHECKOUT / "README.md", *sorted((CHECKOUT / "doc").glob("*.md")))
FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```", re.M | re.S)
EXAMPLE = "sudo twistd --nodaemon --pidfile= s3proxy --config {}"


class Place(Enum):
    """Where commands are run."""

    EXAMPLE = "etc/s3proxy.example.yaml runs, and the hosts file leads to it"
    PURGING = "the same with dashboard.allow_purge"
    QUICKSTART = "sh etc/quickstart.sh runs"
    STARTS = "nothing runs, and the command starts the proxy"
    CHECKOUT = "nothing runs"


@attrs.frozen
class Block:
    """:ivar page: without its ending
    :ivar number: of the block on that page
    """

    page: str
    number: int
    language: str
    text: str

    @property
    def name(self) -> "tuple[str, str]":
        """What it is called in the tables: the page, and the beginning of the first line that is no comment."""
        lines = (line for line in self.text.splitlines() if line and not line.startswith("#"))
        return self.page, next(lines, "")[:60]


PLACES = {
    ("README", "sh etc/quickstart.sh"): Place.STARTS,
    ("README", "export HTTP_PROXY=http://127.0.0.1:3128"): Place.QUICKSTART,
    ("README", "import boto3"): Place.QUICKSTART,
    ("README", "curl http://127.0.0.1:8080/health"): Place.QUICKSTART,
    ("dashboard", "curl -s 'localhost:8081/api/v1/summary?format=text'"): Place.EXAMPLE,
    ("dashboard", "curl -s localhost:8081/api/v1/cache/purge -H 'Content-Type: "): Place.PURGING,
    ("deployment", "promtool check rules etc/prometheus/s3proxy.rules.yml"): Place.CHECKOUT,
    ("development", "PYTHONPATH=. twistd -n s3proxy --config etc/quickstart.yaml"): Place.STARTS,
    ("getting-started", "sh etc/quickstart.sh"): Place.STARTS,
    ("getting-started", "export HTTP_PROXY=http://127.0.0.1:3128"): Place.QUICKSTART,
    ("getting-started", "sudo /opt/s3proxy/bin/twistd --nodaemon --pidfile= s3proxy -"): Place.STARTS,
    ("getting-started", "export HTTP_PROXY=http://proxy-host:3128"): Place.CHECKOUT,
    ("getting-started", "aws s3 cp file.txt s3://your-bucket/file.txt \\"): Place.EXAMPLE,
    ("getting-started", "export AWS_ENDPOINT_URL_S3=http://s3.us-east-1.amazonaws.com"): Place.EXAMPLE,
    ("getting-started", "aws s3 cp file.txt s3://eu-bucket/key --region eu-west-1 --e"): Place.EXAMPLE,
    ("getting-started", "import boto3"): Place.EXAMPLE,
    ("getting-started", "export S3_ENDPOINT_URL=http://s3.us-east-1.amazonaws.com"): Place.EXAMPLE,
    ("getting-started", 'rclone lsf ":s3,provider=AWS,env_auth,region=us-east-1,endpo'): Place.EXAMPLE,
    ("getting-started", "from pyarrow import fs"): Place.EXAMPLE,
    ("getting-started", "aws s3 cp s3://arn:aws:s3:eu-west-1:123456789012:accesspoint"): Place.EXAMPLE,
    ("getting-started", "aws s3 cp s3://my-ap-abcdef123456-s3alias/data/file.txt . \\"): Place.EXAMPLE,
    ("getting-started", "aws s3 cp s3://mfzwi23gnjvgw.mrap/data/file.txt . --endpoint"): Place.EXAMPLE,
    ("getting-started", "curl -I http://localhost:8080/health"): Place.EXAMPLE,
    ("getting-started", "tail -F ./tmp/logs/access/*.log"): Place.EXAMPLE,
    ("getting-started", "tail -F ./tmp/logs/app/$(hostname)/*.log"): Place.EXAMPLE,
    ("getting-started", "sudo LOG_LEVEL=debug /opt/s3proxy/bin/twistd --nodaemon --pi"): Place.STARTS,
    ("observability", "curl -s localhost:8080/health"): Place.EXAMPLE,
    ("observability", "curl -s localhost:9090/metrics | grep cache_hit_rate"): Place.EXAMPLE,
    ("observability", "tail -F ./tmp/logs/access/*.log"): Place.EXAMPLE,
    ("testing", "export HTTP_PROXY=http://127.0.0.1:3128"): Place.QUICKSTART,
    ("troubleshooting", "s3proxyctl status || true"): Place.EXAMPLE,
    ("troubleshooting", "awk '{print $(NF-11), $(NF-1)}' ./tmp/logs/access/*.log | so"): Place.EXAMPLE,
    ("troubleshooting", "s3proxyctl inspect your-bucket/key || true"): Place.EXAMPLE,
    ("tunnels", "export HTTP_PROXY=https://proxy.example:3129"): Place.CHECKOUT,
}  # fmt: skip

_SYSTEMD = "needs systemd"
_AWS = "needs an account of AWS"
_TOOLS = "needs tools for performance that are not part of every system"
CANNOT = {
    ("README", "sh test/run.sh"): "runs this test",
    ("README", "sh etc/demo.sh"): "test.system.test_demo runs the demonstration",
    ("README", "python3 -m venv /opt/s3proxy"): "installs from PyPI; test.test_packaging installs the package",
    ("dashboard", "ssh -L 8081:127.0.0.1:8081 proxy.example"): "needs another host",
    ("deployment", "python3 -m venv /opt/s3proxy"): _SYSTEMD,
    ("deployment", "cp etc/systemd/s3proxy.socket /etc/systemd/system/"): _SYSTEMD,
    ("deployment", "podman build -t s3proxy -f etc/container/Containerfile ."):
        "needs podman, and images from elsewhere",
    ("deployment", "cp etc/sysctl.d/60-s3proxy.conf /etc/sysctl.d/"): "changes this machine's kernel settings",
    ("development", "python -b -m twisted.trial test"): "runs this test",
    ("getting-started", "git clone <repository>"): "needs a repository",
    ("getting-started", "python3 -m venv /opt/s3proxy"): "installs from PyPI; test.test_packaging installs the package",
    ("getting-started", "aws route53 create-hosted-zone --name s3.us-west-2.amazonaws"): _AWS,
    ("getting-started", "aws route53 change-resource-record-sets --hosted-zone-id Z_P"): _AWS,
    ("getting-started", "dig +short s3.us-west-2.amazonaws.com @10.0.1.50"): "needs a Route 53 Resolver",
    ("getting-started", "mount-s3 --endpoint-url http://s3.us-east-1.amazonaws.com --"):
        "needs FUSE and Mountpoint; what its client library sends is among test/data/captures (s3torchconnector)",
    ("runbook", "systemctl status s3proxy"): _SYSTEMD,
    ("runbook", "journalctl -u s3proxy --grep 'Main process exited|Watchdog|w"): _SYSTEMD,
    ("runbook", 'pidstat -u -p "$(systemctl show -p MainPID --value s3proxy)"'): _SYSTEMD,
    ("runbook", "iostat -x 1 5"): _TOOLS,
    ("runbook", "smartctl -a /dev/DISK"): "needs a disk of one's own",
    ("runbook", "dmesg -T | grep -iE 'error|i/o|nfs' | tail"): "needs the right to read the kernel's log",
    ("runbook", 'journalctl -u s3proxy --grep "can\'t be written"'): _SYSTEMD,
    ("runbook", "openssl s_client -connect localhost:3129 </dev/null 2>/dev/n"):
        "needs the TLS listener with a certificate of yours",
    ("s3proxyctl", 's3proxyctl status --json > /dev/null || alert "s3proxy: exit'):
        "alert stands for a command of yours",
    ("sizing", "tox -e bench"): "takes an hour; test.bench tests its parts",
    ("testing", "sh test/run.sh"): "runs this test",
    ("testing", "sh test/run.sh test.util"): "installs from PyPI",
    ("testing", "sh etc/demo.sh --once"): "test.system.test_demo runs the demonstration",
    ("testing", "python -m sphinx -W -n -q -b html doc /tmp/s3proxy-html"): "needs Sphinx; .ci/run builds the pages",
}  # fmt: skip
"""Blocks that no test can run, and why."""


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of commands, and of Python."""
    for number, (language, text) in enumerate(FENCE.findall(page.read_text("utf-8")), 1):
        if language in ("sh", "bash", "shell", "python"):
            yield Block(page.stem, number, language, text)


@functools.cache
def machine() -> Machine:
    """For all blocks; ended when the test run ends."""
    found = Machine()
    atexit.register(found.stop)
    _make_environment(found)
    return found


def _make_environment(machine: Machine) -> None:
    """What ``etc/venv.sh`` would make, had it a network: it finds that there is nothing to do."""
    venv = machine.folder / ".venv"
    (venv / "bin").mkdir(parents=True)
    for name in ("python", "twistd"):
        (venv / "bin" / name).symlink_to(machine.tools / name)
    machine.output('echo "$PWD $(cksum < setup.cfg)" > .venv/installed-base')
    text = (CHECKOUT / "etc" / "s3proxy.example.yaml").read_text("utf-8")
    (machine.folder / "purging.yaml").write_text(text.replace("allow_purge: false", "allow_purge: true"), "utf-8")


_runs: "list[Place]" = []


def prepare(place: Place) -> Machine:
    """The machine, with what must run there."""
    found = machine()
    if _runs != [place]:
        found.stop_proxy()
        if place is Place.EXAMPLE:
            found.start_proxy(EXAMPLE.format("etc/s3proxy.example.yaml"))
        elif place is Place.PURGING:
            found.start_proxy(EXAMPLE.format("purging.yaml"))
        elif place is Place.QUICKSTART:
            found.start_proxy("sh etc/quickstart.sh")
        _runs[:] = [place]
    return found


def _path() -> str:
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}"


class TableTests(SynchronousTestCase):
    """The two tables."""

    def test_every_block(self) -> None:
        """Each block of commands is run by a test, or it is told why not; and there is nothing in the tables else."""
        found = {block.name for page in PAGES for block in blocks(page)}
        by_runbook = {block.name for block in blocks(CHECKOUT / "doc/runbook.md") if block.language == "sh"}
        self.assertEqual(found - set(PLACES) - set(CANNOT) - by_runbook, set())
        self.assertEqual((set(PLACES) | set(CANNOT)) - found, set())
        self.assertEqual(set(PLACES) & set(CANNOT), set())

    def test_every_fence_has_a_language(self) -> None:
        """No command hides in a block that does not say what it is, or is indented."""
        for page in PAGES:
            text = page.read_text("utf-8")
            for language, body in FENCE.findall(text):
                self.assertNotEqual(language, "", f"{page.name}: {body[:60]}")
            indented = re.findall(
                r"^\n    ((?:sh|aws|curl|export|python3?|tox|twistd|sudo|s3proxyctl) .*)$", text, re.M
            )
            self.assertEqual(indented, [], page.name)


class CommandTests(SynchronousTestCase):
    """One test for each block."""

    def run_block(self, block: Block, place: Place) -> None:
        """Type it."""
        if not can_have_namespaces():
            raise SkipTest("this system gives no namespaces to its users, or has no veth, ip or nsenter")
        for program in ("curl", "promtool", "rclone", "s5cmd"):
            if re.search(rf"\b{program}\b", block.text) and shutil.which(program, path=_path()) is None:
                raise SkipTest(f"{program} is not installed")
        if "pyarrow" in block.text and find_spec("pyarrow") is None:
            raise SkipTest("pyarrow is not installed")
        found = prepare(place)
        commands = block.text.replace("/opt/s3proxy/bin/", "")
        if place is Place.STARTS:
            found.start_proxy(commands.strip() if commands.startswith("s") else f"env {commands.strip()}")
            self.assertEqual(found.stop_proxy(), 0)
            return
        if block.language == "python":
            commands = f"python3 - <<'END'\n{block.text}END\n"
        done = found.run(commands)
        self.assertEqual(done.returncode, 0, f"{commands}\n{done.stdout}\n{found.log()[-1500:]}")
        self.assertNotIn("Traceback", found.log())
        if place is Place.PURGING:
            self.assertIn('"data"', done.stdout)


def _test_of(block: Block, place: Place) -> "Callable[[CommandTests], None]":
    def test(self: CommandTests) -> None:
        self.run_block(block, place)

    test.__doc__ = f"Where {place.value}: {block.name[1]}"
    return test


for _page in PAGES:
    for _block in blocks(_page):
        _place = PLACES.get(_block.name)
        if _place is not None:
            _name = re.sub(r"\W", "_", _block.page).lower()
            setattr(CommandTests, f"test_{_place.name.lower()}_{_name}_{_block.number:02}", _test_of(_block, _place))
