"""What a user's guide to such a proxy promises, check by check, with the real process and real clients.

Where names, addresses and ports have to be those of life, the check runs on the machine of :mod:`test.system.guide`.
What the documentation's own commands do is tested in :mod:`test.system.test_commands`.
"""

import atexit
import functools
import http.client
import json
import re
import signal
import socket
import ssl
import time
from pathlib import Path
from test.config.loading import Loading
from test.config.test_wrong import rows
from test.dashboard.chromium import Chromium, Page, find_chromium
from test.support.content import content
from test.support.proxy_process import ProxyProcess
from test.support.raw_client import RawClient
from test.support.sigv4 import sign_request
from test.support.waiting import free_ports, poll
from test.system.guide import AWS, FRONTENDS, Machine, can_have_namespaces
from test.system.network import NetworkCase
from test.system.stage import HOST, MIB, Stage, at_once, unfinished_files
from test.system.test_lifecycle import LifecycleTestCase
from test.system.test_wrong_config import CommandTestCase, without_capabilities
from typing import Any

import yaml
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from s3proxy.config.kinds import LARGEST, Duration, Integer, Number
from s3proxy.config.load import ConfigError
from s3proxy.config.model import Config
from s3proxy.config.schema import Key, keys
from s3proxy.util.quantities import parse_duration

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "etc" / "s3proxy.example.yaml"
START = "sudo twistd --nodaemon --pidfile= s3proxy --config etc/s3proxy.example.yaml"
PORTS = (80, 443, 8080, 8081, 9090)
SIZE = 300_000
COPY = "--region us-east-1 --endpoint-url http://s3.us-east-1.amazonaws.com --no-progress"


@functools.cache
def started_machine() -> Machine:
    """The example file, unedited, on its own ports. Ended when the test run ends."""
    if not can_have_namespaces():
        raise SkipTest(
            "ports 80 and 443 of its own need namespaces, veth, ip and nsenter; this system has not all of them"
        )
    machine = Machine()
    atexit.register(machine.stop)
    return machine


