"""Every command of the runbook that needs nothing but the proxy is run against one that works."""

import atexit
import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from test.support.proxy_process import clean_environment
from test.system.stage import Stage

ROOT = Path(__file__).resolve().parents[2]
RUNBOOK = ROOT / "doc" / "runbook.md"


def blocks() -> "dict[str, str]":
    """The commands of each section."""
    text = RUNBOOK.read_text("utf-8") if RUNBOOK.exists() else ""
    sections = re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    return {name: "".join(re.findall(r"^```sh\n(.*?)^```", body, re.M | re.S)) for name, body in sections}


@functools.cache
def started() -> Stage:
    """A proxy for all sections, which was asked for something."""
    stage = Stage()
    atexit.register(stage.stop)
    stage.put(b"small", 1, 1000)
    for _ in range(3):
        stage.ask(b"GET", b"small")
    stage.ask(b"GET", b"missing")
    tools = stage.proxy.folder / "tools"
    tools.mkdir()
    tool = tools / "s3proxyctl"
    tool.write_text(f"#!{sys.executable}\nfrom s3proxy.control.main import main\nmain()\n")
    tool.chmod(0o755)
    return stage


class RunbookTests(SynchronousTestCase):
    """One test for each section."""

    def run_commands(self, commands: str) -> None:
        """Run them as one script, which ends with the first one that fails."""
        if shutil.which("curl") is None:
            raise SkipTest("curl is not installed")
        proxy = started().proxy
        commands = commands.replace("localhost:8080", f"localhost:{proxy.config['health']['port']}")
        done = subprocess.run(
            ["sh", "-eu", "-c", commands],
            cwd=proxy.folder,
            env={
                **clean_environment(),
                "PATH": f"{proxy.folder / 'tools'}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                "LOGS": str(proxy.folder / "logs"),
                "S3PROXY_CONFIG": str(proxy.config_file),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        self.assertEqual(done.returncode, 0, f"{commands}\n{done.stdout}")
        self.assertNotIn("not found", done.stdout)
        self.assertTrue(done.stdout.strip(), f"{commands} prints nothing")


def _test_of(commands: str) -> "Callable[[RunbookTests], None]":
    def test(self: RunbookTests) -> None:
        self.run_commands(commands)

    test.__doc__ = "Its commands run, and print something."
    return test


for _name, _commands in blocks().items():
    setattr(RunbookTests, f"test_{_name}", _test_of(_commands))
