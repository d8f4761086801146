"""What is shipped for operators: dashboards, rules, units, the container file and kernel settings."""

import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from s3proxy.config.load import load_config
from s3proxy.telemetry.families import FAMILIES

ROOT = Path(__file__).parents[1]
ETC = ROOT / "etc"
RULES = ETC / "prometheus" / "s3proxy.rules.yml"
RUNBOOK = ROOT / "doc" / "runbook.md"

#: Where the documentation is shown, until somebody says where; example is nobody's domain (RFC 2606).
_PLACE = "https://docs.example/s3proxy"
_METRIC = re.compile(r"\b(?:[a-z]+:)?(?:s3proxy|process|python)_[a-z0-9_]+(?::[a-z0-9_]+)?\b")
_SELECTOR = re.compile(r"(s3proxy_[a-z0-9_]+)\s*\{([^}]*)\}")
_LABEL = re.compile(r"([a-z_]+)\s*(?:=~|!~|!=|=)")
_BY = re.compile(r"(?:by|on) \(([^)]*)\)")
#: What Prometheus adds to every series, and what the expressions may say of a process without our declaration.
_OF_PROMETHEUS = {"job", "instance", "le"}
_OF_LIBRARY = {
    "process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "process_max_fds",
}  # fmt: skip


def known() -> "dict[str, set[str]]":
    """Every series that there can be, with its labels."""
    found = {}
    for family in FAMILIES:
        if family.hidden:
            continue
        names = [family.name]
        if family.type == "histogram":
            names = [f"{family.name}_{part}" for part in ("bucket", "sum", "count")]
        found.update({name: set(family.labels) for name in names})
    return found


def rules() -> "list[dict[str, Any]]":
    """All rules, in order."""
    return [rule for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"] for rule in group["rules"]]


def alerts() -> "dict[str, dict[str, Any]]":
    """The alerts by name."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def dashboards() -> "dict[str, dict[str, Any]]":
    """The dashboards by file name."""
    return {path.name: json.loads(path.read_text("utf-8")) for path in sorted((ETC / "grafana").glob("*.json"))}


def expressions(dashboard: "dict[str, Any]") -> "Iterator[tuple[str, str]]":
    """Where each expression stands, and the expression."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for annotation in dashboard["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]