class StandardPortsTests(SynchronousTestCase):
    """The machine of a user who has followed the guide."""

    def setUp(self) -> None:
        self.machine = started_machine()
        if self.machine.runs != START:
            self.machine.start_proxy(START)

    def test_01_the_example_file_starts_unedited(self) -> None:
        """Five ports are open after the start, and each does what it is for."""
        listening = self.machine.output("ss -Hltn")
        ports = {int(line.split()[3].rpartition(":")[2]) for line in listening.splitlines()}
        self.assertEqual(ports, set(PORTS))
        out = self.machine.output(
            "for p in 8080/health 8081/ 9090/metrics; do curl -so /dev/null -w '%{http_code} ' localhost:$p; done\n"
            "aws s3 ls s3://your-bucket --endpoint-url http://s3.us-east-1.amazonaws.com\n"
            "curl -s --max-time 5 --cacert ca.pem -o /dev/null -w '%{http_code}' https://s3.us-east-1.amazonaws.com/\n"
        )
        self.assertTrue(out.startswith("200 200 200 "), out)
        self.assertIn("key", out)
        # What S3 answers to somebody without credentials.
        self.assertTrue(out.endswith("403"), out)

    def test_02_what_was_uploaded_is_read_from_the_cache(self) -> None:
        """With the commands of the guide: after an upload, the download takes no byte from S3."""
        before = len(self.machine.requests())
        for source, target in (("file.txt", "s3://your-bucket/up"), ("s3://your-bucket/up", "down")):
            self.machine.output(f"aws s3 cp {source} {target} {COPY}")
        self.machine.output("cmp file.txt down")
        asked = [(each["method"], each["status"]) for each in self.machine.requests()[before:]]
        self.assertEqual(asked, [("PUT", 200), ("HEAD", 200)])
        reads = self.machine.output("sleep 6; grep -h 'GET /your-bucket/up HTTP' tmp/logs/access/*.log").splitlines()
        self.assertEqual([line.split()[-12] for line in reads], ["HIT"])

    def test_07_port_443_carries_tls_end_to_end(self) -> None:
        """Over https the client sees S3's own certificate, the bytes are right, and nothing of it is cached."""
        before = len(self.machine.requests())
        copy = "--region us-east-1 --endpoint-url https://s3.us-east-1.amazonaws.com --no-progress"
        self.machine.output(
            "export AWS_CA_BUNDLE=$PWD/ca.pem\n"
            f"for n in 1 2; do aws s3 cp s3://your-bucket/data/part-0001.parquet t$n {copy}; done\n"
            "cmp t1 t2"
        )
        asked = self.machine.requests()[before:]
        self.assertEqual([each["method"] for each in asked], ["HEAD", "GET"] * 2)
        self.assertEqual((self.machine.folder / "t1").read_bytes(), content(2, 0, 3 << 20))

    def test_09_upstream_is_verified_tls_and_the_hosts_file_is_not_read(self) -> None:
        """Clients are led here by the hosts file, and S3 is reached nevertheless: by public name servers, at S3's
        addresses, over TLS, whose certificate is checked.
        """
        self.assertIn("127.0.0.1", self.machine.output("getent ahostsv4 s3.us-east-1.amazonaws.com"))
        self.machine.output(f"aws s3 cp s3://your-bucket/key x {COPY}")
        requests = self.machine.requests()
        self.assertTrue(all(each["tls"] for each in requests))
        self.assertEqual({each["frontend"] for each in requests}, set(FRONTENDS))
        self.assertIn("s3.us-east-1.amazonaws.com", self.machine.queries())

    def test_09_a_false_certificate_is_refused(self) -> None:
        """The same with an authority that the system does not know: no request is sent, and clients are told why."""
        machine = self.machine
        machine.stop_proxy()
        before = len(machine.requests())
        machine.start_proxy(START.replace("twistd", "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt twistd"))
        status = machine.output(
            "curl -s -o answer -w '%{http_code}' http://s3.us-east-1.amazonaws.com/your-bucket/key; cat answer"
        )
        self.assertTrue(status.startswith("400"), status)
        self.assertIn("UpstreamTLSValidationFailed", status)
        self.assertEqual(len(machine.requests()), before)

    def test_14_logs_are_where_the_guide_says(self) -> None:
        """Both globs match from the start, everybody can read them, and the access log grows within its interval."""
        names = self.machine.output("ls -l ./tmp/logs/app/$(hostname)/*.log ./tmp/logs/access/*.log")
        self.assertEqual(re.findall(r"^(\S+)", names, re.M), ["-rw-r--r--"] * 2)
        self.assertRegex(names, rf"tmp/logs/app/{re.escape(socket.gethostname())}/s3proxy\.log")
        before = self.machine.output("cat ./tmp/logs/access/*.log | wc -l")
        self.machine.output(f"aws s3 cp s3://your-bucket/key x {COPY}")

        def grown() -> bool:
            return int(self.machine.output("cat ./tmp/logs/access/*.log | wc -l")) >= int(before) + 2

        poll(grown, 7, "lines in the access log", interval=0.5)
        self.assertIn("ready: ", self.machine.output("cat ./tmp/logs/app/$(hostname)/*.log"))
        found = self.machine.output("ls -la ./tmp/cache/")
        self.assertRegex(found, r"(?m)^d.* o$")

    def test_15_the_development_ports_start_without_root(self) -> None:
        """http_port 8081 and https_port 8443 in the example file, and not a word about the dashboard: nobody needs the
        right to low ports, and the dashboard, whose port that would be, gives way with a warning.
        """
        machine = self.machine
        text = EXAMPLE.read_text("utf-8").replace("http_port: 80\n", "http_port: 8081\n")
        text = text.replace("https_port: 443\n", "https_port: 8443\n")
        (machine.folder / "development.yaml").write_text(text, "utf-8")
        unprivileged = "setpriv --bounding-set=-net_bind_service twistd --nodaemon --pidfile= s3proxy --config "
        machine.stop_proxy()
        refused = machine.run(unprivileged + "etc/s3proxy.example.yaml")
        self.assertEqual(refused.returncode, 1)
        self.assertIn("server.http_port: can't listen on all addresses port 80: Permission denied", refused.stdout)
        machine.start_proxy(unprivileged + "development.yaml")
        listening = machine.output("ss -Hltn")
        ports = {int(line.split()[3].rpartition(":")[2]) for line in listening.splitlines()}
        self.assertEqual(ports, {8081, 8443, 8080, 8082, 9090})
        self.assertRegex(machine.log(), r"WARN .*dashboard\.port.*8082")
        self.assertIn("<html", machine.output("curl -s http://localhost:8082/"))


