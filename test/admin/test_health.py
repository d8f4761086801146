"""The health site."""

import json
import subprocess
import sys
from typing import Any, cast

import treq
from treq.testing import StubTreq
from twisted.internet import reactor
from twisted.internet.interfaces import IReactorTCP, IReactorTime
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from s3proxy.admin.health import ComponentStatus, HealthBoard, HealthState, health_resource
from s3proxy.admin.sites import admin_site
from test.admin.exchange import ask


class HealthSiteTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1700000000)
        self.board = HealthBoard(self.clock.seconds, {"version": "1.2.3"})
        self.state = HealthState.HEALTHY
        self.board.add("cache", lambda: ComponentStatus("cache", self.state, f"It is {self.state.value}."))
        self.board.started()
        self.resource = health_resource(self.board)

    def become(self, state: HealthState) -> None:
        """Change what the component says."""
        self.state = state
        self.clock.advance(2)

    def test_through_a_client(self) -> None:
        """An HTTP client gets JSON with the lower-case word."""
        client: Any = StubTreq(self.resource)
        response = self.successResultOf(client.get("http://localhost/health"))
        self.assertEqual(response.code, 200)
        self.assertEqual(response.headers.getRawHeaders("content-type"), ["application/json"])
        document = self.successResultOf(treq.json_content(response))
        self.assertEqual((document["status"], document["ready"], document["version"]), ("healthy", True, "1.2.3"))

    def test_degraded_is_200(self) -> None:
        """A degraded instance serves: no balancer should take it out."""
        self.become(HealthState.DEGRADED)
        answer = ask(self.resource, "/health")
        self.assertEqual((answer.status, json.loads(answer.body)["status"]), (200, "degraded"))
        self.assertEqual(ask(self.resource, "/readyz").status, 200)

    def test_unhealthy_is_503(self) -> None:
        """An unhealthy instance answers 503 and says what is wrong; it is not restarted for it."""
        self.become(HealthState.UNHEALTHY)
        answer = ask(self.resource, "/health")
        self.assertEqual((answer.status, json.loads(answer.body)["status"]), (503, "unhealthy"))
        answer = ask(self.resource, "/readyz")
        self.assertEqual(answer.status, 503)
        self.assertEqual(json.loads(answer.body), {"ready": False, "reasons": ["cache: It is unhealthy."]})
        self.assertEqual(ask(self.resource, "/livez").status, 200)

    def test_draining(self) -> None:
        """From the first moment of draining /readyz is 503 and all else as before."""
        self.board.start_draining()
        self.assertEqual(ask(self.resource, "/readyz").status, 503)
        self.assertEqual(ask(self.resource, "/health").status, 200)
        self.assertTrue(json.loads(ask(self.resource, "/health").body)["draining"])
        self.assertEqual(ask(self.resource, "/livez").status, 200)

    def test_not_live(self) -> None:
        """A process that can't do its work says so, under both names."""
        self.board.add_liveness(lambda: "The event loop is 12 s late.")
        for path in ("/livez", "/healthz"):
            answer = ask(self.resource, path)
            self.assertEqual(answer.status, 503)
            self.assertEqual(json.loads(answer.body)["reasons"], ["The event loop is 12 s late."])

    def test_head(self) -> None:
        """HEAD is answered like GET, without the body."""
        for path in ("/health", "/livez", "/readyz"):
            get, head = ask(self.resource, path), ask(self.resource, path, "HEAD")
            self.assertEqual((head.status, head.body), (200, b""))
            self.assertEqual(head.headers[b"content-length"], b"%d" % len(get.body))
            self.assertEqual(head.headers[b"content-type"], get.headers[b"content-type"])

    def test_other_methods(self) -> None:
        """Everything but GET and HEAD gets 405 with Allow."""
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "BREW"):
            answer = ask(self.resource, "/health", method, Content_Length="0")
            self.assertEqual((answer.status, answer.headers.get(b"allow")), (405, b"GET, HEAD"), method)

    def test_other_paths(self) -> None:
        """Only the very paths are answered."""
        for path in ("/", "/healthy", "/health/", "//health", "/health/x", "/Health", "/a//b", "/%68ealth"):
            answer = ask(self.resource, path)
            self.assertEqual(answer.status, 404, path)
            self.assertEqual(json.loads(answer.body)["paths"], ["/livez", "/healthz", "/readyz", "/health"])

    def test_strange_bytes(self) -> None:
        """Bytes that are no text are refused without a line in the log."""
        for path in ("/health\xff", "/%ff", "/%e2%82"):
            self.assertEqual(ask(self.resource, path).status, 400)
        self.assertEqual(ask(self.resource, "/%e2%82%ac").status, 404)

    def test_query_is_ignored(self) -> None:
        """A query does not change the path."""
        self.assertEqual(ask(self.resource, "/health?x=1").status, 200)

    def test_not_cached(self) -> None:
        """No cache on the way may keep an answer."""
        self.assertEqual(ask(self.resource, "/health").headers[b"cache-control"], b"no-store")

    def test_text(self) -> None:
        """People who ask for text get words and reasons."""
        self.become(HealthState.DEGRADED)
        answer = ask(self.resource, "/health", Accept="text/plain")
        self.assertEqual(answer.body, b"degraded\ncache: degraded: It is degraded.\n")
        self.become(HealthState.UNHEALTHY)
        self.assertEqual(ask(self.resource, "/readyz?verbose").body, b"not ready\ncache: It is unhealthy.\n")

    def test_configured_path(self) -> None:
        """The path of the details is configurable, also to strange ones; the other two stay."""
        for path in ("/status/proxy", "/a//b", "/<x>", "/", "/livez"):
            resource = health_resource(self.board, path)
            self.assertIn(b'"components"', ask(resource, path).body, path)
            self.assertEqual(ask(resource, "/readyz").status, 200)
        self.assertEqual(ask(health_resource(self.board, "/status"), "/health").status, 404)


class ImportTests(SynchronousTestCase):
    def test_importing_installs_no_reactor(self) -> None:
        """The modules may be imported before twistd has chosen a reactor."""
        script = (
            "import sys, s3proxy.admin.health, s3proxy.admin.metrics, s3proxy.admin.sites, s3proxy.telemetry.access, "
            "s3proxy.telemetry.logs\n"
            "sys.exit('twisted.internet.reactor' in sys.modules)"
        )
        subprocess.run([sys.executable, "-c", script], check=True, env={"PYTHONPATH": ":".join(sys.path)}, timeout=60)


class RealPortTests(TestCase):
    timeout = 20

    async def test_over_a_socket(self) -> None:
        """The site answers on a port of the machine."""
        board = HealthBoard(lambda: 0.0)
        site: Any = admin_site(health_resource(board), cast(IReactorTime, reactor))
        port: Any = cast(IReactorTCP, reactor).listenTCP(0, site, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        url = f"http://127.0.0.1:{port.getHost().port}"
        response = await treq.get(f"{url}/readyz", persistent=False)
        self.assertEqual(response.code, 503)
        self.assertEqual(await response.json(), {"ready": False, "reasons": ["The instance is starting."]})
        board.started()
        response = await treq.head(f"{url}/health", persistent=False)
        self.assertEqual((response.code, await response.content()), (200, b""))
