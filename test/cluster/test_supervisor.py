"""The supervisor with processes that are none."""

from test.cluster.processes import FakeProcess, FakeSpawner

from twisted.internet.defer import CancelledError, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.cluster.commands import Drain, GiveBack, Reopen, TakeOver
from s3proxy.cluster.supervisor import (
    ANSWER_LIMIT,
    END_GRACE,
    FIRST_DELAY,
    LONGEST_DELAY,
    PATIENCE,
    START_LIMIT,
    STEADY,
    Supervisor,
)
from s3proxy.cluster.workers import Rolling, State, Worker, WorkerFailed


class SupervisorCase(SynchronousTestCase):
    """Three workers."""

    def setUp(self) -> None:
        """Nothing runs yet."""
        self.clock = Clock()
        self.spawner = FakeSpawner()
        self.gone: list[Worker] = []
        self.supervisor = Supervisor(self.clock, self.spawner, 3, self.gone.append)

    def start(self) -> None:
        """All three serve."""
        started = self.supervisor.start(5.0)
        for process in list(self.spawner.made):
            process.worker.is_ready()
        self.successResultOf(started)

    def process_of(self, slot: int) -> FakeProcess:
        """The newest process of a slot."""
        return [process for process in self.spawner.made if process.worker.slot == slot][-1]


class StartTests(SupervisorCase):
    """The first start."""

    def test_all(self) -> None:
        """It is over when all serve, and not before."""
        started = self.supervisor.start(5.0)
        self.assertEqual([process.worker.number for process in self.spawner.made], [1, 2, 3])
        for process in self.spawner.made[:2]:
            process.worker.is_ready()
        self.assertNoResult(started)
        self.assertEqual(self.supervisor.missing(), (3,))
        self.spawner.made[2].worker.is_ready()
        self.successResultOf(started)
        self.assertEqual(self.supervisor.missing(), ())

    def test_seats(self) -> None:
        """No two living processes have the same seat, and none has the supervisor's."""
        self.start()
        self.assertEqual(sorted(process.worker.seat for process in self.spawner.made), [1, 2, 3])

    def test_one_ends(self) -> None:
        """A worker that ends before all serve makes the start fail, and is not started again."""
        started = self.supervisor.start(5.0)
        self.spawner.made[1].worker.has_ended("ended with exit code 1")
        problem = self.failureResultOf(started, WorkerFailed)
        self.assertEqual(str(problem.value), "worker 2 ended with exit code 1")
        self.clock.advance(START_LIMIT / 2)
        self.assertEqual(len(self.spawner.made), 3)
        self.flush()

    def test_cannot_be_made(self) -> None:
        """So does a system that makes no process."""
        self.spawner.error = OSError(11, "no processes left")
        self.failureResultOf(self.supervisor.start(5.0), WorkerFailed)
        self.flush()

    def test_too_slow(self) -> None:
        """One that is not ready in time is killed."""
        started = self.supervisor.start(5.0)
        self.spawner.made[0].worker.is_ready()
        self.clock.advance(START_LIMIT)
        self.assertEqual([process.killed for process in self.spawner.made], [False, True, True])
        self.spawner.made[1].worker.has_ended("was ended by SIGKILL")
        self.failureResultOf(started, WorkerFailed)
        self.flush()

    def flush(self) -> None:
        """What is logged at the level of errors is no error of the test."""
        self.flushLoggedErrors()