class OtherPortsTests(SynchronousTestCase):
    """For those who have no right to ports 80 and 443."""

    def test_01_other_ports(self) -> None:
        """The example file with its five ports changed, and nothing else, starts; all five are open."""
        text = EXAMPLE.read_text("utf-8")
        ports = free_ports(5)
        lines = ("  http_port: 80\n", "  https_port: 443\n", "  port: 8080\n", "  #port: 8081\n", "  port: 9090\n")
        for line, port in zip(lines, ports):
            self.assertEqual(text.count(line), 1, line)
            text = text.replace(line, re.sub(r"#?(\w+): \d+", rf"\1: {port}", line))
        proxy = ProxyProcess()
        self.addCleanup(proxy.stop)
        # Of all that is on this machine, nothing must be found by this file's own socket.
        proxy.config = {**yaml.safe_load(text), "admin": {"enabled": False}}
        proxy.start()
        for port in ports:
            socket.create_connection(("127.0.0.1", port), 5).close()
        self.assertEqual(proxy.health()["status"], "healthy")


def _get(port: int, path: str, method: str = "GET") -> "tuple[int, dict[str, str], bytes]":
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        connection.close()


class ReadTests(SynchronousTestCase):
    """What is cached."""

    def setUp(self) -> None:
        self.stage = Stage()
        self.addCleanup(self.stage.stop)
        self.stage.put(b"key", 1, SIZE)

    def asked(self) -> "list[tuple[bytes, int, int]]":
        """Method, status and bytes of what S3 has answered."""
        return [(each.method, each.status, each.body_sent) for each in self.stage.fake.requests]

    def x_cache(self, method: bytes, key: bytes, *headers: "tuple[bytes, bytes]") -> bytes:
        """Where an answer came from."""
        return self.stage.ask(method, key, headers=headers).header(b"x-cache") or b""

    def test_02_put_then_get(self) -> None:
        """A GET after a PUT takes no byte from S3: at first S3 is asked whether it is what was written, then not at
        all.
        """
        body = content(3, 0, SIZE)
        self.assertEqual(self.stage.ask(b"PUT", b"new", body=body).status, 200)
        for expected in (b"REVALIDATED", b"HIT"):
            answer = self.stage.ask(b"GET", b"new")
            self.assertEqual((answer.status, answer.header(b"x-cache")), (200, expected))
            self.assertTrue(answer.body == body)
        self.assertEqual([each[:2] for each in self.asked()], [(b"PUT", 200), (b"GET", 304)])

    def test_03_second_get(self) -> None:
        """The second GET is no request to S3."""
        for expected in (b"MISS", b"HIT"):
            reading = self.stage.read(b"key", 1, SIZE)
            self.assertEqual((reading.exact, reading.x_cache), (True, expected))
        self.assertEqual(self.asked(), [(b"GET", 200, SIZE)])

    def test_04_ranges(self) -> None:
        """A range is kept as it came, and others are cut out of it, and out of the whole object."""
        first = self.stage.ask(b"GET", b"key", headers=[(b"Range", b"bytes=1000-99999")])
        inside = self.stage.ask(b"GET", b"key", headers=[(b"Range", b"bytes=5000-5999")])
        for answer, (start, stop) in ((first, (1000, 100_000)), (inside, (5000, 6000))):
            self.assertEqual(answer.status, 206)
            self.assertEqual(answer.header(b"content-range"), b"bytes %d-%d/%d" % (start, stop - 1, SIZE))
            self.assertTrue(answer.body == content(1, start, stop))
        self.assertEqual((first.header(b"x-cache"), inside.header(b"x-cache")), (b"MISS", b"HIT"))
        self.assertTrue(self.stage.read(b"key", 1, SIZE).exact)
        tail = self.stage.ask(b"GET", b"key", headers=[(b"Range", b"bytes=-100")])
        self.assertEqual((tail.header(b"x-cache"), tail.body), (b"HIT", content(1, SIZE - 100, SIZE)))

    def test_05_head(self) -> None:
        """HEAD is answered from the cache: after a HEAD, and after a GET."""
        self.assertEqual([self.x_cache(b"HEAD", b"key") for _ in range(2)], [b"MISS", b"HIT"])
        self.stage.put(b"other", 2, 1000)
        self.assertEqual([self.x_cache(b"GET", b"other"), self.x_cache(b"HEAD", b"other")], [b"MISS", b"HIT"])
        self.assertEqual([each[0] for each in self.asked()], [b"HEAD", b"GET"])

    def test_06_lists_are_not_cached(self) -> None:
        """Each list is S3's own: what was added behind the proxy is in the next one."""
        for count in (1, 2):
            answer = self.stage.ask(b"GET", b"?list-type=2")
            self.assertEqual((answer.status, answer.header(b"x-cache")), (200, b"BYPASS"))
            self.assertEqual(answer.body.count(b"<Key>"), count)
            self.stage.put(b"added", 2, 10)
        self.assertEqual(len(self.asked()), 2)

    def test_07_tunnel(self) -> None:
        """Also where port 443 can't be had: what comes to the passthrough is S3's certificate and S3's bytes."""
        context = ssl.create_default_context(cafile=str(self.stage.fake.ca_file))
        port = self.stage.proxy.config["server"]["https_port"]
        with socket.create_connection(("127.0.0.1", port), 10) as plain:
            with context.wrap_socket(plain, server_hostname=HOST.decode()) as tls:
                tls.sendall(self.stage.request(b"HEAD", b"key", headers=[(b"Connection", b"close")]))
                answer = b"".join(iter(lambda: tls.recv(65536), b""))
        self.assertTrue(answer.startswith(b"HTTP/1.1 200"), answer)
        self.assertNotIn(b"x-cache", answer.lower())

    def test_11_health_by_curl_i(self) -> None:
        """HEAD of the health document is 200 without a body; other methods are 405 and say what is allowed."""
        port = self.stage.proxy.config["health"]["port"]
        for method, status in (("HEAD", 200), ("GET", 200), ("POST", 405)):
            code, headers, body = _get(port, "/health", method)
            self.assertEqual(code, status)
            self.assertEqual(bool(body), method != "HEAD")
        self.assertEqual(headers["allow"], "GET, HEAD")

    def test_12_metrics_by_grep(self) -> None:
        """``curl … | grep cache_hit_rate`` prints lines of Prometheus' text, before the first request and after it."""
        for wanted in ("0.0", "0.5"):
            lines = [line for line in self.stage.proxy.metrics_text().splitlines() if "cache_hit_rate" in line]
            self.assertIn(f's3proxy_cache_hit_rate_ratio{{window="total"}} {wanted}', lines)
            self.stage.read(b"key", 1, SIZE)
            self.stage.read(b"key", 1, SIZE)

    def test_19_many_misses_are_one_fetch(self) -> None:
        """Thirty clients that ask at once for what nobody has read are one GET to S3, and all get all of it."""
        self.stage.put(b"wanted", 4, 4 * MIB)
        readings = at_once([lambda: self.stage.read(b"wanted", 4, 4 * MIB)] * 30)
        self.assertTrue(all(reading.exact for reading in readings))
        self.assertEqual(self.asked(), [(b"GET", 200, 4 * MIB)])

    def test_20_two_processes_share_a_directory(self) -> None:
        """What one proxy has fetched, or kept while it was uploaded, is a hit in another one on the same directory, and
        the other way round; what was overwritten through one is seen through the other in seconds.
        """
        other = Stage(
            {"cache": {"cache_dir": str(self.stage.proxy.cache_dir), "metadata_cache": {"refresh_interval": "1s"}}}
        )
        self.addCleanup(other.stop)
        other.bucket = self.stage.bucket
        self.stage.put(b"second", 2, 5 * MIB)
        self.assertEqual(self.stage.read(b"key", 1, SIZE).x_cache, b"MISS")
        self.assertEqual(other.read(b"second", 2, 5 * MIB).x_cache, b"MISS")
        self.stage.fake.clear_requests()
        for reading in (other.read(b"key", 1, SIZE), self.stage.read(b"second", 2, 5 * MIB)):
            self.assertEqual((reading.exact, reading.x_cache), (True, b"HIT"))
        self.assertEqual(self.asked(), [])
        self.assertEqual(self.stage.ask(b"PUT", b"key", body=b"new").status, 200)
        poll(lambda: other.ask(b"GET", b"key").body == b"new", 5, "the new version through the other proxy")
        poll(lambda: not unfinished_files(self.stage.proxy.cache_dir), 10, "everything to have its final name")


