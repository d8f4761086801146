"""Wheel and source distribution are complete, and an installed S3 Proxy is known to twistd."""

import atexit
import configparser
import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

import s3proxy

CHECKOUT = Path(s3proxy.__file__).parents[1]
PLUGIN = "twisted/plugins/s3proxy_plugin.py"
BUILD = "import sys, setuptools.build_meta as backend; backend.build_{kind}(sys.argv[1])"
TWISTD = "import sys; sys.argv[0] = 'twistd'; from twisted.scripts.twistd import run; run()"
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".hypothesis", ".mypy_cache", ".tox", ".venv", "*.egg-info", "__pycache__", "_build", "_trial_temp*",
    "build", "dist", "dropin.cache", "tmp",
)


def run(*command: str, cwd: Path) -> str:
    """What the command prints.

    :raises AssertionError: it fails; with all it printed
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def build(tree: Path, kind: str, out: Path) -> Path:
    """Build a ``wheel`` or an ``sdist`` of a source tree with the setuptools of this environment."""
    out.mkdir()
    run(sys.executable, "-c", BUILD.format(kind=kind), str(out), cwd=tree)
    (built,) = out.iterdir()
    return built


def wheel_names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return sorted(archive.namelist())


class Distributions:
    """Wheel and source distribution, built in a copy of the checkout."""

    def __init__(self, folder: Path) -> None:
        tree = folder / "tree"
        shutil.copytree(CHECKOUT, tree, ignore=LEFT_OUT)
        self.wheel = build(tree, "wheel", folder / "wheel")
        self.sdist = build(tree, "sdist", folder / "sdist")
        with tarfile.open(self.sdist) as archive:
            archive.extractall(folder / "unpacked")
        (self.unpacked,) = (folder / "unpacked").iterdir()
        self.wheel_of_sdist = build(self.unpacked, "wheel", folder / "wheel-of-sdist")


@functools.cache
def distributions() -> Distributions:
    """Built once; removed when the test run ends."""
    folder = tempfile.mkdtemp(prefix="s3proxy-packaging-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Distributions(Path(folder))


class PackagingTests(SynchronousTestCase):
    """The environment that runs the tests provides setuptools, pip and the dependencies; nothing is downloaded."""

    def setUp(self) -> None:
        if not (CHECKOUT / "setup.cfg").exists():
            raise SkipTest("these tests need a checkout")
        missing = [name for name in ("pip", "setuptools", "wheel") if importlib.util.find_spec(name) is None]
        if missing:
            raise SkipTest(f"not installed: {', '.join(missing)}; the extra \"test\" has them")

    def test_every_requirement_has_a_lower_bound(self) -> None:
        """Without one, nobody knows with which versions the program was ever tried."""
        setup = configparser.ConfigParser(interpolation=None)
        setup.read(CHECKOUT / "setup.cfg")
        required = setup["options"]["install_requires"].split()
        self.assertEqual([each for each in required if not re.fullmatch(r"[a-z0-9-]+(\[[a-z]+\])?>=[0-9.]+", each)], [])

    def test_the_wheel_has_every_module(self) -> None:
        """A package that setup.cfg forgets would be missing only for those who install."""
        sources = {str(path.relative_to(CHECKOUT)) for path in (CHECKOUT / "s3proxy").rglob("*.py")}
        packed = {name for name in wheel_names(distributions().wheel) if name.endswith(".py")}
        self.assertEqual(packed, sources | {PLUGIN})

    def test_the_wheel_has_the_files_of_the_dashboard(self) -> None:
        """They are no modules: setup.cfg names them apart."""
        folder = CHECKOUT / "s3proxy" / "dashboard" / "static"
        files = {str(path.relative_to(CHECKOUT)) for path in folder.rglob("*") if path.is_file()}
        self.assertIn("s3proxy/dashboard/static/index.html", files)
        packed = {name for name in wheel_names(distributions().wheel) if "/static/" in name}
        self.assertEqual(packed, files)

    def test_the_wheel_does_not_hide_twisted(self) -> None:
        """An __init__.py in twisted/ would replace Twisted, one in twisted/plugins/ would hide the plugin."""
        ours = [name for name in wheel_names(distributions().wheel) if name.startswith("twisted/")]
        self.assertEqual(ours, [PLUGIN])
        self.assertEqual([str(path) for path in (CHECKOUT / "twisted").rglob("__init__.py")], [])

    def test_the_source_distribution_builds_the_same_wheel(self) -> None:
        """Nothing that the build needs is missing from it."""
        self.assertEqual(wheel_names(distributions().wheel_of_sdist), wheel_names(distributions().wheel))

    def test_the_source_distribution_has_what_a_checkout_has(self) -> None:
        """Configuration, documentation, tests and scripts travel with the sources."""
        wanted = ("CHANGELOG.md", "LICENSE", "README.md", "doc/index.md", "etc/quickstart.sh", "etc/quickstart.yaml",
                  "etc/s3proxy.example.yaml", "test/run.sh", "test/test_packaging.py", "tox.ini")
        self.assertEqual([name for name in wanted if not (distributions().unpacked / name).exists()], [])

    def test_twistd_finds_the_installed_plugin_and_uninstalling_takes_only_ours(self) -> None:
        """Installed into a fresh environment, ``twistd --help`` lists s3proxy from any directory."""
        folder = Path(tempfile.mkdtemp(prefix="s3proxy-installed-"))
        self.addCleanup(shutil.rmtree, folder)
        environment, elsewhere = folder / "venv", folder / "elsewhere"
        elsewhere.mkdir()
        run(sys.executable, "-m", "venv", "--without-pip", str(environment), cwd=folder)
        python = environment / "bin" / "python"
        where = run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder)
        site = Path(where.strip())
        foreign = site / "twisted" / "plugins" / "somebody_elses_plugin.py"
        foreign.parent.mkdir(parents=True)
        foreign.write_text("")
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python))
        run(*pip, "install", "--quiet", "--no-deps", "--no-index", str(distributions().wheel), cwd=elsewhere)
        self.assertTrue((site / PLUGIN).is_file())
        # The dependencies are those of this environment; pip must not see them. Path files in there are not read: of
        # S3 Proxy, only what is installed here is found.
        dependencies = site / "dependencies.pth"
        dependencies.write_text("".join(f"{path}\n" for path in sys.path if path.endswith("-packages")))
        where = run(str(python), "-c", "import s3proxy; print(s3proxy.__file__)", cwd=elsewhere)
        self.assertTrue(where.startswith(str(site)), where)
        self.assertRegex(run(str(python), "-c", TWISTD, "--help", cwd=elsewhere), r"(?m)^ +s3proxy +A transparent")
        usage = run(str(python), "-c", TWISTD, "s3proxy", "--help", cwd=elsewhere)
        self.assertIn("--config", usage)
        dependencies.unlink()
        run(*pip, "uninstall", "--quiet", "--yes", "s3proxy", cwd=elsewhere)
        self.assertFalse((site / "s3proxy").exists())
        self.assertEqual([path.name for path in foreign.parent.glob("*.py")], [foreign.name])
