"""Every metric that is declared moves when what it counts happens: a real proxy, real traffic, real faults."""

import contextlib
import http.client
import json
import os
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from test.support.certificates import CertificateAuthority
from test.support.fake_script import Action, Match
from test.support.otlp_collector import OtlpCollector
from test.support.raw_client import ConnectionEnded, RawResponse, request_bytes, signed_request_bytes
from test.support.sigv4 import UNSIGNED
from test.support.waiting import free_ports, poll
from test.system.stage import HOST, MIB, Stage
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.telemetry.families import FAMILIES

#: Metrics that no test of a few seconds is sure to move, and why.
UNMOVED = {
    "s3proxy_stalls_total": "a client has to take no byte for two minutes",
    "s3proxy_scrape_errors_total": "only a fault of the program moves it",
    "s3proxy_threadpool_queue_length": "a scrape would have to come while all threads are busy for some milliseconds",
    "s3proxy_buffer_waiting": "bodies would have to fill the memory at the moment of a scrape",
    "s3proxy_log_messages_lost_total": "needs a file system that does not take the application log's lines",
}


class EveryMetricTests(SynchronousTestCase):
    def setUp(self) -> None:
        collector = OtlpCollector()
        self.addCleanup(collector.stop)
        folder = tempfile.TemporaryDirectory(prefix="s3proxy-")
        self.addCleanup(folder.cleanup)
        self.authority = CertificateAuthority(Path(folder.name))
        certificate = self.authority.issue(["localhost"])
        (closed,) = free_ports(1)
        self.stage = Stage(start=False)
        self.addCleanup(self.stage.stop)
        self.proxy = self.stage.proxy
        overrides = self.proxy.config["connection_pool"]["endpoint_overrides"]
        fake = f"127.0.0.1:{self.stage.fake.tls_port}"
        self.proxy.configure(
            {
                "server": {
                    "max_concurrent_requests": 24,
                    "max_inflight_buffer_bytes": MIB,
                    "tls": {
                        "enabled": True,
                        "cert_path": str(certificate.certificate),
                        "key_path": str(certificate.key),
                    },
                },
                "cache": {
                    "max_cache_size": 48 * MIB,
                    "bucket_settings_staleness_threshold": "1s",
                    "incomplete_upload_ttl": "1h",
                },
                "connection_pool": {
                    "endpoint_overrides": {**overrides, "dead.test": [f"127.0.0.1:{closed}"], "localhost": [fake]},
                    "ip_failure_threshold": 1,
                    "health_probe_initial_cooldown": "1s",
                    "max_connections": 12,
                    "connection_timeout": "2s",
                    "idle_timeout": "10s",
                },
                "dashboard": {"allow_purge": True},
                "health": {"check_interval": "1s"},
                "metrics": {
                    "per_bucket": {"max_series": 1},
                    "otlp": {
                        "enabled": True,
                        "endpoint": collector.url,
                        "export_interval": "1s",
                    },
                },
            }
        )
        self.bucket = self.stage.bucket.encode()
        self.rules = self.proxy.cache_dir / "cache_rules.json"
        self.moved: set[str] = set()

    # What is seen.

    def look(self) -> None:
        """Note which metrics are not 0 now."""
        for series, value in self.proxy.metrics().items():
            name = series.partition("{")[0]
            if value:
                self.moved.add(name)
                for suffix in ("_count", "_sum", "_bucket"):
                    self.moved.add(name.removesuffix(suffix))

    def await_move(self, name: str, seconds: float = 15) -> None:
        def moved() -> bool:
            self.look()
            return name in self.moved

        poll(moved, seconds, f"{name} to move", interval=0.2)

    # What is done.

    def ask(self, method: bytes, key: bytes, **options: Any) -> RawResponse:
        return self.stage.ask(method, key, **options)

    def get(self, key: bytes, *headers: tuple[bytes, bytes], unsigned: "tuple[tuple[bytes, bytes], ...]" = ()) -> int:
        with self.stage.connect() as client:
            client.send(self.stage.request(b"GET", key, headers=headers, unsigned=unsigned))
            return client.read_response(b"GET").status

    @contextlib.contextmanager
    def held(self, action: Action, keys: "list[bytes]") -> Iterator[None]:
        """Requests for these objects are at S3 and wait for it."""
        script = self.stage.fake.script(Match(operation="GetObject"), action, None)
        clients = [self.stage.connect() for _ in keys]
        for client, key in zip(clients, keys):
            client.send(self.stage.request(b"GET", key))
        try:
            yield
        finally:
            script.release()
            self.stage.fake.behave()
            for client in clients:
                with contextlib.suppress(ConnectionEnded, OSError):
                    client.read_response(b"GET")
                client.close()

    def write_rules(self, text: str) -> None:
        new = self.rules.with_suffix(".new")
        new.write_text(text)
        os.rename(new, self.rules)

    def write_good_rules(self) -> None:
        bucket = self.stage.bucket
        self.write_rules(
            json.dumps(
                {
                    "rules": [
                        {"pattern": f"{bucket}/asked/**", "get_ttl": "0s"},
                        {"pattern": f"{bucket}/pages/**", "page_widening": True, "page_size": 65536},
                        {"pattern": f"{bucket}/hedged/**", "hedging_enabled": True, "hedge_trigger_after": "100ms"},
                    ]
                }
            )
        )

    def purge(self, order: dict[str, Any]) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.proxy.config["dashboard"]["port"], timeout=20)
        with contextlib.closing(connection):
            headers = {"Content-Type": "application/json", "X-S3Proxy": "1"}
            connection.request("POST", "/api/v1/cache/purge", json.dumps(order), headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status

    # The story.

    def test_every_metric(self) -> None:
        """From the start to the end of a proxy's day, everything that is counted happens at least once."""
        access = self.proxy.folder / "logs" / "access" / "2020" / "01" / "01"
        access.mkdir(parents=True)
        (access / f"2020-01-01-00-00-00-{socket.gethostname()}.log").write_text("old\n")
        self.proxy.cache_dir.mkdir(parents=True)
        self.write_good_rules()
        self.proxy.start()
        for part in (
            self.reads,
            self.writes,
            self.sharing,
            self.refusals,
            self.listeners,
            self.trouble_with_s3,
            self.too_many,
            self.operators,
            self.evictions,
            self.trouble_with_the_directory,
            self.trouble_with_logs,
            self.little_bandwidth,
        ):
            part()
            self.look()
        declared = {family.name for family in FAMILIES if not family.hidden}
        self.assertEqual(declared - self.moved - set(UNMOVED), set())
        self.assertLessEqual(set(UNMOVED), declared)

    def reads(self) -> None:
        """Misses, hits, ranges, parts, pages, rules, what is not for the cache."""
        self.stage.put(b"small", 1, 1000)
        self.stage.put(b"large", 2, 3 * MIB)
        self.stage.put(b"asked/k", 3, 1000)
        self.stage.put(b"pages/k", 4, 300_000)
        self.stage.put(b"hedged/k", 5, 1000)
        self.stage.fake.put_object(self.stage.bucket, b"text", b"well, well, " * 100_000)
        for _ in range(3):
            for key in (b"small", b"large", b"asked/k", b"text"):
                self.assertEqual(self.get(key), 200)
        self.ask(b"HEAD", b"small")
        self.get(b"large?partNumber=1")
        self.get(b"pages/k", unsigned=((b"Range", b"bytes=100-200"),))
        self.stage.put(b"gaps", 6, 3 * MIB)
        self.get(b"gaps", (b"Range", b"bytes=0-99999"))
        self.get(b"gaps")
        self.get(b"?list-type=2")
        self.get(b"small", (b"Cache-Control", b"no-store"))
        script = self.stage.fake.script(Match(key=b"hedged/k"), Action(delay_head=1.0), 1)
        self.get(b"hedged/k")
        self.assertEqual(script.hits, 1)
        # A larger body, while the client takes its time: requests, connections and permits at one moment.
        with self.stage.connect(receive_buffer=4096) as client:
            client.send(self.stage.request(b"GET", b"large"))
            client.read_head()
            self.await_move("s3proxy_http_requests_in_flight")
        self.await_move("s3proxy_http_client_aborts_total")
        self.await_move("s3proxy_compression_bytes_total")
        for _ in range(4):
            self.get(b"text")
        self.await_move("s3proxy_ram_cache_pieces")

    def writes(self) -> None:
        """Objects and multipart uploads, kept and invalidated."""
        for _ in range(2):
            self.assertEqual(self.ask(b"PUT", b"written", body=b"x" * 5000).status, 200)
        self.assertEqual(self.get(b"written"), 200)
        created = self.ask(b"POST", b"parts?uploads")
        upload = created.body.partition(b"<UploadId>")[2].partition(b"<")[0]
        self.assertEqual(self.ask(b"PUT", b"parts?partNumber=1&uploadId=" + upload, body=b"y" * 5000).status, 200)
        self.await_move("s3proxy_multipart_uploads_in_progress")
        # A list of names is being sent: it has to be understood, and takes memory.
        with self.stage.connect() as client:
            body = b"<Delete><Object><Key>written</Key></Object></Delete>"
            whole = self.stage.request(
                b"POST", b"?delete", headers=[(b"Content-Length", b"%d" % len(body)), (b"Content-MD5", b"x")], body=body
            )
            client.send(whole[:-10])
            time.sleep(0.5)
            self.look()
        self.fill_buffers(upload)

    def fill_buffers(self, upload: bytes) -> None:
        """More lists than there is memory for."""
        size = 9 * MIB
        clients = [self.stage.connect() for _ in range(10)]
        head = self.stage.request(
            b"POST", b"parts?uploadId=" + upload, headers=[(b"Content-Length", b"%d" % (size + 1))]
        )  # fmt: skip
        piece = b"<CompleteMultipartUpload>" + b" " * (size - 25)
        for client in clients:
            client.send(head)
        for client in clients:
            with contextlib.suppress(OSError):
                client.send(piece)
        self.await_move("s3proxy_buffer_aborts_total")
        self.look()
        for client in clients:
            client.abort()

    def sharing(self) -> None:
        """Two want the same at once."""
        self.stage.put(b"shared", 7, 1000)
        with self.held(Action(hold=True), [b"shared", b"shared"]):
            self.await_move("s3proxy_coalesce_in_flight")
            self.await_move("s3proxy_upstream_in_flight")

    def refusals(self) -> None:
        """What is no request, and where nobody may go."""
        with self.stage.connect() as client:
            client.send(b"NONSENSE\r\n\r\n")
            client.read_to_end()
        with self.stage.connect() as client:
            client.send(request_bytes(b"GET", b"/b/k", [(b"Host", b"169.254.169.254")]))
            client.read_response(b"GET")
        self.await_move("s3proxy_requests_denied_total")

    def listeners(self) -> None:
        """TLS, and tunnels through port 443."""
        context = ssl.create_default_context(cafile=str(self.authority.ca_file))
        port = self.proxy.config["server"]["tls"]["tls_proxy_port"]
        with socket.create_connection(("127.0.0.1", port), 10) as sock:
            with context.wrap_socket(sock, server_hostname="localhost") as session:
                session.sendall(b"GET / HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % HOST)
                session.recv(1000)
        through = ssl.create_default_context(cafile=str(self.stage.fake.ca_file))
        port = self.proxy.config["server"]["https_port"]
        with socket.create_connection(("127.0.0.1", port), 10) as sock:
            through.check_hostname = False
            with through.wrap_socket(sock, server_hostname=HOST.decode()) as session:
                session.sendall(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % HOST)
                session.recv(1000)
                self.await_move("s3proxy_tunnels")
        self.await_move("s3proxy_passthrough_connections_total")

    def trouble_with_s3(self) -> None:
        """It cuts, is not there, or has no name."""
        self.stage.put(b"cut", 8, 100_000)
        self.stage.fake.script(Match(key=b"cut"), Action(raw=b""), 1)
        self.get(b"cut")
        for _ in range(3):
            with self.stage.connect() as client:
                client.send(request_bytes(b"GET", b"/b/k", [(b"Host", b"dead.test")]))
                client.read_response(b"GET")
        self.await_move("s3proxy_upstream_ip_exclusions_total")
        self.await_move("s3proxy_upstream_ip_probes_total")
        with self.stage.connect() as client:
            client.send(request_bytes(b"GET", b"/b/k", [(b"Host", b"s3.eu-west-1.amazonaws.com")]))
            client.read_response(b"GET")
        self.await_move("s3proxy_dns_refreshes_total")
        self.stage.fake.close_idle_connections()
        self.await_move("s3proxy_upstream_connections_closed_total")
        self.get(b"small?versionId=null")
        self.await_move("s3proxy_upstream_tls_resumptions_total")

    def too_many(self) -> None:
        """More requests than there are connections, and than there are permits."""
        keys = [b"many-%d" % number for number in range(26)]
        for key in keys:
            self.stage.put(key, 9, 100)
        with self.held(Action(hold=True), keys):
            self.await_move("s3proxy_upstream_requests_waiting")
            self.await_move("s3proxy_requests_shed_total")
            self.await_move("s3proxy_upstream_waits_refused_total")

    def operators(self) -> None:
        """Somebody looks at the dashboard and removes something; the file of rules is broken, and mended."""
        port = self.proxy.config["dashboard"]["port"]
        with socket.create_connection(("127.0.0.1", port), 10) as sock:
            sock.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            sock.recv(1000)
            self.await_move("s3proxy_dashboard_clients")
        self.assertEqual(self.purge({"prefix": f"{self.stage.bucket}/small"}), 200)
        self.write_rules("no rules")
        self.await_move("s3proxy_rules_on_fallback")
        self.write_good_rules()
        self.stage.fake.create_bucket("another-bucket")
        self.stage.fake.put_object("another-bucket", b"k", b"data")
        with self.stage.connect() as client:
            credential = self.stage.fake.credential
            client.send(signed_request_bytes(b"GET", b"/another-bucket/k", HOST, credential, payload=UNSIGNED))
            client.read_response(b"GET")
        self.await_move("s3proxy_bucket_overflow")
        self.await_move("s3proxy_otlp_exports_total")
        self.await_move("s3proxy_cache_objects")

    def evictions(self) -> None:
        """More than there is room for."""
        for number in range(14):
            key = b"big-%d" % number
            self.stage.put(key, number, 4 * MIB)
            self.get(key)
        self.await_move("s3proxy_cache_evictions_total")
        self.await_move("s3proxy_cache_ranges")

    def trouble_with_the_directory(self) -> None:
        """A file is damaged; the proxy is killed in the middle of something, and what it left is cleaned up."""
        self.stage.put(b"damaged", 10, 2 * MIB)
        before = self.files()
        self.get(b"damaged")
        self.eventually(lambda: self.files() - before)
        self.proxy.terminate()
        for path in self.files() - before:
            with path.open("r+b") as file:
                file.truncate(max(0, path.stat().st_size - 8))
        self.proxy.start()
        self.get(b"damaged")
        self.await_move("s3proxy_cache_errors_total")
        self.damage_what_nobody_reads()
        self.proxy.kill9()
        # A right to store an object whose owner is gone, and an upload that nobody has gone on with for hours.
        folder = next(path.parent for path in self.files())
        (folder / "t.0.0.tmp").write_text("")
        for path in (self.proxy.cache_dir / "up").iterdir():
            os.utime(path, (1.0, 1.0))
        self.proxy.start()
        self.await_move("s3proxy_cache_repairs_total", 30)
        self.await_move("s3proxy_multipart_uploads_evicted_total", 30)
        self.break_a_lease()

    def damage_what_nobody_reads(self) -> None:
        """It is found out when it is time to compare everything with its checksums."""
        self.stage.put(b"unread", 12, 2 * MIB)
        before = self.files()
        self.get(b"unread")
        self.eventually(lambda: self.files() - before)
        self.proxy.terminate()
        for path in self.files() - before:
            with path.open("r+b") as file:
                file.seek(1000)
                file.write(b"damaged")
        (self.proxy.cache_dir / "ctl" / "scrub.json").write_text('{"next": 0, "began": 0, "ended": 0}')
        self.proxy.start()
        self.await_move("s3proxy_scrub_bytes_total")
        self.await_move("s3proxy_scrub_damaged_total")

    def files(self) -> set[Path]:
        return {path for path in (self.proxy.cache_dir / "o").rglob("*") if path.is_file()}

    def eventually(self, true: Callable[[], object]) -> None:
        poll(lambda: bool(true()), 10, "it to happen", interval=0.1)

    def break_a_lease(self) -> None:
        """Somebody else has the right to store an object, and shows no sign of life."""
        self.stage.put(b"leased", 11, 1000)
        before = self.files()
        self.get(b"leased")
        self.eventually(lambda: self.files() - before)
        (entry,) = (path for path in self.files() - before if "." not in path.name)
        self.assertEqual(self.ask(b"DELETE", b"leased").status, 204)
        self.stage.put(b"leased", 11, 1000)
        lease = entry.with_name(entry.name + ".f")
        lease.write_text("")
        os.utime(lease, (time.time() - 100, time.time() - 100))
        self.get(b"leased")
        self.await_move("s3proxy_lock_stale_total")

    def trouble_with_logs(self) -> None:
        """The directory of the access log goes, and a file is in its place."""
        logs = self.proxy.folder / "logs" / "access"
        os.rename(logs, logs.with_name("elsewhere"))
        logs.write_text("")
        with self.stage.connect() as client:
            for _ in range(3):
                client.send(self.stage.request(b"GET", b"large"))
                client.read_response(b"GET")
        self.await_move("s3proxy_access_log_buffer_records")
        self.await_move("s3proxy_log_write_errors_total")
        logs.unlink()
        os.rename(logs.with_name("elsewhere"), logs)

    def little_bandwidth(self) -> None:
        """Downloads have a limit, so low that some wait for longer than they should."""
        self.proxy.terminate()
        self.proxy.configure({"download_bandwidth": {"max_bytes_per_sec": 16384}})
        self.proxy.start()
        clients = [self.stage.connect() for _ in range(10)]
        for number, client in enumerate(clients):
            key = b"limited-%d" % number
            self.stage.put(key, number, MIB)
            client.send(self.stage.request(b"GET", key))
        self.await_move("s3proxy_qos_waiting")
        self.await_move("s3proxy_qos_failopen_total", 30)
        for client in clients:
            client.abort()