class NamesTests(NetworkCase):
    """Hosts, name servers, addresses."""

    def ask(self, host: str, path: str) -> "tuple[int, bytes, bytes]":
        """Status, source and body of a signed GET with this Host. Blocks."""
        name = f"{host}:{self.port}".encode()
        headers = sign_request(b"GET", path.encode(), [(b"Host", name)], self.credential, when=time.time())
        with RawClient("127.0.0.1", self.proxy.port) as client:
            client.send(
                b"GET %b HTTP/1.1\r\n" % path.encode() + b"".join(b"%b: %b\r\n" % pair for pair in headers) + b"\r\n"
            )
            answer = client.read_response()
            return answer.status, answer.header(b"x-cache") or b"", answer.body

    async def test_08_hosts_and_what_they_are_kept_as(self) -> None:
        """All spellings of one bucket are one object; access points and multi-region access points are others; each is
        asked for at the host that the client named.
        """
        fake = self.frontend(1)
        point, region = "my-ap-123456789012", "mfzwi23gnjvgw.mrap"
        for bucket in ("bucket", point, region):
            fake.create_bucket(bucket)
            fake.put_object(bucket, b"key", bucket.encode())
        hosts = [
            (f"s3.us-east-1.{AWS}", "/bucket/key", "bucket"),
            (f"s3.{AWS}", "/bucket/key", "bucket"),
            (f"s3.dualstack.us-east-1.{AWS}", "/bucket/key", "bucket"),
            (f"bucket.s3.us-east-1.{AWS}", "/key", "bucket"),
            (f"bucket.s3.{AWS}", "/key", "bucket"),
            (f"bucket.s3-accelerate.{AWS}", "/key", "bucket"),
            (f"{point}.s3-accesspoint.us-east-1.{AWS}", "/key", point),
            (f"{region}.accesspoint.s3-global.{AWS}", "/key", region),
            (f"accesspoint.s3-global.{AWS}", f"/{region}/key", region),
        ]
        self.name(*(host for host, _, _ in hosts))
        await self.start()
        seen: set[str] = set()
        for host, path, kept_as in hosts:
            found = await self.work(self.ask, host, path)
            self.assertEqual(found, (200, b"HIT" if kept_as in seen else b"MISS", kept_as.encode()), host)
            seen.add(kept_as)
        self.assertEqual(len(fake.requests), 3)

    async def test_10_name_servers(self) -> None:
        """Names are looked up at dns_servers, and the addresses of an answer are used in turn."""
        await self.spread({}, asked=True)

    async def test_10_overrides(self) -> None:
        """endpoint_overrides go before DNS, which is not asked; addresses are used in turn, those of ``*.`` too."""
        addresses = [f"127.0.3.{number}:{self.port}" for number in (1, 2)]
        await self.spread({f"s3.us-east-1.{AWS}": addresses, f"*.s3.us-east-1.{AWS}": addresses}, asked=False)

    async def spread(self, overrides: "dict[str, list[str]]", asked: bool) -> None:
        """Read twelve objects, half of them with the bucket in the host, of two frontends."""
        hosts = (f"s3.us-east-1.{AWS}", f"bucket.s3.us-east-1.{AWS}")
        first, second = self.frontend(1), self.frontend(2)
        second.store = first.store
        first.create_bucket("bucket")
        for number in range(12):
            first.put_object("bucket", b"key-%d" % number, b"content")
        self.name(*hosts, ips=("127.0.3.1", "127.0.3.2"))
        await self.start(connection_pool={"endpoint_overrides": overrides})
        for number in range(12):
            host = hosts[number % 2]
            path = f"/key-{number}" if number % 2 else f"/bucket/key-{number}"
            self.assertEqual((await self.work(self.ask, host, path))[:2], (200, b"MISS"))
        self.assertEqual((len(first.requests), len(second.requests)), (6, 6))
        self.assertEqual({name.decode() for name, _, _ in self.dns.queries}, set(hosts) if asked else set())


