"""What keeps the real command from starting is told in one clear line per problem, with exit code 1."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from test.config.test_wrong import rows
from test.support.proxy_process import ProxyProcess, clean_environment
from test.support.waiting import poll
from test.system.stage import HOST, Stage

_CHECKOUT = Path(__file__).resolve().parents[2]
_TWISTD = [sys.executable, "-c", "import sys; sys.argv[0] = 'twistd'; from twisted.scripts.twistd import run; run()"]

REAL_ROWS = (
    "top_level_list",
    "tab_for_indentation",
    "key_twice",
    "yes_is_text",
    "size_with_a_suffix",
    "compound_duration",
    "rule_1_high",
    "rule_37_metrics",
    "no_usable_resolver",
    "several_at_once",
)
"""Rows of the table of wrong configurations that the real command is run with; all are tested where they live."""


def twistd_command(*arguments: str, prefix: Sequence[str] = (), twistd: Sequence[str] = ()) -> list[str]:
    """``twistd -n s3proxy`` of this checkout with these arguments."""
    return [*prefix, *_TWISTD, "-n", "--pidfile=", *twistd, "s3proxy", *arguments]


def environment() -> dict[str, str]:
    """What it runs in."""
    return {**clean_environment(), "PYTHONPATH": str(_CHECKOUT)}


def without_capabilities(*names: str) -> list[str]:
    """A prefix that takes these away from root; nobody else has them anyhow."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        raise SkipTest("root is allowed everything, and setpriv is not there to change that")
    return ["setpriv", "--bounding-set", ",".join(f"-{name}" for name in names)]


class CommandTestCase(SynchronousTestCase):
    """Runs the command to its end."""

    def setUp(self) -> None:
        """A folder of this test, and a configuration that can be used."""
        temporary = tempfile.TemporaryDirectory(prefix="s3proxy-")
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)
        self.config = self.folder / "s3proxy.yaml"

    def run_command(self, *arguments: str, prefix: Sequence[str] = ()) -> "subprocess.CompletedProcess[str]":
        """Run it. It has to end by itself."""
        return subprocess.run(
            twistd_command(*arguments, prefix=prefix),
            cwd=self.folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
        )

    def write(self, changes: dict[str, Any]) -> None:
        """Write a configuration that can be used but for these changes."""
        proxy = ProxyProcess(changes, folder=self.folder)
        self.config.write_text(yaml.safe_dump(proxy.config))

    def problem(self, *arguments: str, prefix: Sequence[str] = ()) -> str:
        """The one line that the command ends with."""
        done = self.run_command("--config", str(self.config), *arguments, prefix=prefix)
        self.assertNotIn("Traceback", done.stdout + done.stderr)
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        lines = done.stderr.splitlines()
        self.assertEqual(len(lines), 1, done.stderr)
        return lines[0]


class FileTests(CommandTestCase):
    """The configuration file is wrong. One method per row of REAL_ROWS, and these."""

    def test_enough_rows(self) -> None:
        """The table has a row for every rule, and its rows are all of this form: a line number, a key, what is
        wrong.
        """
        table = rows()
        self.assertGreaterEqual(len(table), 40)
        for name, (_, problems) in table.items():
            for problem in problems:
                self.assertRegex(problem, r"^\d+: \S", name)

    def test_missing_file(self) -> None:
        """A file that is not there is named."""
        self.assertIn(f"{self.config}: ", self.problem())

    def test_folder(self) -> None:
        """So is a folder in the place of the file."""
        self.config.mkdir()
        self.assertIn(f"{self.config}: ", self.problem())

    def test_unreadable_file(self) -> None:
        """And a file that this user may not read."""
        self.config.write_text("{}")
        self.config.chmod(0)
        prefix = without_capabilities("dac_override", "dac_read_search")
        line = self.problem(prefix=prefix)
        self.assertIn(f"{self.config}: ", line)
        self.assertIn("ermission denied", line)

    def test_not_text(self) -> None:
        """And one that is no text at all."""
        self.config.write_bytes(bytes(range(256)) * 10)
        self.assertIn(f"{self.config}:", self.problem())

    def test_check_refuses(self) -> None:
        """--check says the same."""
        self.config.write_text("server:\n  http_port: 70000\n")
        self.assertIn(f"{self.config}:2: server.http_port", self.problem("--check"))

    def test_check_accepts(self) -> None:
        """--check of a good file says so, ends with exit code 0, and has touched nothing."""
        self.write({})
        done = self.run_command("--config", str(self.config), "--check")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("can be used", done.stdout.splitlines()[-1])
        self.assertEqual(done.stderr, "")
        self.assertEqual([path.name for path in self.folder.iterdir()], [self.config.name])

    def test_unknown_key_is_a_warning(self) -> None:
        """A key that does not exist is no reason not to start; the nearest one is named."""
        self.config.write_text("server:\n  http_prot: 8080\n")
        done = self.run_command("--config", str(self.config), "--check")
        self.assertEqual(done.returncode, 0)
        self.assertIn("http_prot", done.stdout)
        self.assertIn("http_port", done.stdout)

    def test_wrong_environment(self) -> None:
        """A variable that can't be read is a warning: other programs may use its name, too."""
        self.write({})
        done = self.run_command("--config", str(self.config), "--check", prefix=["env", "HTTP_PORT=eighty"])
        self.assertEqual(done.returncode, 0)
        self.assertRegex(done.stdout, r"(?m)^warn: .*HTTP_PORT.*eighty")