class RestartTests(SupervisorCase):
    """A worker ends without having been told to."""

    def test_at_once(self) -> None:
        """The first time, another one is started at once, and told about to whoever wants to know."""
        self.start()
        first = self.process_of(1)
        first.worker.has_ended("was ended by SIGKILL")
        self.assertEqual(self.gone, [first.worker])
        self.clock.advance(0)
        self.assertEqual(len(self.spawner.made), 4)
        self.assertEqual(self.process_of(1).worker.slot, 1)
        self.assertEqual(self.supervisor.restarts, 1)

    def test_back_off(self) -> None:
        """The more often in a row, the longer it takes, up to a limit."""
        self.start()
        delays = []
        for _ in range(14):
            made = len(self.spawner.made)
            self.process_of(0).worker.has_ended("ended with exit code 1")
            waited = 0.0
            while len(self.spawner.made) == made:
                waited = min(call.getTime() for call in self.clock.getDelayedCalls()) - self.clock.seconds()
                self.clock.advance(waited)
            delays.append(waited)
        expected = [0.0, *(min(LONGEST_DELAY, FIRST_DELAY * 2**number) for number in range(13))]
        for delay, wanted in zip(delays, expected):
            self.assertAlmostEqual(delay, wanted)

    def test_steady_service_forgives(self) -> None:
        """After some time of service, an end is the first one again."""
        self.start()
        for _ in range(5):
            self.process_of(0).worker.has_ended("ended with exit code 1")
            self.clock.advance(LONGEST_DELAY)
        self.process_of(0).worker.is_ready()
        self.clock.advance(STEADY)
        self.process_of(0).worker.has_ended("ended with exit code 1")
        made = len(self.spawner.made)
        self.clock.advance(0)
        self.assertEqual(len(self.spawner.made), made + 1)

    def test_spawning_fails(self) -> None:
        """A process that can't be made is tried again."""
        self.start()
        self.spawner.error = OSError(12, "no memory")
        self.process_of(2).worker.has_ended("was ended by SIGKILL")
        self.clock.advance(0)
        self.spawner.error = None
        self.clock.advance(LONGEST_DELAY)
        self.process_of(2).worker.is_ready()
        self.assertEqual(self.supervisor.missing(), ())

    def test_seat_is_free_again(self) -> None:
        """A successor may have the seat of the one that is gone."""
        self.start()
        seat = self.process_of(0).worker.seat
        self.process_of(0).worker.has_ended("was ended by SIGKILL")
        self.clock.advance(0)
        self.assertEqual(self.process_of(0).worker.seat, seat)


class StandInTests(SupervisorCase):
    """Somebody else accepts what arrives for a worker that is missing."""

    def test_taken_over_and_given_back(self) -> None:
        """At once, until the successor is ready."""
        self.start()
        self.process_of(1).worker.has_ended("was ended by SIGKILL")
        substitutes = [process for process in self.spawner.made if process.told(TakeOver)]
        self.assertEqual([process.told(TakeOver) for process in substitutes], [[{"slot": 1}]])
        self.clock.advance(0)
        self.assertEqual(substitutes[0].told(GiveBack), [])
        self.process_of(1).worker.is_ready()
        self.assertEqual(substitutes[0].told(GiveBack), [{"slot": 1}])

    def test_burdens_are_spread(self) -> None:
        """Two that are missing are not stood in for by the same one, if there is another."""
        supervisor = Supervisor(self.clock, self.spawner, 4)
        started = supervisor.start(5.0)
        for process in list(self.spawner.made):
            process.worker.is_ready()
        self.successResultOf(started)
        self.process_of(0).worker.has_ended("was ended by SIGKILL")
        self.process_of(1).worker.has_ended("was ended by SIGKILL")
        taken = [process.told(TakeOver) for process in self.spawner.made[2:4]]
        self.assertEqual(sorted(len(each) for each in taken), [1, 1])

    def test_substitute_ends(self) -> None:
        """When the one that stands in ends, too, the next one does."""
        self.start()
        self.process_of(0).worker.has_ended("was ended by SIGKILL")
        (first,) = [process for process in self.spawner.made if process.told(TakeOver)]
        first.worker.has_ended("was ended by SIGKILL")
        (last,) = [process for process in self.spawner.made if process.worker.state is State.SERVING]
        self.assertEqual(sorted(each["slot"] for each in last.told(TakeOver)), sorted([0, first.worker.slot]))

    def test_nobody_left(self) -> None:
        """When all have ended, the first that is ready stands in for the others."""
        self.start()
        for slot in range(3):
            self.process_of(slot).worker.has_ended("was ended by SIGKILL")
        self.clock.advance(0)
        self.process_of(2).worker.is_ready()
        self.assertEqual(sorted(each["slot"] for each in self.process_of(2).told(TakeOver)), [0, 1])


