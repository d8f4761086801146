"""``s3proxyctl`` as it is installed, against a real proxy."""

import atexit
import functools
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from test.support.content import content
from test.support.fake_script import Action, Match
from test.support.proxy_process import clean_environment
from test.support.sigv4 import presign
from test.support.waiting import poll
from test.system.stage import HOST, Stage
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

import s3proxy

CHECKOUT = Path(s3proxy.__file__).parents[1]
PROGRAM = "from s3proxy.control.main import main; main()"
SIZE = 50_000
COMMANDS = (
    ("status",), ("top",), ("stats",), ("ls",), ("inspect",), ("purge",), ("verify",), ("warm",), ("rules", "check"),
    ("rules", "explain"), ("config", "check"), ("drain",), ("roll",),
)  # fmt: skip


class Ended:
    """A command that has ended."""

    def __init__(self, done: "subprocess.CompletedProcess[str]") -> None:
        self.code = done.returncode
        self.text = done.stdout
        self.errors = done.stderr

    @property
    def document(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.text)


def s3proxyctl(*words: str, stdin: str = "", environ: dict[str, str] | None = None) -> Ended:
    """Run it in a process of its own, without a terminal."""
    return Ended(
        subprocess.run(
            [sys.executable, "-c", PROGRAM, *words], input=stdin, capture_output=True, text=True, timeout=60,
            env={**clean_environment(), "PYTHONPATH": str(CHECKOUT), **(environ or {})},
        )
    )  # fmt: skip


@functools.cache
def started() -> Stage:
    """A proxy for all tests but those that end it."""
    stage = Stage({"cache": {"get_ttl": "1h"}})
    atexit.register(stage.stop)
    return stage


class ControlCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.stage = started()

    @property
    def socket(self) -> str:
        found: str = self.stage.proxy.config["admin"]["socket"]
        return found

    def run_(self, *words: str, **more: Any) -> Ended:
        return s3proxyctl("--socket", self.socket, *words, **more)

    def read(self, key: bytes, *, put: bool = False, seed: int = 1) -> bytes:
        """Read it through the proxy; gives back where it came from."""
        if put:
            # With an ETag that is an MD5.
            self.stage.fake.put_object(self.stage.bucket, key, content(seed, 0, SIZE))
        reading = self.stage.read(key, seed, SIZE)
        self.assertTrue(reading.exact)
        return reading.x_cache

    def name(self, key: str) -> str:
        return f"{self.stage.bucket}/{key}"

    def url(self, key: str, expires: int = 900) -> str:
        """A presigned URL, as whoever has credentials makes it."""
        target = presign(
            b"GET", f"/{self.stage.bucket}/{key}".encode(), HOST, self.stage.fake.credential, when=time.time(),
            expires=expires,
        )  # fmt: skip
        return f"https://{HOST.decode()}{target.decode()}"


class SocketTests(ControlCase):
    def test_permissions(self) -> None:
        """Only the proxy's user and root can connect."""
        status = os.lstat(self.socket)
        self.assertTrue(stat.S_ISSOCK(status.st_mode))
        self.assertEqual(stat.S_IMODE(status.st_mode), 0o600)

    def test_ways_to_find_it(self) -> None:
        """By its path, by the configuration, by the environment."""
        config = str(self.stage.proxy.config_file)
        self.assertEqual(s3proxyctl("status", "--socket", self.socket).code, 0)
        self.assertEqual(s3proxyctl("status", "--config", config).code, 0)
        self.assertEqual(s3proxyctl("status", environ={"S3PROXY_SOCKET": self.socket}).code, 0)
        self.assertEqual(s3proxyctl("status", environ={"S3PROXY_CONFIG": config}).code, 0)

    def test_nobody_there(self) -> None:
        """Exit code 3, and why; for programs as a document."""
        done = s3proxyctl("status", "--socket", "/nonexistent/x.sock")
        self.assertEqual((done.code, done.text), (3, ""))
        self.assertIn("the proxy does not run", done.errors)
        done = s3proxyctl("status", "--json", "--socket", "/nonexistent/x.sock")
        self.assertEqual((done.code, done.document["code"], done.errors), (3, 3, ""))

    def test_another_user(self) -> None:
        """Who may not connect is told so."""
        if os.geteuid() != 0:
            raise SkipTest("only root can become somebody else")
        folder = Path(self.socket).parent
        mode = folder.stat().st_mode
        folder.chmod(0o755)
        self.addCleanup(folder.chmod, mode)
        program = "import os, socket, sys; os.setuid(65534); socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
        done = subprocess.run([sys.executable, "-c", program, self.socket], capture_output=True, text=True)
        self.assertIn("PermissionError", done.stderr)


