"""Where answers go."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from test.control.fake_admin import Terminal

from twisted.trial.unittest import SynchronousTestCase

import s3proxy
from s3proxy.control.output import Output


class OutputTests(SynchronousTestCase):
    def test_json_is_alone(self) -> None:
        """For programs there is one document on standard output, ASCII, and nothing else anywhere."""
        out, err = io.StringIO(), io.StringIO()
        output = Output(out, err, as_json=True)
        output.say("a remark")
        output.show("status", {"name": "\u202eb\x1b"})
        self.assertEqual((json.loads(out.getvalue()), err.getvalue()), ({"name": "\u202eb\x1b"}, ""))
        self.assertTrue(out.getvalue().isascii())

    def test_errors(self) -> None:
        """Where people look for them, without anything that a terminal would obey."""
        out, err = io.StringIO(), io.StringIO()
        Output(out, err).fail("bad\x1b[31m\nworse", 1)
        self.assertEqual((out.getvalue(), err.getvalue()), ("", "s3proxyctl: bad\\x1b[31m\nworse\n"))

    def test_progress(self) -> None:
        """A bar is for who watches a terminal."""
        for err, shown in ((Terminal(), True), (io.StringIO(), False)):
            with Output(io.StringIO(), err).progress() as bar:
                bar.update("reading", 1, 10)
                bar.update("removing", 5, None)
            self.assertEqual(bool(err.getvalue()), shown)

    def test_rich_is_for_people(self) -> None:
        """Programs that want JSON don't pay for it, and neither does the proxy."""
        program = (
            "import sys, io\n"
            "from s3proxy.control.output import Output\n"
            "import s3proxy.control.main, s3proxy.tap\n"
            "output = Output(io.StringIO(), io.StringIO(), as_json=True)\n"
            "output.show('status', {})\n"
            "with output.progress() as bar: bar.update('x', 1, 2)\n"
            "sys.exit('rich' in sys.modules)"
        )
        environment = {**os.environ, "PYTHONPATH": str(Path(s3proxy.__file__).parents[1])}
        self.assertEqual(subprocess.run([sys.executable, "-c", program], env=environment).returncode, 0)