class QuietTests(SupervisorCase):
    """A worker that serves, as far as anybody knows, and does not answer."""

    def substitutes(self) -> list[FakeProcess]:
        """Those who stand in for somebody now."""
        return [each for each in self.spawner.made if len(each.told(TakeOver)) > len(each.told(GiveBack))]

    def test_others_serve(self) -> None:
        """Somebody accepts what arrives for it, until it answers again."""
        self.start()
        quiet = self.process_of(1)
        self.supervisor.hear_nothing(quiet.worker)
        self.supervisor.hear_nothing(quiet.worker)
        (substitute,) = self.substitutes()
        self.assertEqual((substitute.told(TakeOver), quiet.worker.state), ([{"slot": 1}], State.SERVING))
        self.supervisor.hear(quiet.worker)
        self.supervisor.hear(quiet.worker)
        self.assertEqual(substitute.told(GiveBack), [{"slot": 1}])

    def test_killed(self) -> None:
        """When it is killed in the end, who stands in goes on until the successor serves."""
        self.start()
        self.supervisor.hear_nothing(self.process_of(1).worker)
        (substitute,) = self.substitutes()
        self.process_of(1).worker.has_ended("was ended by SIGKILL")
        self.clock.advance(0)
        self.assertEqual((len(substitute.told(TakeOver)), substitute.told(GiveBack)), (1, []))
        self.process_of(1).worker.is_ready()
        self.assertEqual(substitute.told(GiveBack), [{"slot": 1}])

    def test_substitute_is_quiet(self) -> None:
        """One that does not answer stands in for nobody; when nobody answers, nobody does."""
        self.start()
        self.supervisor.hear_nothing(self.process_of(0).worker)
        (first,) = self.substitutes()
        self.supervisor.hear_nothing(first.worker)
        (last,) = self.substitutes()
        self.assertEqual(len(last.told(TakeOver)), 2)
        self.supervisor.hear_nothing(last.worker)
        self.assertEqual(self.substitutes(), [])
        self.supervisor.hear(first.worker)
        self.assertEqual(self.substitutes(), [first])

    def test_successor_of_a_quiet_one(self) -> None:
        """It can be replaced like any other."""
        self.start()
        quiet = self.process_of(0)
        self.supervisor.hear_nothing(quiet.worker)
        self.supervisor.roll()
        self.process_of(0).worker.is_ready()
        self.assertEqual((self.substitutes(), len(quiet.told(Drain))), ([], 1))
        self.clock.advance(5.0 + END_GRACE)
        self.assertTrue(quiet.killed)


class LeavingTests(SupervisorCase):
    """A worker that somebody else has told to end."""

    def test_replaced_at_once(self) -> None:
        """A successor is started, and somebody stands in, before it has ended; its end is none to worry about."""
        self.start()
        old = self.process_of(1)
        old.worker.is_leaving()
        self.assertEqual(len(self.spawner.made), 4)
        self.assertEqual(sum(len(process.told(TakeOver)) for process in self.spawner.made), 1)
        self.assertEqual(old.told(TakeOver), [])
        old.worker.has_ended("ended with exit code 0")
        self.process_of(1).worker.is_ready()
        self.clock.advance(LONGEST_DELAY)
        self.assertEqual((len(self.spawner.made), self.supervisor.restarts), (4, 0))

    def test_does_not_end(self) -> None:
        """It is killed if it takes too long."""
        self.start()
        self.process_of(1).worker.is_leaving()
        self.clock.advance(5.0 + END_GRACE)
        self.assertTrue(self.spawner.made[1].killed)

    def test_all_end(self) -> None:
        """While everything ends, nobody is started."""
        self.start()
        self.supervisor.stop(5.0)
        self.process_of(1).worker.is_leaving()
        self.assertEqual(len(self.spawner.made), 3)