class DashboardTests(SynchronousTestCase):
    """http://localhost:8081"""

    def test_13_page_and_api(self) -> None:
        """The API answers with numbers that move, and nothing but GET is taken from strangers."""
        stage = Stage()
        self.addCleanup(stage.stop)
        port = stage.proxy.config["dashboard"]["port"]
        status, headers, body = _get(port, "/")
        self.assertEqual((status, headers["content-type"].partition(";")[0]), (200, "text/html"))
        self.assertIn("default-src 'none'", headers["content-security-policy"])
        stage.put(b"key", 1, 1000)
        stage.read(b"key", 1, 1000)
        for path in (
            "summary",
            "series?range=1h",
            "buckets",
            "requests",
            "upstreams",
            "instances",
            "rules",
            "logs",
            "health",
        ):
            status, _, body = _get(port, f"/api/v1/{path}")
            self.assertEqual(status, 200, path)
            self.assertIn("data", json.loads(body), path)
        self.assertEqual(_get(port, "/api/v1/cache/purge", "POST")[0] // 100, 4)

    def test_13_page_in_a_browser(self) -> None:
        """The page shows itself in a browser, is live, and complains of nothing."""
        program = find_chromium()
        if program is None:
            raise SkipTest("there is no Chromium; on Debian: apt-get install chromium")
        stage = Stage()
        self.addCleanup(stage.stop)
        browser = Chromium(program)
        self.addCleanup(browser.stop)
        page = Page(browser)
        page.open(f"http://127.0.0.1:{stage.proxy.config['dashboard']['port']}/")
        page.wait("document.querySelector('#live')?.textContent === 'live'")
        self.assertEqual(page.look_at_events(), [])


class StartTests(CommandTestCase):
    """How it starts, and how it does not."""

    def test_16_a_port_that_cannot_be_bound(self) -> None:
        """Without the right to port 80, and with a port that is taken, the start ends with exit code 1 and one line
        that names the key, the port and the remedy.
        """
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            for key in ("http_port", "https_port"):
                self.write({"server": {key: port}})
                line = self.problem()
                self.assertIn(f"server.{key}: can't listen on 127.0.0.1 port {port}", line)
                self.assertIn("set server.", line)
        if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) > 80:
            self.write({"server": {"http_port": 80}})
            line = self.problem(prefix=without_capabilities("net_bind_service"))
            self.assertIn("server.http_port: can't listen on 127.0.0.1 port 80", line)
            self.assertRegex(line, "CAP_NET_BIND_SERVICE|another program listens there")

    def test_17_debug_switch(self) -> None:
        """LOG_LEVEL=debug and --log-level debug show debug messages, and without them there are none."""
        for environment, arguments, expected in (
            ({}, (), False), ({"LOG_LEVEL": "debug"}, (), True), ({}, ("--log-level", "debug"), True),
        ):  # fmt: skip
            proxy = ProxyProcess()
            self.addCleanup(proxy.stop)
            proxy.spawn(arguments, environment)
            poll(lambda: "ready: " in proxy.output(), 30, "the start")
            proxy.terminate()
            for text in (proxy.output(), proxy.app_log()):
                self.assertEqual(bool(re.search(r"^\S+Z DEBUG ", text, re.M)), expected)

    def test_17_debug_on_the_machine(self) -> None:
        """Behind sudo, which drops the environment."""
        machine = started_machine()
        machine.start_proxy(START.replace("sudo ", "sudo LOG_LEVEL=debug "))
        self.assertRegex(machine.log(), r"(?m)^\S+Z DEBUG ")

    def test_credentials_are_not_looked_at(self) -> None:
        """The proxy runs the same with credentials in its environment, and does not let them out."""
        proxy = ProxyProcess()
        self.addCleanup(proxy.stop)
        proxy.spawn(
            environment={"AWS_SECRET_ACCESS_KEY": "a-secret-of-somebody", "AWS_ACCESS_KEY_ID": "AKIDOFSOMEBODY"}
        )
        poll(lambda: "ready: " in proxy.output(), 30, "the start")
        self.assertNotIn("SOMEBODY", (proxy.output() + proxy.app_log() + proxy.metrics_text()).upper())


