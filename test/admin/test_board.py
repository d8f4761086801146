"""Components and the roll-up."""

from typing import Any

from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.admin.board import ComponentStatus, HealthBoard, HealthState
from s3proxy.telemetry.instruments import Reading


class HealthBoardTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1700000000)
        self.board = HealthBoard(self.clock.seconds, {"version": "1.2.3", "hostname": "proxy-1"})
        self.states: dict[str, str] = {}

    def component(self, name: str) -> ComponentStatus:
        """What a component says of itself at present."""
        return ComponentStatus(name, HealthState(self.states[name]), f"It is {self.states[name]}.")

    def set(self, name: str, state: str) -> None:
        """Make a component say this from now on."""
        if name not in self.states:
            self.board.add(name, lambda: self.component(name))
        self.states[name] = state
        self.clock.advance(2)

    def test_what_gates(self) -> None:
        """An unhealthy component keeps traffic away only where it can't be served."""
        self.board.add("disk", lambda: ComponentStatus("disk", HealthState.UNHEALTHY, "Full."), gates=False)
        self.board.started()
        self.assertEqual((self.board.check().state, self.board.check().ready), (HealthState.UNHEALTHY, True))
        self.board.add("upstream", lambda: ComponentStatus("upstream", HealthState.UNHEALTHY, "Dead."))
        self.assertEqual(self.board.check().not_ready, ("upstream: Dead.",))

    def test_what_warns(self) -> None:
        """A fault is worth a warning when it comes; what is as it should be, or is bound to pass, is not."""
        said = [
            ComponentStatus("workers", HealthState.DEGRADED, "Starting.", expected=True),
            ComponentStatus("workers", HealthState.HEALTHY),
            ComponentStatus("workers", HealthState.DISABLED),
            ComponentStatus("workers", HealthState.DEGRADED, "Gone."),
            ComponentStatus("workers", HealthState.DEGRADED, "Gone."),
            ComponentStatus("workers", HealthState.DEGRADED, "Starting.", expected=True),
            ComponentStatus("workers", HealthState.DEGRADED, "It took too long."),
        ]
        self.board.add("workers", lambda: said[0])
        with capturedLogs() as events:
            while said:
                self.board.check()
                del said[0]
                self.clock.advance(2)
        found = [(event["log_level"].name, event["text"]) for event in events]
        warnings = [text for level, text in found if level == "warn"]
        self.assertEqual(warnings, ["Gone.", "It took too long."])
        self.assertEqual(len(found), 6)

    def test_upstreams(self) -> None:
        """The document shows hosts and addresses, and when a component was looked at."""
        self.assertEqual(self.board.document()["upstreams"], [])
        self.board.show_upstreams(lambda: [{"endpoint": "a"}])
        self.board.add("slow", lambda: ComponentStatus("slow", HealthState.HEALTHY, checked_at=10.0, seconds=0.25))
        document: Any = self.board.document()
        self.assertEqual(document["upstreams"], [{"endpoint": "a"}])
        part = next(part for part in document["components"] if part["name"] == "slow")
        self.assertEqual((part["last_check"], part["duration_ms"]), ("1970-01-01T00:00:10.000Z", 250.0))

    def test_roll_up(self) -> None:
        """The worst component decides; what is switched off never counts."""
        self.assertIs(self.board.check().state, HealthState.HEALTHY)
        self.set("tls", "disabled")
        self.assertIs(self.board.check().state, HealthState.HEALTHY)
        self.set("cache", "healthy")
        self.assertIs(self.board.check().state, HealthState.HEALTHY)
        self.set("storage", "degraded")
        self.assertIs(self.board.check().state, HealthState.DEGRADED)
        self.set("listeners", "unhealthy")
        self.assertIs(self.board.check().state, HealthState.UNHEALTHY)

    def test_ready(self) -> None:
        """Ready is what has started, isn't draining and isn't unhealthy; degraded is ready."""
        self.set("cache", "degraded")
        self.assertEqual(self.board.check().not_ready, ("The instance is starting.",))
        self.board.started()
        self.assertTrue(self.board.check().ready)
        self.set("cache", "unhealthy")
        self.assertEqual(self.board.check().not_ready, ("cache: It is unhealthy.",))
        self.set("cache", "healthy")
        self.board.start_draining()
        self.assertEqual(self.board.check().not_ready, ("The instance is draining.",))
        self.assertTrue(self.board.draining)

    def test_draining_shows_at_once(self) -> None:
        """The change of state does not wait for the age of a report."""
        self.board.started()
        self.assertTrue(self.board.check().ready)
        self.board.start_draining()
        self.assertFalse(self.board.check().ready)

    def test_live(self) -> None:
        """Liveness depends on its own checks only, not on components."""
        problem: list[str | None] = [None]
        self.board.add_liveness(lambda: problem[0])
        self.set("upstream", "unhealthy")
        self.assertTrue(self.board.check().live)
        problem[0] = "The event loop is 12 s late."
        self.clock.advance(2)
        self.assertEqual(self.board.check().not_live, ("The event loop is 12 s late.",))

    def test_component_that_raises(self) -> None:
        """A check that fails itself is a reason for concern and does not break the report."""
        self.board.add("cache", lambda: 1 / 0)  # type: ignore[arg-type, return-value]
        (status,) = self.board.check().components
        self.assertEqual((status.name, status.state), ("cache", HealthState.DEGRADED))
        self.assertIn("ZeroDivisionError", status.message)
        self.flushLoggedErrors(ZeroDivisionError)

    def test_asked_at_most_once_a_second(self) -> None:
        """However often probes come, components are asked once a second."""
        asked: list[int] = []

        def component() -> ComponentStatus:
            asked.append(1)
            return ComponentStatus("x", HealthState.HEALTHY)

        self.board.add("x", component)
        for _ in range(20):
            self.board.check()
            self.clock.advance(0.125)
        self.assertEqual(len(asked), 3)

    def test_clock_that_went_back(self) -> None:
        """A report from the future is not used."""
        self.set("cache", "healthy")
        self.board.check()
        self.states["cache"] = "degraded"
        self.clock.rightNow -= 3600
        self.assertIs(self.board.check().state, HealthState.DEGRADED)

    def test_names_are_unique(self) -> None:
        """Two components of one name are a programming error."""
        self.set("cache", "healthy")
        self.assertRaises(ValueError, self.board.add, "cache", lambda: ComponentStatus("cache", HealthState.HEALTHY))

    def test_document(self) -> None:
        """The document has the facts and each component with the time of its last change."""
        self.set("cache", "healthy")
        self.board.check()
        self.set("cache", "degraded")
        self.board.check()
        self.clock.advance(100)
        document = self.board.document()
        self.assertEqual(document["status"], "degraded")
        self.assertEqual((document["version"], document["hostname"]), ("1.2.3", "proxy-1"))
        self.assertEqual(document["timestamp"], "2023-11-14T22:15:04.000Z")
        self.assertEqual(document["uptime_seconds"], 104.0)
        self.assertEqual(
            document["components"],
            [
                {
                    "name": "cache",
                    "status": "degraded",
                    "message": "It is degraded.",
                    "last_check": "2023-11-14T22:15:04.000Z",
                    "duration_ms": 0.0,
                    "since": "2023-11-14T22:13:24.000Z",
                    "data": {},
                }
            ],
        )

    def test_readings(self) -> None:
        """Health is a metric, too; what is switched off has none."""
        self.set("cache", "degraded")
        self.set("tls", "disabled")
        self.board.started()
        readings = list(self.board.readings())
        self.assertIn(Reading("s3proxy_health_status", 1.0, ("degraded",)), readings)
        self.assertIn(Reading("s3proxy_health_status", 0.0, ("healthy",)), readings)
        self.assertIn(Reading("s3proxy_health_component_status", 0.5, ("cache",)), readings)
        self.assertIn(Reading("s3proxy_ready", 1.0), readings)
        self.assertNotIn("tls", [label for reading in readings for label in reading.labels])