class RollTests(SupervisorCase):
    """All are replaced, one after the other."""

    def test_one_after_the_other(self) -> None:
        """A worker is told to leave when its successor serves, and then it is the next one's turn."""
        self.start()
        old = list(self.spawner.made)
        rolled = self.supervisor.roll()
        for slot in range(3):
            self.assertEqual(len(self.spawner.made), 4 + slot)
            self.assertEqual(old[slot].told(Drain), [])
            self.assertEqual(self.supervisor.missing(), ())
            self.process_of(slot).worker.is_ready()
            self.assertEqual(old[slot].told(Drain), [{"limit": 5.0, "patience": PATIENCE}])
        self.successResultOf(rolled)
        self.assertEqual([each.worker.state for each in old], [State.LEAVING] * 3)
        for each in old:
            each.worker.has_ended("ended with exit code 0")
        self.clock.advance(LONGEST_DELAY)
        self.assertEqual(len(self.spawner.made), 6, "one that left was started again")
        self.assertEqual([process.told(TakeOver) for process in self.spawner.made], [[]] * 6)

    def test_seats_differ(self) -> None:
        """A successor does not share the seat of the predecessor that still lives."""
        self.start()
        self.supervisor.roll()
        self.assertEqual(len({worker.seat for worker in self.supervisor.workers}), 4)

    def test_successor_fails(self) -> None:
        """A successor that ends leaves everything as it was."""
        self.start()
        rolled = self.supervisor.roll()
        self.process_of(0).worker.has_ended("ended with exit code 1")
        self.failureResultOf(rolled, WorkerFailed)
        self.clock.advance(LONGEST_DELAY)
        self.assertEqual(len(self.spawner.made), 4)
        self.assertEqual(len(self.supervisor.serving), 3)

    def test_does_not_leave(self) -> None:
        """One that does not end in time is killed."""
        self.start()
        old = self.process_of(0)
        self.supervisor.roll()
        self.process_of(0).worker.is_ready()
        self.clock.advance(5.0 + END_GRACE)
        self.assertTrue(old.killed)

    def test_predecessor_dies_first(self) -> None:
        """If the old one ends before the new one is ready, somebody stands in, and no third one is started."""
        self.start()
        rolled = self.supervisor.roll()
        self.spawner.made[0].worker.has_ended("was ended by SIGKILL")
        self.clock.advance(LONGEST_DELAY)
        self.assertEqual(len(self.spawner.made), 4)
        self.assertEqual(sum(len(process.told(TakeOver)) for process in self.spawner.made), 1)
        self.process_of(0).worker.is_ready()
        self.assertEqual(sum(len(process.told(GiveBack)) for process in self.spawner.made), 1)
        for slot in (1, 2):
            self.process_of(slot).worker.is_ready()
        self.successResultOf(rolled)

    def test_twice_at_once(self) -> None:
        """A second replacement while one is going on is refused, and starts nothing, however far the first is."""
        self.start()
        rolled = self.supervisor.roll()
        for slot in range(3):
            made = len(self.spawner.made)
            self.failureResultOf(self.supervisor.roll(), WorkerFailed)
            self.assertEqual(len(self.spawner.made), made)
            self.process_of(slot).worker.is_ready()
        self.successResultOf(rolled)
        self.supervisor.roll()
        self.assertEqual(len(self.spawner.made), 7)

    def test_progress(self) -> None:
        """Who ordered it sees which worker's turn it is, and which are new."""
        self.start()
        self.process_of(2).worker.has_ended("was ended by SIGKILL")
        rolling = Rolling(3)
        rolled = self.supervisor.roll(rolling)
        self.assertEqual((rolling.current, rolling.replaced), (1, []))
        self.clock.advance(2.0)
        self.process_of(0).worker.is_ready()
        self.assertEqual(rolling.current, 2)
        (first,) = rolling.replaced
        self.assertEqual((first.number, first.before, first.seconds), (1, 1000, 2.0))
        self.assertEqual(first.pid, self.process_of(0).pid)
        self.process_of(1).worker.is_ready()
        # The third was started at the first turn of the clock.
        self.process_of(2).worker.is_ready()
        self.successResultOf(rolled)
        self.assertEqual(rolling.current, 0)
        self.assertEqual(len(rolling.replaced) + len(rolling.skipped), 3)

    def test_cancelled(self) -> None:
        """Who waits no longer has the others left as they are; the one whose turn it is gets its successor, and the
        next replacement does not start another one for it.
        """
        self.start()
        rolled = self.supervisor.roll()
        rolled.cancel()
        self.failureResultOf(rolled, CancelledError)
        self.clock.advance(1.0)
        again = self.supervisor.roll()
        self.assertEqual(len(self.spawner.made), 4)
        for slot in range(3):
            self.process_of(slot).worker.is_ready()
        self.successResultOf(again)
        self.assertEqual(len(self.spawner.made), 6)
        self.assertEqual([bool(process.told(Drain)) for process in self.spawner.made], [True] * 3 + [False] * 3)

    def test_everything_ends(self) -> None:
        """When everything ends meanwhile, so does the replacement; and none begins."""
        self.start()
        rolled = self.supervisor.roll()
        stopped = self.supervisor.stop(7.0)
        self.failureResultOf(rolled, WorkerFailed)
        self.failureResultOf(self.supervisor.roll(), WorkerFailed)
        self.assertEqual([len(process.told(Drain)) for process in self.spawner.made], [1] * 4)
        self.process_of(0).worker.is_ready()
        for process in list(self.spawner.made):
            process.worker.has_ended("ended with exit code 0")
        self.successResultOf(stopped)
        self.assertEqual(len(self.spawner.made), 4)

    def test_not_started(self) -> None:
        """Before all have served at once there is nothing to replace."""
        self.supervisor.start(5.0)
        self.failureResultOf(self.supervisor.roll(), WorkerFailed)
        self.assertEqual(len(self.spawner.made), 3)

    def test_cannot_be_made(self) -> None:
        """A system that makes no process leaves everything as it was, and the next replacement is a new one."""
        self.start()
        self.spawner.error = OSError(11, "no processes left")
        self.failureResultOf(self.supervisor.roll(), WorkerFailed)
        self.clock.advance(LONGEST_DELAY)
        self.assertEqual((len(self.supervisor.serving), len(self.spawner.made)), (3, 3))
        self.spawner.error = None
        self.supervisor.roll()
        self.assertEqual(len(self.spawner.made), 4)

    def test_missing_worker(self) -> None:
        """One that is being started again is new anyway."""
        self.start()
        self.process_of(0).worker.has_ended("was ended by SIGKILL")
        rolled = self.supervisor.roll()
        self.process_of(1).worker.is_ready()
        self.process_of(2).worker.is_ready()
        self.successResultOf(rolled)


