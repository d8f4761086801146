"""Health from outside: each component is driven from state to state by what is really wrong, and mended again.

What only long times or odd machines bring about is shown with a clock, in test.services.test_health and
test.services.test_checks.
"""

import http.client
import json
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from pathlib import Path
from test.support.certificates import CertificateAuthority
from test.support.fake_dns import DNSAnswer
from test.support.fake_script import Action, Match
from test.support.proxy_process import ProxyProcess
from test.support.raw_client import RawClient, request_bytes
from test.support.waiting import free_ports, poll
from test.system.mounts import SmallVolume
from test.system.network import NetworkCase
from test.system.stage import MIB, Stage
from typing import Any

from twisted.trial.unittest import SynchronousTestCase


def ask(proxy: ProxyProcess, path: str, method: str = "GET") -> tuple[int, bytes]:
    """Status and body of a page of the health listener."""
    connection = http.client.HTTPConnection("127.0.0.1", proxy.config["health"]["port"], timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def component(proxy: ProxyProcess, name: str) -> dict[str, Any]:
    """What the document says of one component."""
    found: dict[str, Any] = next(part for part in proxy.health()["components"] if part["name"] == name)
    return found


class HealthCase(SynchronousTestCase):
    def begin(self, config: "dict[str, Any] | None" = None) -> None:
        """A proxy that looks at its directories every second."""
        self.stage = Stage({"health": {"check_interval": "1s"}, **(config or {})}, start=False)
        self.addCleanup(self.stage.stop)
        self.proxy = self.stage.proxy

    def await_state(self, name: str, state: str, text: str = "", seconds: float = 15) -> dict[str, Any]:
        """Wait until a component is in this state, and says this."""

        def there() -> bool:
            found = component(self.proxy, name)
            return found["status"] == state and text in found["message"]

        try:
            poll(there, seconds, f"{name} to be {state}", interval=0.1)
        except TimeoutError:
            self.fail(f"{name} is not {state} ({text}): {component(self.proxy, name)}")
        return component(self.proxy, name)


class DocumentTests(HealthCase):
    def test_document(self) -> None:
        """Everything is said of an instance in which nothing is wrong, by GET and HEAD, and as one word."""
        self.begin()
        self.proxy.start()
        self.stage.put(b"k", 1, 1000)
        self.assertEqual(self.stage.ask(b"GET", b"k").status, 200)
        document = json.loads(ask(self.proxy, "/health")[1])
        self.assertEqual((document["status"], document["ready"], document["live"]), ("healthy", True, True))
        self.assertFalse(document["draining"])
        self.assertLessEqual(
            {"timestamp", "uptime_seconds", "version", "instance_id", "hostname", "pid", "mode"}, set(document)
        )  # fmt: skip
        states = {part["name"]: part["status"] for part in document["components"]}
        self.assertEqual(
            states,
            {
                **dict.fromkeys(
                    ("storage", "disk_space", "cache_usage", "coordination", "checks", "rules", "upstream", "dns",
                     "capacity", "reactor", "logs", "listeners"), "healthy"
                ),
                "tls": "disabled",
            },
        )  # fmt: skip
        for part in document["components"]:
            self.assertLessEqual({"message", "last_check", "duration_ms", "since", "data"}, set(part))
        (upstream,) = document["upstreams"]
        self.assertEqual(upstream["endpoint"], "s3.us-east-1.amazonaws.com")
        self.assertEqual(upstream["ips"], [{"ip": "127.0.0.1", "state": "active"}])
        for path in ("/health", "/livez", "/healthz", "/readyz"):
            self.assertEqual(ask(self.proxy, path, "HEAD"), (200, b""))
            self.assertEqual(ask(self.proxy, path, "POST")[0], 405)
        self.assertEqual(ask(self.proxy, "/readyz?verbose"), (200, b"ready\n"))
        self.assertEqual(ask(self.proxy, "/nothing")[0], 404)


class StorageTests(HealthCase):
    def test_directory_is_removed(self) -> None:
        """Requests go on, and so does readiness, until the directory is back."""
        self.begin()
        self.proxy.start()
        self.stage.put(b"k", 1, 1000)
        away = self.proxy.cache_dir.with_name("away")
        os.rename(self.proxy.cache_dir, away)
        self.await_state("storage", "degraded", "No such file or directory")
        self.await_state("coordination", "degraded", "No sign of life")
        self.assertEqual(self.stage.ask(b"GET", b"k").status, 200)
        self.assertEqual([ask(self.proxy, path)[0] for path in ("/health", "/readyz", "/livez")], [200] * 3)
        os.rename(away, self.proxy.cache_dir)
        self.await_state("storage", "healthy", seconds=30)
        self.await_state("coordination", "healthy")

    def test_full(self) -> None:
        """The file system is full, and has room again."""
        self.begin()
        folder = Path(tempfile.mkdtemp(prefix="s3proxy-"))
        self.addCleanup(shutil.rmtree, folder, True)
        volume = SmallVolume(folder / "volume", 64 * MIB)
        self.addCleanup(volume.unmount)
        self.proxy.configure({"cache": {"cache_dir": str(volume.folder / "cache"), "max_cache_size": 32 * MIB}})
        self.proxy.start()
        self.addCleanup(self.proxy.kill9)
        self.await_state("disk_space", "healthy")
        volume.fill()
        self.await_state("disk_space", "degraded", "0.0 % of the file system")
        self.await_state("storage", "degraded", "No space left on device")
        self.stage.put(b"k", 1, 100_000)
        self.assertEqual(self.stage.ask(b"GET", b"k").status, 200)
        volume.empty()
        self.await_state("disk_space", "healthy")
        self.await_state("storage", "healthy", seconds=30)

    def test_smaller_limit(self) -> None:
        """More is in the directory than may be, until room is made."""
        self.begin({"cache": {"max_cache_size": 64 * MIB}})
        self.proxy.start()
        for number in range(8):
            self.stage.put(b"k-%d" % number, number, 4 * MIB)
            self.stage.ask(b"GET", b"k-%d" % number)
        self.proxy.terminate()
        self.proxy.configure({"cache": {"max_cache_size": 16 * MIB}})
        self.proxy.start()
        self.await_state("cache_usage", "healthy", seconds=30)


class RulesTests(HealthCase):
    def test_bad_file(self) -> None:
        """A file of rules that can't be used, and one that can."""
        self.begin({"cache": {"bucket_settings_staleness_threshold": "1s"}})
        self.proxy.start()
        rules = self.proxy.cache_dir / "cache_rules.json"
        rules.write_text("no rules")
        self.await_state("rules", "degraded", "cache_rules.json can't be used")
        self.assertEqual(ask(self.proxy, "/readyz")[0], 200)
        rules.write_text('{"rules": []}')
        self.await_state("rules", "healthy")


class ListenerTests(HealthCase):
    def test_occupied_port(self) -> None:
        """A side listener whose port is taken: the proxy serves without it, and says so."""
        self.begin()
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            self.proxy.configure({"metrics": {"port": other.getsockname()[1]}})
            self.proxy.start()
            self.await_state("listeners", "degraded", "metrics.port: can't listen")
            self.assertEqual(ask(self.proxy, "/readyz")[0], 200)


class CertificateTests(HealthCase):
    def test_ends_of_life(self) -> None:
        """A certificate for some days more, an expired one, files that can't be used, and a good one."""
        folder = Path(tempfile.mkdtemp(prefix="s3proxy-"))
        self.addCleanup(shutil.rmtree, folder)
        authority = CertificateAuthority(folder)
        used = authority.issue(["localhost"])
        self.begin()
        files = {"enabled": True, "cert_path": str(used.certificate), "key_path": str(used.key)}
        self.proxy.configure({"server": {"tls": files}})
        self.proxy.start()
        self.await_state("tls", "healthy")

        def put(**options: Any) -> None:
            new = authority.issue(["localhost"], **options)
            for source, target in ((new.certificate, used.certificate), (new.key, used.key)):
                os.replace(source, target)
            self.proxy.signal(signal.SIGHUP)

        put(days=10)
        self.await_state("tls", "degraded", "expires on")
        put(expired=True)
        self.await_state("tls", "unhealthy", "has expired")
        self.assertEqual([ask(self.proxy, path)[0] for path in ("/health", "/readyz", "/livez")], [503, 200, 200])
        put()
        self.await_state("tls", "healthy")
        used.key.write_text("no key")
        self.proxy.signal(signal.SIGHUP)
        self.await_state("tls", "degraded", "can't be used")


class LogTests(HealthCase):
    def test_directory_is_gone(self) -> None:
        """The access log can't be written, and can again."""
        self.begin()
        self.proxy.start()
        self.stage.put(b"k", 1, 1000)
        logs = self.proxy.folder / "logs" / "access"
        os.rename(logs, logs.with_name("elsewhere"))
        logs.write_text("")
        self.stage.ask(b"GET", b"k")
        self.await_state("logs", "degraded", "The access log can't be written")
        logs.unlink()
        os.rename(logs.with_name("elsewhere"), logs)
        self.await_state("logs", "healthy", seconds=40)


class LoadTests(HealthCase):
    def test_too_many_requests(self) -> None:
        """All permits are in use, and a request was turned away."""
        self.begin({"server": {"max_concurrent_requests": 2}})
        self.proxy.start()
        self.stage.put(b"k", 1, 1000)
        self.await_state("capacity", "healthy")
        script = self.stage.fake.script(Match(operation="GetObject"), Action(hold=True), None)
        clients = [self.stage.connect() for _ in range(2)]
        for client in clients:
            client.send(self.stage.request(b"GET", b"k"))
        self.await_state("capacity", "degraded", "2 of 2 permits are in use")
        self.assertEqual(self.stage.ask(b"GET", b"k").status, 503)
        self.await_state("capacity", "degraded", "were turned away")
        script.release()
        for client in clients:
            self.assertEqual(client.read_response(b"GET").status, 200)
            client.close()

    def test_no_time(self) -> None:
        """The process is stopped for a moment, and for longer."""
        self.begin()
        self.proxy.start()
        self.await_state("reactor", "healthy")
        for seconds, state in ((0.4, "degraded"), (1.5, "unhealthy")):
            self.proxy.signal(signal.SIGSTOP)
            time.sleep(seconds)
            self.proxy.signal(signal.SIGCONT)
            self.await_state("reactor", state, "s late")
        self.assertEqual(ask(self.proxy, "/livez")[0], 200)


class UpstreamTests(HealthCase):
    def begin_with_two(self) -> None:
        self.begin()
        pool = self.proxy.config["connection_pool"]
        (host,) = pool["endpoint_overrides"]
        (self.closed,) = free_ports(1)
        addresses = [*pool["endpoint_overrides"][host], f"127.0.0.2:{self.closed}"]
        self.proxy.configure(
            {
                "connection_pool": {
                    "endpoint_overrides": {host: addresses, "other.test": [f"127.0.0.3:{self.closed}"]},
                    "ip_failure_threshold": 1,
                    "health_probe_initial_cooldown": "60s",
                }
            }
        )
        self.proxy.start()

    def test_addresses(self) -> None:
        """One address is dead; then the only host that is left."""
        self.begin_with_two()
        self.stage.put(b"k", 1, 1000)
        for _ in range(4):
            self.stage.ask(b"HEAD", b"k?x=1")
        self.await_state("upstream", "degraded", f"127.0.0.2:{self.closed}")
        documents = {each["endpoint"]: each["ips"] for each in self.proxy.health()["upstreams"]}
        (excluded,) = [ip for ips in documents.values() for ip in ips if ip["state"] == "excluded"]
        self.assertEqual(excluded["ip"], "127.0.0.2")
        self.assertGreater(excluded["next_probe_seconds"], 0)
        self.assertEqual(ask(self.proxy, "/readyz")[0], 200)

    def test_all_dead(self) -> None:
        """No address of S3 answers: a balancer should not send traffic, and a supervisor not restart anything."""
        self.begin()
        (closed,) = free_ports(1)
        self.proxy.configure(
            {
                "connection_pool": {
                    "endpoint_overrides": {"other.test": [f"127.0.0.3:{closed}"]},
                    "upstream_overrides": {"other.test:80": {"scheme": "http"}},
                    "ip_failure_threshold": 1,
                    "health_probe_initial_cooldown": "1s",
                }
            }
        )
        self.proxy.start()
        self.await_state("upstream", "healthy")

        def fail() -> None:
            with RawClient("127.0.0.1", self.proxy.port) as client:
                client.send(request_bytes(b"GET", b"/b/k", [(b"Host", b"other.test")]))
                self.assertEqual(client.read_response(b"GET").status, 502)

        fail()
        self.await_state("upstream", "unhealthy", "No address of S3 answers (other.test)")
        self.assertEqual([ask(self.proxy, path)[0] for path in ("/health", "/readyz", "/livez")], [503, 503, 200])
        self.assertIn(b"not ready\nupstream: No address", ask(self.proxy, "/readyz?verbose")[1])
        # Something answers there again: a probe finds it.
        with socket.socket() as listener:
            listener.bind(("127.0.0.3", closed))
            listener.listen()
            self.await_state("upstream", "healthy", seconds=20)
        self.assertEqual(ask(self.proxy, "/readyz")[0], 200)

    def test_failures(self) -> None:
        """Most requests fail although addresses answer; then most succeed."""
        self.begin({"connection_pool": {"ip_failure_threshold": 1000}})
        self.proxy.start()
        self.stage.put(b"k", 1, 1000)
        # S3 may have acted on what it does not answer: each is one failure.
        script = self.stage.fake.script(Match(operation="PutObject"), Action(raw=b"no HTTP at all\r\n\r\n"), None)
        for _ in range(20):
            self.stage.ask(b"PUT", b"k", body=b"x")
        self.assertGreaterEqual(script.hits, 20)
        self.await_state("upstream", "unhealthy", "requests to S3 failed in the last minute")
        self.stage.fake.behave()
        for _ in range(25):
            self.stage.ask(b"HEAD", b"k?x=1")
        self.await_state("upstream", "degraded", "failed in the last minute")


class DnsTests(NetworkCase):
    """Name servers that die."""

    async def ask(self, name: str) -> int:
        def work() -> int:
            with RawClient("127.0.0.1", self.proxy.port, timeout=30) as client:
                host = f"{name}:{self.port}".encode()
                client.send(request_bytes(b"GET", b"http://%b/b/k" % host, [(b"Host", host)]))
                return client.read_response(b"GET").status

        return await self.work(work)

    async def state(self) -> tuple[str, str]:
        found = await self.work(component, self.proxy, "dns")
        return found["status"], found["message"]

    async def test_states(self) -> None:
        """They answer; they don't, and former addresses are used; nobody knows an address; they answer again."""
        self.frontend(1)
        known, unknown = "s3.us-east-1.amazonaws.com", "s3-fips.us-east-1.amazonaws.com"
        self.name(known, ttl=5)
        await self.start(connection_pool={"dns_refresh_interval": "5s"})
        self.assertEqual(await self.ask(known), 403)
        self.assertEqual((await self.state())[0], "healthy")
        for name in (known, unknown):
            self.dns.set(name.encode(), DNSAnswer(silent=True))

        async def old() -> bool:
            self.assertEqual(await self.ask(known), 403)
            return (await self.state())[0] == "degraded"

        await self.until(old, 40)
        self.assertIn("the former addresses are used", (await self.state())[1])
        self.assertEqual(await self.ask(unknown), 502)
        state = await self.state()
        self.assertEqual(state[0], "unhealthy", state)
        self.assertIn(unknown, state[1])
        self.assertEqual((await self.work(ask, self.proxy, "/livez"))[0], 200)
        self.name(known, unknown, ttl=60)

        async def healthy() -> bool:
            await self.ask(known)
            await self.ask(unknown)
            return (await self.state())[0] == "healthy"

        await self.until(healthy, 40)


class DrainTests(HealthCase):
    def test_drain(self) -> None:
        """From SIGTERM on the instance is not ready, and what is under way is served to its end."""
        self.begin()
        self.proxy.start()
        self.stage.put(b"slow", 1, 2 * MIB)
        self.stage.fake.script(Match(key=b"slow"), Action(rate=MIB), 1)
        results: list[Any] = []
        reading = threading.Thread(target=lambda: results.append(self.stage.read(b"slow", 1, 2 * MIB)))
        reading.start()
        poll(lambda: self.proxy.metric("s3proxy_http_requests_in_flight", phase="transfer") == 1, 10, "the transfer")
        self.assertEqual(ask(self.proxy, "/readyz")[0], 200)
        self.proxy.signal(signal.SIGTERM)
        began = time.monotonic()
        poll(lambda: ask(self.proxy, "/readyz")[0] == 503, 5, "the end of readiness", interval=0.005)
        self.assertLess(time.monotonic() - began, 0.5)
        self.assertIn(b"The instance is draining.", ask(self.proxy, "/readyz?verbose")[1])
        document = self.proxy.health()
        self.assertEqual((document["draining"], document["live"], document["status"]), (True, True, "healthy"))
        self.assertEqual(ask(self.proxy, "/livez")[0], 200)
        reading.join(30)
        self.assertEqual((results[0].status, results[0].exact), (200, True))
        self.assertEqual(self.proxy.wait(), 0)