def run(*command: str, cwd: Path = ROOT) -> "tuple[int, str]":
    """Exit code and everything that the command prints."""
    done = subprocess.run(
        command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


def needed(name: str) -> str:
    """The path of a program.

    :raises SkipTest: it is not installed
    """
    found = shutil.which(name)
    if found is None:
        raise SkipTest(f"{name} is not installed")
    return found


class ShippedTestCase(SynchronousTestCase):
    """For a checkout only."""

    def setUp(self) -> None:
        if not ETC.is_dir():
            raise SkipTest("these tests need a checkout")

    def assert_known(self, where: str, expression: str, recorded: "frozenset[str]" = frozenset()) -> None:
        """Every metric exists, and has the labels by which it is selected; so has one of them those of a grouping."""
        names = known()
        used = set(_METRIC.findall(expression))
        unknown = used - set(names) - _OF_LIBRARY - recorded
        self.assertEqual(unknown, set(), where)
        for name, labels in _SELECTOR.findall(expression):
            extra = set(_LABEL.findall(re.sub(r'"[^"]*"', '""', labels))) - names[name] - _OF_PROMETHEUS
            self.assertEqual(extra, set(), f"{where}: labels of {name}")
        labels_of_all = set().union(*(names.get(name, set()) for name in used), _OF_PROMETHEUS)
        for grouping in _BY.findall(expression):
            extra = set(re.split(r",\s*", grouping)) - labels_of_all
            self.assertEqual(extra, set(), f"{where}: by ({grouping})")


class GrafanaTests(ShippedTestCase):
    """etc/grafana"""

    def test_files_are_what_the_tables_say(self) -> None:
        """Nobody edits the files by hand."""
        code, output = run(sys.executable, str(ETC / "grafana" / "build.py"), "--check")
        self.assertEqual((code, output), (0, ""))

    def test_metrics_exist(self) -> None:
        """Panels, annotations and variables name metrics and labels that are declared."""
        count = 0
        for name, dashboard in dashboards().items():
            for title, expression in expressions(dashboard):
                self.assert_known(f"{name}: {title}", expression)
                count += 1
        self.assertGreater(count, 100)

    def test_provisioned(self) -> None:
        """No data source is named: a variable offers those that there are. Names are unique, panels do not overlap."""
        found = dashboards()
        self.assertEqual(len(found), 5)
        self.assertEqual(len({dashboard["uid"] for dashboard in found.values()}), 5)
        for name, dashboard in found.items():
            self.assertEqual(dashboard["templating"]["list"][0]["type"], "datasource", name)
            self.assertNotIn("id", dashboard)
            places: set[tuple[int, int]] = set()
            ids = [panel["id"] for panel in dashboard["panels"]]
            self.assertEqual(len(ids), len(set(ids)), name)
            for panel in dashboard["panels"]:
                place = panel["gridPos"]
                cells = {
                    (x, y)
                    for x in range(place["x"], place["x"] + place["w"])
                    for y in range(place["y"], place["y"] + place["h"])
                }
                self.assertFalse(cells & places, f"{name}: {panel['title']}")
                self.assertLessEqual(place["x"] + place["w"], 24)
                places |= cells
                for target in panel.get("targets", ()):
                    self.assertEqual(target["datasource"]["uid"], "${datasource}")
                    self.assertEqual(target["expr"].count("("), target["expr"].count(")"), target["expr"])
        self.assertEqual(list(yaml.safe_load((ETC / "grafana" / "provisioning.yaml").read_text())), [
            "apiVersion", "providers",
        ])  # fmt: skip


class PrometheusTests(ShippedTestCase):
    """etc/prometheus"""

    def test_metrics_exist(self) -> None:
        """Rules name metrics and labels that are declared, or that other rules record."""
        recorded = frozenset(rule["record"] for rule in rules() if "record" in rule)
        for rule in rules():
            self.assert_known(rule.get("alert") or rule["record"], rule["expr"].replace("up{", "{"), recorded)
        self.assertGreater(len(rules()), 30)

    def test_recorded_for_somebody(self) -> None:
        """What is recorded says so in its name, and alerts or people use it."""
        for rule in rules():
            if "record" in rule:
                self.assertRegex(rule["record"], r"^(instance|job):s3proxy_[a-z0-9_]+:[a-z0-9_]+$")

    def test_alerts_have_sections(self) -> None:
        """Each alert is graded and leads to its section of the runbook, which has all that is needed at night; and
        there is no section without an alert.
        """
        sections = dict(re.findall(r"^## (S3Proxy\w+)\n(.*?)(?=^## |\Z)", RUNBOOK.read_text("utf-8"), re.M | re.S))
        self.assertEqual(list(sections), list(alerts()))
        for name, rule in alerts().items():
            self.assertEqual(rule["annotations"]["runbook_url"], f"{_PLACE}/runbook.html#{name.lower()}")
            self.assertIn(rule["labels"]["severity"], ("critical", "warning", "info"))
            for part in ("Meaning", "Users see", "Look", "Do", "Escalate"):
                self.assertIn(f"**{part}.**", sections[name], f"{name}: {part}")
            self.assertIn("```\n", sections[name], f"{name}: a command")

    def test_the_place_can_be_put_in(self) -> None:
        """The command in the file leads all alerts to the documentation's real place, and their tests too."""
        names = ("s3proxy.rules.yml", "s3proxy.rules.test.yml")
        command = re.search(r"^# +(sed .+)$", RULES.read_text("utf-8"), re.M)
        assert command is not None
        with tempfile.TemporaryDirectory() as folder:
            for name in names:
                shutil.copy(RULES.parent / name, folder)
            self.assertEqual(run("sh", "-c", command[1], cwd=Path(folder)), (0, ""))
            for name in names:
                text = Path(folder, name).read_text("utf-8")
                self.assertEqual(re.findall(rf"runbook_url: {_PLACE}", text), [])
                self.assertGreaterEqual(text.count("https://YOUR.DOCUMENTATION/s3proxy/runbook.html#"), len(alerts()))

    def test_metrics_of_the_runbook_exist(self) -> None:
        """It names no metric that there is not."""
        names = {re.sub(r"_(bucket|sum|count)$", "", name) for name in known()}
        for name in set(re.findall(r"\bs3proxy_[a-z0-9_]+\b", RUNBOOK.read_text("utf-8"))):
            self.assertTrue(any(each.startswith(name) for each in names), name)

    def test_every_alert_is_tried(self) -> None:
        """The unit tests of the rules show each alert firing."""
        text = (ETC / "prometheus" / "s3proxy.rules.test.yml").read_text("utf-8")
        missing = [name for name in alerts() if f"alertname: {name}\n" not in text]
        self.assertEqual(missing, [])

    def test_promtool(self) -> None:
        """Prometheus' own checks have nothing to say."""
        promtool = needed("promtool")
        for command, name in (("check", "s3proxy.rules.yml"), ("test", "s3proxy.rules.test.yml")):
            code, output = run(promtool, command, "rules", name, cwd=RULES.parent)
            self.assertEqual(code, 0, output)
            self.assertIn("SUCCESS", output)


class SystemdTests(ShippedTestCase):
    """etc/systemd"""

    def test_units(self) -> None:
        """systemd knows every line of the units."""
        analyze = needed("systemd-analyze")
        with tempfile.TemporaryDirectory() as folder:
            for name in ("s3proxy.service", "s3proxy.socket"):
                # Nothing is installed here.
                text = (ETC / "systemd" / name).read_text("utf-8").replace("/opt/s3proxy/bin/twistd", "/bin/true")
                Path(folder, name).write_text(text, "utf-8")
            code, output = run(analyze, "verify", f"{folder}/s3proxy.service", f"{folder}/s3proxy.socket")
            self.assertEqual((code, output.strip()), (0, ""))

    def test_time_to_stop(self) -> None:
        """systemd waits longer than requests may take to end."""
        text = (ETC / "systemd" / "s3proxy.service").read_text("utf-8")
        match = re.search(r"^TimeoutStopSec=(\d+)$", text, re.M)
        assert match is not None
        config = load_config(str(ETC / "systemd" / "s3proxy.yaml"), environ={}, options={}).config
        self.assertGreaterEqual(int(match[1]), config.server.drain_timeout + 20)

    def test_configuration(self) -> None:
        """The paths of the configuration are those that the unit lets it write to; the socket's ports are its ports."""
        loaded = load_config(str(ETC / "systemd" / "s3proxy.yaml"), environ={}, options={})
        self.assertEqual(loaded.notices, ())
        config = loaded.config
        unit = (ETC / "systemd" / "s3proxy.service").read_text("utf-8")
        self.assertIn("\nCacheDirectory=s3proxy\n", unit)
        self.assertIn("\nLogsDirectory=s3proxy\n", unit)
        self.assertEqual(config.cache.cache_dir, "/var/cache/s3proxy")
        self.assertEqual(config.logging.access_log_dir, "/var/log/s3proxy/access")
        self.assertEqual(config.logging.app_log_dir, "/var/log/s3proxy/app")
        ports = re.findall(r"^ListenStream=(\d+)$", (ETC / "systemd" / "s3proxy.socket").read_text("utf-8"), re.M)
        self.assertEqual(ports, [str(config.server.http_port), str(config.server.https_port)])

    def test_user(self) -> None:
        """The unit's user is the one that systemd-sysusers makes."""
        line = (ETC / "systemd" / "s3proxy.sysusers.conf").read_text("utf-8").splitlines()[-1]
        self.assertRegex(line, r'^u s3proxy - "[^"]+" /var/cache/s3proxy$')
        self.assertIn("\nUser=s3proxy\n", (ETC / "systemd" / "s3proxy.service").read_text("utf-8"))


class SysctlTests(ShippedTestCase):
    """etc/sysctl.d"""

    def test_settings(self) -> None:
        """Each setting has a reason above it, and is one of the kernel's."""
        above = ""
        count = 0
        for line in (ETC / "sysctl.d" / "60-s3proxy.conf").read_text("utf-8").splitlines()[2:]:
            match = re.fullmatch(r"([a-z0-9_.-]+) = ([0-9 ]+)", line)
            if match is None:
                self.assertTrue(not line or line.startswith("# "), line)
                above = line if line else ""
                continue
            self.assertTrue(above, f"{match[1]} has no reason")
            count += 1
            path = Path("/proc/sys", match[1].replace(".", "/"))
            if path.parent.is_dir() and os.getuid() == 0:
                self.assertTrue(path.exists(), match[1])
        self.assertGreater(count, 8)


class ContainerTests(ShippedTestCase):
    """etc/container"""

    folder = ETC / "container"
    known = {
        "ARG", "FROM", "WORKDIR", "COPY", "RUN", "LABEL", "ENV", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL",
        "HEALTHCHECK", "ENTRYPOINT", "CMD",
    }  # fmt: skip

    def instructions(self) -> "list[tuple[str, str]]":
        """Instructions and their arguments, continuation lines joined."""
        text = (self.folder / "Containerfile").read_text("utf-8")
        text = re.sub(r"^#.*\n", "", text, flags=re.M).replace("\\\n", " ")
        lines = [line.split(None, 1) for line in text.splitlines() if line.strip()]
        return [(name, arguments) for name, arguments in lines]

    def test_syntax(self) -> None:
        """Every instruction exists, what is written as a list is one, and the second stage runs without privileges."""
        found = self.instructions()
        self.assertLessEqual({name for name, _ in found}, self.known)
        for name, arguments in found:
            if name in ("VOLUME", "ENTRYPOINT", "CMD"):
                self.assertIsInstance(json.loads(arguments), list)
            if name == "HEALTHCHECK":
                self.assertIsInstance(json.loads(arguments.partition(" CMD ")[2]), list)
        last = max(at for at, (name, _) in enumerate(found) if name == "FROM")
        stage = dict(found[last:])
        self.assertEqual(stage["USER"], "10001:10001")
        self.assertEqual(stage["STOPSIGNAL"], "SIGTERM")
        self.assertNotIn("curl", (self.folder / "Containerfile").read_text("utf-8"))

    def test_commands(self) -> None:
        """A shell can read every command."""
        for name, arguments in self.instructions():
            if name == "RUN":
                code, output = run("sh", "-n", "-c", arguments)
                self.assertEqual((code, output), (0, ""))

    def test_sources(self) -> None:
        """What is copied exists, is enough to build a package, and is not ignored."""
        sources: list[str] = []
        for name, arguments in self.instructions():
            if name == "COPY" and not arguments.startswith("--from"):
                sources += arguments.split()[:-1]
        missing = [source for source in sources if not (ROOT / source).exists()]
        self.assertEqual(missing, [])
        self.assertLessEqual({"setup.cfg", "pyproject.toml", "s3proxy", "twisted", "README.md"}, set(sources))
        kept = re.findall(r"^!(.+)$", (self.folder / "Containerfile.dockerignore").read_text("utf-8"), re.M)
        for source in sources:
            self.assertTrue(any(source == each or source.startswith(f"{each}/") for each in kept), source)

    def test_configuration(self) -> None:
        """It can be used without privileges, by the volumes and ports of the container file."""
        loaded = load_config(str(self.folder / "s3proxy.yaml"), environ={}, options={})
        self.assertEqual(loaded.notices, ())
        config = loaded.config
        ports = {config.server.http_port, config.server.https_port, config.health.port, config.metrics.port}
        found = dict(self.instructions())
        self.assertEqual({int(port) for port in found["EXPOSE"].split()}, ports)
        self.assertGreater(min(ports), 1023)
        self.assertEqual(json.loads(found["VOLUME"]), [config.cache.cache_dir, "/logs"])
        self.assertEqual(config.logging.app_log_format, "json")

    def test_health_check(self) -> None:
        """It ends with 0 when /livez says 200, with 1 when it says something else, or nothing."""
        asked = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.send_response(200 if len(asked) == 1 else 503)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        command = ("env", f"HEALTH_PORT={server.server_port}", sys.executable, str(self.folder / "healthcheck.py"))
        try:
            self.assertEqual(run(*command), (0, "ok\n"))
            self.assertEqual(run(*command), (1, "ok\n"))
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
        code, output = run(*command)
        self.assertEqual(code, 1)
        self.assertIn("no answer", output)
        self.assertEqual(asked, ["/livez", "/livez"])


class DocumentTests(ShippedTestCase):
    """doc/deployment.md"""

    def test_files_exist(self) -> None:
        """Every file below etc/ that it names is there, and every shipped one is named."""
        text = (ROOT / "doc" / "deployment.md").read_text("utf-8")
        for name in set(re.findall(r"(?<![\w/])etc/[\w./-]+\w", text)):
            self.assertTrue((ROOT / name).exists(), name)
        for folder in ("systemd", "container", "sysctl.d", "grafana", "prometheus"):
            for path in (ETC / folder).iterdir():
                if path.is_file() and path.suffix not in (".json", ".dockerignore", ".py"):
                    self.assertIn(f"etc/{folder}/{path.name}", text)