class StopTests(SupervisorCase):
    """The end."""

    def test_drain(self) -> None:
        """All are told to leave, and it is over when all are gone; none is started again."""
        self.start()
        stopped = self.supervisor.stop(7.0)
        order = {"limit": 7.0, "patience": 0.0}
        self.assertEqual([process.told(Drain) for process in self.spawner.made], [[order]] * 3)
        for process in list(self.spawner.made):
            self.assertNoResult(stopped)
            process.worker.has_ended("ended with exit code 0")
        self.successResultOf(stopped)
        self.clock.advance(LONGEST_DELAY)
        self.assertEqual(len(self.spawner.made), 3)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_killed_in_the_end(self) -> None:
        """One that does not end is killed some seconds after the limit."""
        self.start()
        self.spawner.made[0].deaf = True
        self.supervisor.stop(7.0)
        self.clock.advance(7.0 + END_GRACE)
        self.assertEqual([process.killed for process in self.spawner.made], [True, True, True])

    def test_restart_is_cancelled(self) -> None:
        """One that waits to be started again is not."""
        self.start()
        for _ in range(4):
            self.process_of(0).worker.has_ended("ended with exit code 1")
            self.clock.advance(LONGEST_DELAY)
        self.process_of(0).worker.has_ended("ended with exit code 1")
        made = len(self.spawner.made)
        self.supervisor.stop(7.0)
        self.clock.advance(LONGEST_DELAY)
        self.assertEqual(len(self.spawner.made), made)

    def test_before_anything(self) -> None:
        """Without workers it is over at once."""
        self.successResultOf(self.supervisor.stop(7.0))

    def test_twice(self) -> None:
        """Who asks again is told of the same end."""
        self.start()
        first, second = self.supervisor.stop(7.0), self.supervisor.stop(1.0)
        for process in list(self.spawner.made):
            process.worker.has_ended("ended with exit code 0")
        self.successResultOf(first)
        self.successResultOf(second)


class OrderTests(SupervisorCase):
    """What workers are told."""

    def test_broadcast(self) -> None:
        """All are told, those on their way in or out included: they write to the same log files."""
        self.start()
        self.supervisor.roll()
        self.process_of(0).worker.is_ready()
        self.supervisor.broadcast(Reopen)
        self.assertEqual([len(process.told(Reopen)) for process in self.spawner.made], [1] * 5)

    def test_starting_worker_takes_its_time(self) -> None:
        """One that starts hears an order when it has started; that is no fault."""
        self.start()
        self.supervisor.roll()
        process = self.process_of(0)
        process.deaf = True
        answer = self.supervisor.order(process.worker, Reopen)
        self.clock.advance(ANSWER_LIMIT)
        self.assertNoResult(answer)

    def test_no_answer(self) -> None:
        """A worker that does not answer in time is given up on for that order, not killed."""
        self.start()
        process = self.process_of(0)
        process.deaf = True
        answer = self.supervisor.order(process.worker, TakeOver, slot=1)
        self.clock.advance(ANSWER_LIMIT)
        self.failureResultOf(answer)
        self.assertFalse(process.killed)

    def test_lost_channel(self) -> None:
        """An order that can't be given is no error for anybody else."""
        self.start()
        self.patch(FakeProcess, "order", lambda process, command, **arguments: fail(ConnectionError("gone")))
        self.supervisor.broadcast(TakeOver, slot=1)