class EveryCommandTests(ControlCase):
    def test_tables_and_documents(self) -> None:
        """Each command runs; with --json what it prints is one document."""
        self.read(b"every/one", put=True)
        name, config = self.name("every/one"), str(self.stage.proxy.config_file)
        commands = [
            ["status"], ["top"], ["stats"], ["stats", "s3proxy_cache_*"], ["ls"], ["ls", self.name("")],
            ["ls", "-r", self.name("every/")], ["inspect", name], ["purge", name, "--dry-run"],
            ["purge", "--prefix", self.name("every/"), "-n"], ["verify", name],
            ["verify", "--glob", self.name("every/*")],
            ["rules", "check", "--config", config], ["rules", "explain", name],
            ["rules", "explain", name, "--config", config], ["config", "check", config],
        ]  # fmt: skip
        for words in commands:
            with self.subTest(words=words):
                done = self.run_(*words)
                self.assertEqual((done.code, done.errors), (0, ""))
                self.assertTrue(done.text.strip())
                done = self.run_(*words, "--json")
                self.assertEqual((done.code, done.errors), (0, ""))
                self.assertTrue(done.document)
        self.assertEqual(self.stage.tracebacks(), [])

    def test_interrupted(self) -> None:
        """Ctrl-C ends what would go on, without a traceback; and who reads only the beginning gets that."""
        for words, code in ((["top", "--times", "1000"], 0), (["warm", "-"], 130)):
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, "--socket", self.socket, "--json", *words], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                env={**clean_environment(), "PYTHONPATH": str(CHECKOUT)},
            )  # fmt: skip
            assert process.stdin is not None and process.stdout is not None
            if words[0] == "warm":
                self.stage.put(b"interrupted", 1, SIZE)
                held = self.stage.fake.script(Match(key=b"interrupted"), Action(hold=True))
                process.stdin.write(self.url("interrupted"))
                process.stdin.close()
                process.stdin = None
                poll(lambda: held.held == 1, 20, "S3 to be asked")
            else:
                self.assertEqual(process.stdout.readline(), "{\n")
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=20)
            self.assertEqual((process.returncode, errors), (code, ""), words)
        self.stage.fake.behave()
        piped = f"{sys.executable} -c '{PROGRAM}' --socket {self.socket} stats | head -n 1; echo ${{PIPESTATUS[0]}}"
        done = subprocess.run(
            ["bash", "-c", piped], capture_output=True, text=True,
            env={**clean_environment(), "PYTHONPATH": str(CHECKOUT)},
        )  # fmt: skip
        self.assertEqual((done.stdout.splitlines()[-1], done.stderr), ("0", ""))

    def test_bad_news(self) -> None:
        """Exit code 1 is for programs to act upon."""
        for words in (["inspect", self.name("never/read")], ["stats", "no_such_metric"], ["rules", "check", "/none"]):
            self.assertEqual(self.run_(*words).code, 1, words)

    def test_usage(self) -> None:
        """Exit code 2 when it makes no sense, here or to the proxy."""
        for words in (["nonsense"], ["purge"], ["purge", "--prefix", "no-slash"], ["inspect", "bucket-only"]):
            self.assertEqual(self.run_(*words).code, 2, words)

    def test_names(self) -> None:
        """An object by any of its names; whatever characters its key has."""
        key = "names/ü %2B+\x1b[31m"
        raw = "names/%C3%BC%20%252B%2B%1B%5B31m"
        self.stage.put(key.encode(), 1, SIZE)
        self.assertTrue(self.stage.read(raw.encode(), 1, SIZE).exact)
        host = HOST.decode()
        for name in (self.name(key), f"s3://{self.name(key)}", f"https://{host}/{self.stage.bucket}/{raw}"):
            done = self.run_("inspect", name, "--json")
            self.assertEqual((done.code, done.document["key"]), (0, key), name)
        self.assertNotIn("\x1b", self.run_("ls", "-r", self.name("names/")).text)