class EndTests(LifecycleTestCase):
    """SIGTERM."""

    def test_18_drains_and_flushes(self) -> None:
        """The download under way ends well, new connections are refused meanwhile, the last lines are in the log, and
        the exit code is 0.
        """
        client = self.begin()
        self.proxy.signal(signal.SIGTERM)

        def refused() -> bool:
            try:
                self.stage.connect(timeout=2).close()
            except OSError:
                return True
            return False

        poll(refused, 10, "connections to be refused")
        self.script.release()
        self.assertTrue(client.read_exactly(2 * MIB) == content(1, 2 * MIB, 4 * MIB))
        self.assertEqual(self.proxy.wait(), 0)
        self.assertEqual(len(re.findall(r'"GET \S*/held HTTP', self.proxy.access_log())), 1)


class RulesTests(SynchronousTestCase):
    """cache_rules.json"""

    def test_21_a_bad_file_keeps_the_old_rules(self) -> None:
        """A file that can't be read changes nothing; the log and the health document say so."""
        stage = Stage()
        self.addCleanup(stage.stop)
        stage.put(b"key", 1, 1000)
        path = stage.proxy.cache_dir / "cache_rules.json"
        path.write_text('{"rules": [{"pattern": "**", "read_cache_enabled": false}]}')
        stage.proxy.signal(signal.SIGHUP)
        poll(lambda: stage.ask(b"GET", b"key").header(b"x-cache") == b"BYPASS", 10, "the rule")
        for text in ('{"rules": [{"pattern": "**", "read_cache_enabled": true, "get_ttl": "5x"}]}', "{"):
            path.write_text(text)
            stage.proxy.signal(signal.SIGHUP)
            poll(lambda: stage.proxy.metric("s3proxy_rules_on_fallback") == 1, 10, "the refusal")
            self.assertEqual(stage.ask(b"GET", b"key").header(b"x-cache"), b"BYPASS")
        self.assertIn("get_ttl", stage.proxy.app_log())

        def degraded() -> bool:
            found = next(part for part in stage.proxy.health()["components"] if part["name"] == "rules")
            return bool(found["status"] == "degraded")

        poll(degraded, 5, "the health document to say so")