def _row(text: str, expected: list[str]) -> Callable[[FileTests], None]:
    def test(self: FileTests) -> None:
        self.config.write_text(text, "utf-8")
        done = self.run_command("--config", str(self.config))
        self.assertEqual(done.stderr.splitlines(), [f"{self.config}:{line}" for line in expected])
        self.assertEqual((done.returncode, done.stdout), (1, ""))

    return test


for _name in REAL_ROWS:
    _test = _row(*rows()[_name])
    _test.__name__ = f"test_row_{_name}"
    _test.__doc__ = f"{_name.replace('_', ' ')}: the lines of the table on standard error, nothing else, exit code 1."
    setattr(FileTests, _test.__name__, _test)


class UsageTests(CommandTestCase):
    """The command line is wrong: the usage is shown, with what is wrong as its last line."""

    def usage_error(self, *arguments: str) -> str:
        """The last line."""
        done = self.run_command(*arguments)
        text = done.stdout + done.stderr
        self.assertGreater(done.returncode, 0)
        self.assertNotIn("Traceback", text)
        self.assertIn("Usage: twistd", text)
        self.assertIn("--config", text)
        return text.rstrip().splitlines()[-1]

    def test_unknown_option(self) -> None:
        """An option that does not exist."""
        self.assertIn("--no-such-option", self.usage_error("--no-such-option"))

    def test_wrong_value(self) -> None:
        """A value that can't be read names the option, the value, and what is allowed."""
        self.assertRegex(self.usage_error("--http-port", "eighty"), r'--http-port.*"eighty".*allowed')

    def test_superfluous_argument(self) -> None:
        """An argument where none is expected."""
        self.assertIn('"start"', self.usage_error("start"))


class MachineTests(CommandTestCase):
    """The configuration is fine, but the machine does not go along."""

    def test_busy_port(self) -> None:
        """A port that is taken names the key, the port, and what to do."""
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            self.write({"server": {"http_port": port}})
            line = self.problem()
        self.assertIn(f"server.http_port: can't listen on 127.0.0.1 port {port}", line)
        self.assertIn("another program listens there", line)

    def test_foreign_address(self) -> None:
        """An address that this machine does not have."""
        self.write({"server": {"bind_addresses": ["192.0.2.1"]}})
        self.assertIn("the machine has no such address", self.problem())

    def test_privileged_port(self) -> None:
        """A port below 1024 without the right to it."""
        if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 1000:
            raise SkipTest("on this machine everybody may use ports below 1024")
        prefix = without_capabilities("net_bind_service")
        self.write({"server": {"http_port": 1000}})
        line = self.problem(prefix=prefix)
        self.assertIn("server.http_port: can't listen on 127.0.0.1 port 1000: Permission denied", line)
        self.assertIn("CAP_NET_BIND_SERVICE", line)

    def test_cache_below_a_file(self) -> None:
        """A cache directory that can't be made."""
        (self.folder / "file").write_text("")
        self.write({"cache": {"cache_dir": str(self.folder / "file" / "cache")}})
        line = self.problem()
        self.assertIn("cache.cache_dir: ", line)
        self.assertIn(f"{self.folder / 'file'} is a file", line)

    def test_unwritable_directories(self) -> None:
        """Directories that this user may not write to, each by its key, with the command that helps."""
        prefix = without_capabilities("dac_override", "dac_read_search", "fowner")
        closed = self.folder / "closed"
        closed.mkdir(mode=0o555)
        self.addCleanup(closed.chmod, 0o755)
        for section, key in (("cache", "cache_dir"), ("logging", "access_log_dir"), ("logging", "app_log_dir")):
            self.write({section: {key: str(closed)}})
            line = self.problem(prefix=prefix)
            self.assertIn(f"{section}.{key}: {closed} can't be used: Permission denied", line)
            self.assertIn(f"mkdir -p {closed}", line)

    def test_format_of_another_version(self) -> None:
        """A cache directory that another version wrote is left as it is."""
        cache = self.folder / "cache"
        cache.mkdir()
        (cache / "FORMAT").write_text("s3px 99 whatever\n")
        (cache / "precious").write_text("data")
        self.write({})
        line = self.problem()
        self.assertIn(f"{cache}", line)
        self.assertIn("another version", line)
        self.assertEqual((cache / "precious").read_text(), "data")

    def test_foreign_data(self) -> None:
        """So is one with cached data whose FORMAT is gone."""
        (self.folder / "cache" / "o").mkdir(parents=True)
        self.write({})
        self.assertIn("FORMAT", self.problem())

    def test_missing_certificate(self) -> None:
        """A certificate that is not there."""
        missing = str(self.folder / "missing.pem")
        self.write({"server": {"tls": {"enabled": True, "cert_path": missing, "key_path": missing}}})
        done = self.run_command("--config", str(self.config))
        self.assertEqual(done.returncode, 1)
        self.assertNotIn("Traceback", done.stderr)
        self.assertIn("server.tls.cert_path", done.stderr)
        self.assertIn(missing, done.stderr)


