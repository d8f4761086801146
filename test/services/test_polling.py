"""Asking workers how they are, with processes that are none."""

import json
from test.cluster.processes import FakeProcess, FakeSpawner
from test.services.test_facts import facts
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.cluster.commands import Report, TakeOver
from s3proxy.cluster.supervisor import Supervisor
from s3proxy.cluster.workers import State
from s3proxy.services.polling import ANSWER, FRESH, PULL, QUIET, SILENCE, Polling
from s3proxy.telemetry.snapshot import empty


class PollingTests(SynchronousTestCase):
    """Polling."""

    def setUp(self) -> None:
        """Two workers serve, and are asked."""
        self.clock = Clock()
        self.spawner = FakeSpawner()
        self.supervisor = Supervisor(self.clock, self.spawner, 2)
        self.polling = Polling(self.clock, self.supervisor)
        started = self.supervisor.start(5.0)
        for process in list(self.spawner.made):
            process.worker.is_ready()
        self.successResultOf(started)
        self.one, self.other = self.spawner.made
        self.polling.start()
        self.addCleanup(self.polling.stop)

    def look(self, times: int) -> None:
        """So many looks pass."""
        for _ in range(times):
            self.clock.advance(PULL)

    def say(self, process: FakeProcess, **said: Any) -> None:
        """What a process says from now on."""
        process.says = {"data": json.dumps(said).encode()}

    def test_facts_and_counts(self) -> None:
        """What workers say is known, and of one that ended what it has counted."""
        self.say(self.one, facts=facts(), snapshot=empty())
        self.say(self.other, facts=facts())
        self.look(1)
        self.assertEqual(self.polling.gathered.read()["reads"], 20)
        self.assertEqual(len(self.polling.snapshots()), 2)
        self.polling.gone(self.one.worker)
        self.assertEqual(self.polling.gathered.read()["reads"], 20)
        self.assertEqual(len(self.polling.snapshots()), 1)
        self.assertEqual([each["wanted"] for each in self.one.told(Report)], ["facts"])

    def test_one_that_leaves_is_asked(self) -> None:
        """A worker that lets its last requests end goes on to tell which these are; one that starts is not asked."""
        self.say(self.one, facts=facts())
        self.look(1)
        self.supervisor.roll()
        self.spawner.made[2].worker.is_ready()
        self.assertIs(self.one.worker.state, State.LEAVING)
        self.say(self.one, facts=facts(row={"in_flight": 1.0}))
        self.look(1)
        self.assertEqual(self.polling.gathered.read()["in_flight"], 1)
        self.assertEqual(self.spawner.made[3].told(Report), [])

    def test_quiet(self) -> None:
        """One that does not answer for some seconds has its clients served by others, and gets them back."""
        self.one.deaf = True
        self.look(QUIET)
        self.assertEqual(self.other.told(TakeOver), [])
        self.look(1)
        self.assertTrue(self.one.worker.quiet)
        self.assertEqual(self.other.told(TakeOver), [{"slot": 0}])
        self.one.deaf = False
        self.look(int(ANSWER / PULL) + 1)
        self.assertFalse(self.one.worker.quiet or self.one.killed)

    def test_silent(self) -> None:
        """One that says nothing for a minute is killed; the other, which answers, is not."""
        self.one.deaf = True
        self.look(SILENCE)
        self.assertFalse(self.one.killed)
        self.look(1)
        self.assertEqual((self.one.killed, self.other.killed, self.other.worker.quiet), (True, False, False))

    def test_supervisor_stood_still(self) -> None:
        """When it is the supervisor that has stood still, or its clock was set, no worker is blamed for that."""
        self.look(2)
        self.clock.advance(100 * SILENCE)
        self.look(1)
        self.assertEqual([process.killed for process in self.spawner.made], [False, False])
        self.assertEqual([process.worker.quiet for process in self.spawner.made], [False, False])

    def test_refresh(self) -> None:
        """Who asks is told when all have answered, or after some seconds; many who ask at once are one question."""
        self.one.deaf = True
        first, second = self.polling.refresh(), self.polling.refresh()
        self.assertEqual(len(self.other.told(Report)), 1)
        self.assertNoResult(first)
        self.clock.advance(ANSWER)
        self.successResultOf(first)
        self.successResultOf(second)
        self.one.deaf = False
        self.clock.advance(FRESH)
        asked = len(self.other.told(Report))
        self.successResultOf(self.polling.refresh("snapshot"))
        self.successResultOf(self.polling.refresh("snapshot"))
        self.assertEqual(len(self.other.told(Report)), asked + 1)
