"""The workers as their supervisor sees them, with processes that are none."""

from test.cluster.processes import FakeSpawner
from test.services.test_worker_settings import config
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.admin.board import ComponentStatus, HealthBoard, HealthState
from s3proxy.cluster.commands import Reload, Reopen
from s3proxy.cluster.workers import Rolling, WorkerFailed
from s3proxy.dashboard.requests import LogLines
from s3proxy.services import crew
from s3proxy.services.crew import Crew
from s3proxy.services.engine import COMPONENTS


class _Cache:
    """As much of a CacheService as a crew needs."""

    store = None
    ram_limit = 1 << 20
    cleaned = 0

    def clean_up_soon(self) -> None:
        self.cleaned += 1


class CrewCase(SynchronousTestCase):
    """Two workers."""

    def setUp(self) -> None:
        """Nothing runs yet."""
        self.clock = Clock()
        self.spawner = FakeSpawner()
        self.patch(crew, "ProcessSpawner", lambda *arguments: self.spawner)
        self.cache = _Cache()
        self.ready: list[bool] = []
        self.failed: list[str] = []
        self.crew = Crew(
            self.clock,
            config(),
            workers=2,
            bound={},
            memory=-1,
            cache=self.cache,  # type: ignore[arg-type]
            own_addresses=frozenset,
            hostname="proxy-1",
            lines=LogLines(),
            ready=lambda: self.ready.append(True),
            failed=self.failed.append,
        )

    def start(self) -> None:
        """Both serve."""
        self.crew.startService()
        for process in list(self.spawner.made):
            process.worker.is_ready()
        self.assertEqual(self.ready, [True])

    def health(self) -> ComponentStatus:
        """Of the workers."""
        return self.crew.health()["workers"]()


class HealthTests(CrewCase):
    """The component ``workers``, and those of the workers."""

    def test_names(self) -> None:
        """The components of workers are those of an engine, and there is one more."""
        self.assertEqual(set(self.crew.health()), {*COMPONENTS, "workers"})

    def test_starting(self) -> None:
        """A start that takes its time is no fault, and nobody is warned; a worker that is missing later is one."""
        now = [1000.0]
        board = HealthBoard(lambda: now[0], max_age=0)
        board.add("workers", self.crew.health()["workers"])
        self.crew.startService()
        with capturedLogs() as events:
            board.check()
            self.spawner.made[0].worker.is_ready()
            found = board.check().components[0]
            self.assertEqual((found.state, found.message), (HealthState.DEGRADED, "Worker 2 is starting."))
            self.assertIn("The instance is starting.", board.check().not_ready)
            self.spawner.made[1].worker.is_ready()
            self.assertEqual(board.check().state, HealthState.HEALTHY)
        self.assertEqual([event for event in events if event["log_level"] is not LogLevel.info], [])
        with capturedLogs() as events:
            self.spawner.made[1].worker.has_ended("was ended by SIGKILL")
            found = board.check().components[0]
        self.assertEqual(
            (found.state, found.message),
            (HealthState.DEGRADED, "Worker 2 is started again; the others serve its connections."),
        )
        self.assertIn(LogLevel.warn, [event["log_level"] for event in events if "log_namespace" in event])

    def test_nobody(self) -> None:
        """Without a worker that serves, or answers, nothing is served."""
        self.start()
        for process in list(self.spawner.made):
            self.crew.supervisor.hear_nothing(process.worker)
        self.assertEqual((self.health().state, self.health().message), (HealthState.UNHEALTHY, "No worker answers."))
        for process in list(self.spawner.made):
            process.worker.has_ended("was ended by SIGKILL")
        self.assertEqual((self.health().state, self.health().message), (HealthState.UNHEALTHY, "No worker serves."))

    def test_quiet(self) -> None:
        """One that does not answer is named."""
        self.start()
        self.crew.supervisor.hear_nothing(self.spawner.made[0].worker)
        found = self.health()
        self.assertEqual(
            (found.state, found.message),
            (HealthState.DEGRADED, "Worker 1 does not answer; the others serve what arrives for it."),
        )
        states: Any = found.data["workers"]
        self.assertEqual([each["state"] for each in states], ["quiet", "serving"])


class OrderTests(CrewCase):
    """What workers are told."""

    def test_start_fails(self) -> None:
        """Who started them learns why they can't serve."""
        self.crew.startService()
        self.spawner.made[0].worker.has_ended("ended with exit code 1")
        self.assertEqual((self.failed, self.ready), (["worker 1 ended with exit code 1"], []))

    def test_hangup_amid_a_replacement(self) -> None:
        """A reload, and new log files, reach every process, whatever it is about to do."""
        self.start()
        self.crew.roll()
        self.spawner.made[2].worker.is_ready()
        self.crew.reload(config(cache__get_ttl=7.0))
        self.crew.reopen_logs()
        for order in (Reload, Reopen):
            self.assertEqual([len(process.told(order)) for process in self.spawner.made], [1] * 4, order)

    def test_roll(self) -> None:
        """All are replaced, and the log says so; the old ones are leaving until they have gone."""
        self.start()
        with capturedLogs() as events:
            rolling = Rolling(self.crew.size)
            rolled = self.crew.roll(rolling)
            for slot in (2, 3):
                self.spawner.made[slot].worker.is_ready()
            self.successResultOf(rolled)
        self.assertIn("all workers are replaced", [event.get("log_format") for event in events])
        self.assertEqual((self.crew.leaving(), len(rolling.replaced)), (2, 2))
        for slot in (0, 1):
            self.spawner.made[slot].worker.has_ended("ended with exit code 0")
        self.assertEqual(self.crew.leaving(), 0)

    def test_roll_fails(self) -> None:
        """Why not all are replaced is in the log, and who ordered it learns it; so it is when nobody waits any more."""
        self.start()
        with capturedLogs() as events:
            rolled = self.crew.roll()
            self.spawner.made[2].worker.has_ended("ended with exit code 1")
            self.failureResultOf(rolled, WorkerFailed)
            waiting = self.crew.roll()
            waiting.cancel()
            self.failureResultOf(waiting, CancelledError)
        texts = [str(event.get("log_format")) for event in events]
        self.assertIn("the workers are not all replaced: {error}", texts)
        self.assertTrue(any("no more workers are replaced" in text for text in texts))

    def test_end(self) -> None:
        """It is over when all have ended; what one leaves behind that was killed is looked for, of the others not."""
        self.start()
        farewell, killed = self.spawner.made
        self.crew.farewell(farewell.worker, {})
        farewell.worker.has_ended("ended with exit code 0")
        self.assertEqual(self.cache.cleaned, 0)
        killed.worker.has_ended("was ended by SIGKILL")
        self.assertEqual(self.cache.cleaned, 1)