class CacheTests(ControlCase):
    def test_ls(self) -> None:
        """What was read is there at once, by folder or flat."""
        for key in (b"ls/x/1", b"ls/x/2", b"ls/3"):
            self.read(key, put=True)
        found = self.run_("ls", self.name("ls/"), "--json").document
        self.assertEqual([row["key"] for row in found["objects"]], ["ls/3"])
        self.assertEqual([(each["folder"], each["objects"]) for each in found["folders"]], [("x/", 2)])
        flat = self.run_("ls", "-r", self.name("ls/"), "--json").document
        self.assertEqual((len(flat["objects"]), flat["total"], flat["size"]), (3, 3, 3 * SIZE))
        self.assertIn(self.name("ls/x/2"), self.run_("ls", "-r", self.name("ls/")).text)

    def test_purge(self) -> None:
        """The next read of what was removed is a miss, that of others is a hit."""
        for key in (b"purge/1", b"purge/2", b"purge/x/3", b"purge/x/4.tmp", b"purge/x/5.tmp"):
            self.read(key, put=True)
            self.assertEqual(self.read(key), b"HIT")
        self.assertEqual(self.run_("purge", self.name("purge/1"), "--json").document["purged"], 1)
        self.assertEqual((self.read(b"purge/1"), self.read(b"purge/2")), (b"MISS", b"HIT"))
        glob = ("--glob", self.name("purge/*.tmp"))
        self.assertEqual(self.run_("purge", *glob, "--dry-run", "--json").document["objects"], 2)
        self.assertEqual(self.read(b"purge/x/4.tmp"), b"HIT")
        self.assertEqual(self.run_("purge", *glob, "--json").document["purged"], 2)
        self.assertEqual((self.read(b"purge/x/4.tmp"), self.read(b"purge/x/3")), (b"MISS", b"HIT"))
        self.assertEqual(self.run_("purge", "--prefix", self.name("purge/"), "--json").document["purged"], 4)
        self.assertEqual((self.read(b"purge/2"), self.read(b"purge/x/3")), (b"MISS", b"MISS"))
        self.assertIn("s3proxyctl (", self.stage.proxy.app_log())

    def test_verify(self) -> None:
        """A bit that fell over on the disk is found, named and, on demand, removed."""
        self.read(b"verify/good", put=True, seed=3)
        self.read(b"verify/bad", put=True, seed=4)
        poll(
            lambda: self.run_("verify", "--prefix", self.name("verify/"), "--json").document["objects"] == 2, 10, "both"
        )
        self.damage(b"verify/bad")
        done = self.run_("verify", "--prefix", self.name("verify/"), "--json")
        self.assertEqual((done.code, done.document["bad"], done.document["sound"]), (1, 1, 1))
        self.assertEqual([each["name"] for each in done.document["found"]], [self.name("verify/bad")])
        done = self.run_("verify", self.name("verify/bad"), "--repair")
        self.assertEqual(done.code, 1)
        self.assertIn("corrupt", done.text)
        self.assertEqual(self.read(b"verify/bad", seed=4), b"MISS")
        self.assertEqual(self.read(b"verify/good", seed=3), b"HIT")
        self.assertEqual(self.run_("verify", "--prefix", self.name("verify/")).code, 0)

    def damage(self, key: bytes) -> None:
        """Turn one bit of the stored body of an object."""
        marker = self.stage.bucket.encode() + b'","key":"' + key + b'"'
        for path in (self.stage.proxy.cache_dir / "o").rglob("*"):
            if path.is_file() and marker in path.read_bytes()[:4096]:
                with path.open("r+b") as file:
                    file.seek(-1000, os.SEEK_END)
                    byte = file.read(1)
                    file.seek(-1000, os.SEEK_END)
                    file.write(bytes([byte[0] ^ 1]))
                return
        raise AssertionError("the object is not on disk")

    def test_warm(self) -> None:
        """What is read by its presigned URL is a hit for the next client."""
        keys = [f"warm/{number}" for number in range(12)]
        for number, key in enumerate(keys):
            self.stage.put(key.encode(), number, SIZE)
        lines = "# objects\n\n" + "\n".join(self.url(key) for key in keys)
        done = self.run_("warm", "-", "--parallel", "4", "--json", stdin=lines)
        self.assertEqual((done.code, done.document["read"], done.document["bytes"]), (0, 12, 12 * SIZE))
        self.assertEqual(done.document["outcomes"], {"MISS": 12})
        self.assertNotIn("Signature=" + self.url(keys[0])[-64:], done.text)
        for number, key in enumerate(keys):
            self.assertEqual(self.read(key.encode(), seed=number), b"HIT", key)
        again = self.run_("warm", "-", stdin=lines)
        self.assertIn("12 object(s) read", again.text)
        self.assertIn("12 HIT", again.text)

    def test_warm_what_may_not_be_read(self) -> None:
        """S3 decides; the others of the list are read nevertheless."""
        self.stage.put(b"warm/good", 1, SIZE)
        self.stage.put(b"warm/forged", 1, SIZE)
        forged = self.url("warm/forged")[:-4] + "0000"
        done = self.run_("warm", "-", "--json", stdin=f"{forged}\n{self.url('warm/good')}\n{self.url('warm/none')}\n")
        self.assertEqual((done.code, done.document["read"], done.document["failed"]), (1, 1, 2))
        errors = [(each["line"], each["status"], each["error"].partition(":")[0]) for each in done.document["urls"]]
        self.assertEqual(errors[0], (1, 403, "SignatureDoesNotMatch"))
        self.assertEqual(errors[2], (3, 404, "NoSuchKey"))

    def test_rules(self) -> None:
        """The rules that the running proxy has, and those of a file that it has not."""
        done = self.run_("rules", "explain", self.name("x"), "--json")
        ttl = next(each for each in done.document["settings"] if each["name"] == "get_ttl")
        self.assertEqual((ttl["value"], ttl["rule"]), (3600.0, None))
        path = Path(self.mktemp())
        path.write_text(json.dumps({"rules": [{"pattern": "*/x", "get_ttl": "7s"}]}))
        done = self.run_("rules", "explain", self.name("x"), "--rules", str(path))
        self.assertIn("7s", done.text)
        self.assertIn("rule 1, */x", done.text)