class StartTests(SynchronousTestCase):
    """What looks wrong and is none of it."""

    def test_busy_side_port(self) -> None:
        """Health and metrics are not worth an outage: with the metrics port taken the proxy serves, and says so."""
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            stage = Stage({"metrics": {"port": other.getsockname()[1]}})
            self.addCleanup(stage.stop)
            stage.put(b"key", 1, 1000)
            self.assertTrue(stage.read(b"key", 1, 1000).exact)
            document = stage.proxy.health()
            self.assertEqual(document["status"], "degraded")
            listeners = next(part for part in document["components"] if part["name"] == "listeners")
            self.assertIn("metrics.port: can't listen", listeners["message"])

    def test_privileges_are_given_up(self) -> None:
        """Started by root with --uid and --gid, the proxy binds a port below 1024, works as that user, and owns its
        files.
        """
        if os.geteuid() != 0:
            raise SkipTest("needs root")
        user = 65534
        become = f"import os; os.setgroups([]); os.setgid({user}); os.setuid({user}); import encodings.ascii, twisted"
        command = [sys.executable, "-c", become]
        if subprocess.run(command, env=environment(), capture_output=True, timeout=20).returncode:
            raise SkipTest(f"user {user} may not read this Python's files")
        stage = Stage(start=False)
        self.addCleanup(stage.stop)
        proxy = stage.proxy
        port = next(number for number in range(700, 1000) if _is_free(number))
        os.chmod(proxy.folder, 0o777)
        authority = proxy.folder / "ca.pem"
        authority.write_bytes((stage.fake.ca_file or Path()).read_bytes())
        authority.chmod(0o644)
        override = {"scheme": "https", "ca_file": str(authority)}
        proxy.configure(
            {
                "server": {"http_port": port},
                "connection_pool": {"upstream_overrides": {f"{HOST.decode()}:80": override}},
            }
        )
        proxy.config_file.write_text(yaml.safe_dump(proxy.config))
        with (proxy.folder / "output-0.txt").open("wb") as output:
            process = subprocess.Popen(
                twistd_command("--config", str(proxy.config_file), twistd=["--uid", str(user), "--gid", str(user)]),
                cwd=proxy.folder, env=environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)

        def ready() -> bool:
            self.assertIsNone(process.poll(), proxy.output())
            try:
                return bool(proxy.health()["ready"])
            except OSError:
                return False

        poll(ready, 20, "the proxy to be ready")
        status = Path(f"/proc/{process.pid}/status").read_text()
        self.assertEqual(re.findall(r"^[UG]id:\t(.*)$", status, re.MULTILINE), ["\t".join([str(user)] * 4)] * 2)
        stage.put(b"key", 1, 100_000)
        self.assertTrue(stage.read(b"key", 1, 100_000).exact)
        poll(lambda: stage.read(b"key", 1, 100_000).x_cache == b"HIT", 5, "a hit")
        for name in ("cache", "logs"):
            for path in [proxy.folder / name, *(proxy.folder / name).rglob("*")]:
                self.assertEqual(path.lstat().st_uid, user, path)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(10), 0)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