_STORAGE = "cache.shared_storage"
#: What a value within its bounds needs beside it.
_COMPANIONS: "dict[str, dict[str, Any]]" = {
    f"{_STORAGE}.lock_timeout": {f"{_STORAGE}.lock_refresh_interval": "5s"},
    f"{_STORAGE}.lock_refresh_interval": {f"{_STORAGE}.lock_timeout": "300s"},
    f"{_STORAGE}.validation_threshold_warn": {f"{_STORAGE}.validation_threshold_error": 100},
    f"{_STORAGE}.validation_threshold_error": {f"{_STORAGE}.validation_threshold_warn": 0},
}
#: Bounds that nobody can set: the first must be below the second.
_UNREACHABLE = {(f"{_STORAGE}.validation_threshold_warn", 100.0), (f"{_STORAGE}.validation_threshold_error", 0.0)}


class BoundTests(Loading):
    """Each limit of the configuration: the bound itself is allowed, and one step beyond it is not."""

    def test_22_every_rule_has_rows(self) -> None:
        """The table of wrong configurations has rows for each of the rules that end a start, and the tests of what is
        brought into order have one for each of the others.
        """
        numbers = {int(found[1]) for name in rows() if (found := re.match(r"rule_(\d+)", name))}
        self.assertEqual(numbers, set(range(1, 38)))
        others = set()
        for path in (ROOT / "test" / "config").glob("test_*.py"):
            others |= {int(number) for number in re.findall(r"def test_rule_(\d+)", path.read_text("utf-8"))}
        self.assertEqual(set(range(38, 47)) - others, set())

    def test_22_every_bound(self) -> None:
        """Of each key with bounds: the least and the most load without a word about it; one less and one more are
        refused, or brought into order with a warning.
        """
        tried = 0
        for key in keys(Config):
            for inside, outside in _edges(key):
                with self.subTest(key=key.path, inside=inside, outside=outside):
                    if (key.path, inside) not in _UNREACHABLE:
                        self.assertNotIn(key.path, self.said(key, inside), inside)
                    self.assertIn(key.path, self.said(key, outside), outside)
                    tried += 1
        self.assertGreater(tried, 120)

    def said(self, key: Key, value: Any) -> str:
        """What loading says of this value: problems and warnings."""
        tree: dict[str, Any] = {}
        for path, each in {**_COMPANIONS.get(key.path, {}), key.path: value}.items():
            *above, name = path.split(".")
            place = tree
            for section in above:
                place = place.setdefault(section, {})
            place[name] = each
        try:
            loaded = self.load(yaml.safe_dump(tree))
        except ConfigError as error:
            return "\n".join(map(str, error.problems))
        return "\n".join(each.text for each in loaded.notices if "outside of" in each.text)


def _edges(key: Key) -> "list[tuple[Any, Any]]":
    """The bounds of a key, each with what is one step beyond it."""
    kind = key.kind
    found: list[tuple[Any, Any]] = []
    if isinstance(kind, Integer):
        if kind.low > 0:
            found.append((kind.low, kind.low - 1))
        if kind.high < LARGEST:
            found.append((kind.high, kind.high + 1))
    elif isinstance(kind, Number):
        found += [(kind.low, kind.low - 0.001), (kind.high, kind.high + 0.001)]
    elif isinstance(kind, Duration):
        least, most = (int(parse_duration(text)) for text in kind.soft or (kind.least, kind.most))
        if kind.positive:
            found.append(("1ms", "0s"))
        elif least > 0:
            found.append((f"{least}s", f"{least - kind.grain}s"))
        found.append((f"{most}s", f"{most + kind.grain}s"))
    return found