class EndTests(SynchronousTestCase):
    def test_drain(self) -> None:
        """The proxy is not ready at once, serves on for the delay, and then ends by itself."""
        stage = Stage()
        self.addCleanup(stage.stop)
        stage.put(b"k", 1, SIZE)
        socket = stage.proxy.config["admin"]["socket"]
        done = s3proxyctl("--socket", socket, "drain", "--delay", "4s", "--json")
        self.assertEqual((done.code, done.document["delay"]), (0, 4.0))
        self.assertEqual(s3proxyctl("--socket", socket, "status").code, 1)
        self.assertTrue(stage.proxy.health()["draining"])
        self.assertTrue(stage.read(b"k", 1, SIZE).exact)
        waited = s3proxyctl("--socket", socket, "drain", "--delay", "4s", "--wait")
        self.assertEqual((waited.code, waited.text.strip()), (0, "The proxy has ended."))
        self.assertEqual(stage.proxy.wait(10), 0)
        self.assertFalse(os.path.lexists(socket))
        self.assertEqual(s3proxyctl("--socket", socket, "status").code, 3)
        self.assertEqual(stage.tracebacks(), [])

    def test_switched_off(self) -> None:
        """A proxy without a socket has none, and the configuration says so."""
        stage = Stage({"admin": {"enabled": False}})
        self.addCleanup(stage.stop)
        self.assertFalse(os.path.lexists(stage.proxy.folder / "admin.sock"))
        done = s3proxyctl("status", "--config", str(stage.proxy.config_file))
        self.assertEqual((done.code, "admin.enabled" in done.errors), (2, True))

    def test_without_the_dashboard(self) -> None:
        """The one does not need the other."""
        stage = Stage({"dashboard": {"enabled": False}})
        self.addCleanup(stage.stop)
        stage.put(b"k", 1, SIZE)
        self.assertTrue(stage.read(b"k", 1, SIZE).exact)
        done = s3proxyctl("--socket", stage.proxy.config["admin"]["socket"], "ls", "--json")
        self.assertEqual((done.code, done.document["total"]), (0, 1))


class RollTests(SynchronousTestCase):
    def stage(self, config: "dict[str, Any]") -> Stage:
        stage = Stage(config)
        self.addCleanup(stage.stop)
        return stage

    def roll(self, stage: Stage, *words: str) -> Ended:
        return s3proxyctl("--socket", stage.proxy.config["admin"]["socket"], "roll", *words)

    def test_workers(self) -> None:
        """Every worker is a new process afterwards; a download that was under way comes to its end."""
        stage = self.stage({"server": {"workers": 2}})
        stage.put(b"k", 1, SIZE)
        script = stage.fake.script(Match(key=b"k"), Action(stall_after=SIZE // 2))
        client = stage.connect()
        self.addCleanup(client.close)
        client.send(stage.request(b"GET", b"k"))
        client.read_head()
        client.read_exactly(SIZE // 2)
        done = self.roll(stage, "--json")
        self.assertEqual((done.code, done.document["done"], done.document["skipped"]), (0, 2, []))
        self.assertEqual([each["number"] for each in done.document["workers"]], [1, 2])
        self.assertGreaterEqual(done.document["leaving"], 1)
        found = next(part for part in stage.proxy.health()["components"] if part["name"] == "workers")
        serving = {each["pid"] for each in found["data"]["workers"] if each["state"] == "serving"}
        self.assertEqual(serving, {each["pid"] for each in done.document["workers"]})
        script.release()
        self.assertEqual(client.read_exactly(SIZE // 2), content(1, SIZE // 2, SIZE))
        self.assertIn("2 of 2 worker(s) replaced", self.roll(stage).text)
        self.assertEqual(stage.tracebacks(), [])

    def test_successor_fails(self) -> None:
        """Exit code 1 when a new worker can't serve, and why; the old ones go on, and can be replaced later."""
        stage = self.stage({"server": {"workers": 2}})
        logs = stage.proxy.folder / "logs" / "access"
        aside = logs.with_name("aside")
        logs.rename(aside)
        logs.write_text("no directory")
        done = self.roll(stage)
        self.assertEqual((done.code, done.text), (1, ""))
        self.assertIn("Not all workers are replaced: worker 1 ended with exit code 1.", done.errors)
        self.assertIn("as before: 1, 2.", done.errors)
        logs.unlink()
        aside.rename(logs)
        stage.put(b"k", 1, SIZE)
        self.assertTrue(stage.read(b"k", 1, SIZE).exact)
        self.assertEqual(self.roll(stage).code, 0)

    def test_one_process(self) -> None:
        """Exit code 1, and what to do instead; the signal for it does no harm."""
        stage = self.stage({})
        done = self.roll(stage)
        self.assertEqual((done.code, done.text), (1, ""))
        self.assertIn("server.workers is 1", done.errors)
        self.assertEqual(self.roll(stage, "--json").document["code"], 1)
        stage.proxy.signal(signal.SIGUSR2)
        poll(lambda: "there are none: server.workers is 1" in stage.proxy.app_log(), 10, "the remark")
        self.assertTrue(stage.proxy.running)


class HelpTests(SynchronousTestCase):
    def test_documented(self) -> None:
        """The manual has every command, every option and every exit code that the help has."""
        text = (CHECKOUT / "doc" / "s3proxyctl.md").read_text("utf-8")
        for words in ((), *COMMANDS):
            helped = self.help(*words)
            options = set(re.findall(r"--[a-z-]+", helped)) - {"--help"}
            self.assertEqual([option for option in options if option not in text], [], words)
            self.assertIn(" ".join(("s3proxyctl", *words)), text)
        codes = re.findall(r"(?m)^  (\d+) {2,}", self.help())
        self.assertEqual([code for code in codes if f"| {code} |" not in text], [])
        self.assertEqual(len(codes), 5)

    def help(self, *words: str) -> str:
        done = s3proxyctl(*words, "--help")
        self.assertEqual(done.code, 0)
        return done.text


class WorkersTests(SynchronousTestCase):
    def test_one_proxy(self) -> None:
        """Several processes are asked as one: totals are of all, and what is removed is removed for all."""
        stage = Stage({"server": {"workers": 2}})
        self.addCleanup(stage.stop)
        socket = stage.proxy.config["admin"]["socket"]
        stage.fake.put_object(stage.bucket, b"k", content(1, 0, SIZE))
        for _ in range(12):
            self.assertTrue(stage.read(b"k", 1, SIZE).exact)
        for _ in range(3):
            self.assertEqual(
                s3proxyctl("--socket", socket, "purge", f"{stage.bucket}/k", "--json").document["purged"], 1
            )
            # Each connection may be that of another process.
            found = [stage.read(b"k", 1, SIZE).x_cache for _ in range(8)]
            self.assertEqual((found[0], set(found[1:])), (b"MISS", {b"HIT"}))
        total = poll_total(socket, 36)
        self.assertEqual(total, 36)
        self.assertEqual(s3proxyctl("--socket", socket, "verify").code, 0)
        self.assertEqual(s3proxyctl("--socket", socket, "status").code, 0)
        self.assertEqual(stage.tracebacks(), [])


def poll_total(socket: str, wanted: int) -> int:
    """How many requests the proxy has counted, as soon as they are as many: processes tell each other with delay."""

    def total() -> int:
        found: int = s3proxyctl("--socket", socket, "status", "--json").document["summary"]["requests_total"]
        return found

    poll(lambda: total() >= wanted, 10, f"{wanted} requests")
    return total()
