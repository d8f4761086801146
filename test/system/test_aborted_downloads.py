"""However many clients leave in the middle of a download: nothing of them stays in the running proxy.

A few hundred of them, or ten thousand with S3PROXY_TEST_LARGE=1.
"""

import random
import re
import threading
from collections import Counter
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from test.support.content import content
from test.support.fake_script import Action, Match
from test.support.raw_client import ConnectionEnded, RawClient
from test.support.sigv4 import Pair
from test.support.waiting import poll
from test.system.stage import LARGE_TESTS, MIB, Stage

DOWNLOADS = 10_000 if LARGE_TESTS else 400
THREADS = 8
PER_OBJECT = 40
"""Downloads for which one cold object of each kind is made."""
HIT_SIZE = 4 * MIB
MISS_SIZE = 300_000
LONG_SIZE = 20 * MIB
"""Much of it is missing when its readers leave: the fetch is given up."""
LONG_RATE = 16 * MIB
HOLD = 0.2
"""Seconds that S3 takes to the head of an answer, where it is slow."""
SEED = 5


class Aborts:
    """One thread's share of the downloads.

    :ivar done: how many of each kind
    :ivar wrong: what went wrong
    """

    def __init__(self, stage: Stage, seed: int, count: int) -> None:
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._stage = stage
        self._dice = random.Random(seed)
        self._seed = seed
        self._count = count
        kinds: list[Callable[[str], None]] = [
            self._hit, self._hit_range, self._miss, self._miss_range, self._long_miss, self._before_the_head,
            self._joined, self._uncached,
        ]  # fmt: skip
        self._kinds = kinds

    def run(self) -> None:
        """Do them."""
        left = self._count
        while left > 0:
            kind = self._dice.choice(self._kinds)
            name = kind.__name__
            before = self.done.total()
            try:
                kind(f"{self._seed}-{self._count - left}")
            except (ConnectionEnded, OSError, ValueError) as problem:
                self.wrong.append(f"{name}: {problem!r}")
                self.done[name] += 1
            left -= self.done.total() - before

    def _begin(self, key: bytes, *headers: Pair) -> RawClient:
        client = self._stage.connect(timeout=60, receive_buffer=self._dice.choice((0, 0, 16 << 10)))
        client.send(self._stage.request(b"GET", key, headers=headers))
        return client

    def _leave(self, client: RawClient, kind: str) -> None:
        """Without warning, or by the book."""
        self._dice.choice((client.abort, client.close))()
        self.done[kind] += 1

    def _read(self, client: RawClient, kind: str, size: int, start: int = 0) -> None:
        """Read some of the body, perhaps nothing, perhaps all, then leave."""
        head = client.read_head()
        if head.status not in (200, 206):
            raise ValueError(f"status {head.status}")
        limit = self._dice.choice((0, 1, size // 100, size // 2, size - 1, size, self._dice.randrange(size)))
        data = client.read_exactly(limit)
        if data != content(1, start, start + limit):
            raise ValueError(f"wrong bytes within {limit}")
        self._leave(client, kind)

    def _hit(self, _: str) -> None:
        self._read(self._begin(b"hit"), "hit", HIT_SIZE)

    def _hit_range(self, _: str) -> None:
        start = self._dice.randrange(HIT_SIZE)
        client = self._begin(b"hit", (b"Range", b"bytes=%d-" % start))
        self._read(client, "hit range", HIT_SIZE - start, start)

    def _miss(self, number: str) -> None:
        self._read(self._begin(self._cold(b"miss"), (b"Cache-Control", b"no-cache")), "miss", MISS_SIZE)

    def _miss_range(self, number: str) -> None:
        start = self._dice.randrange(MISS_SIZE)
        headers = [(b"Range", b"bytes=%d-%d" % (start, MISS_SIZE - 1)), (b"Cache-Control", b"no-cache")]
        self._read(self._begin(self._cold(b"miss"), *headers), "miss range", MISS_SIZE - start, start)

    def _long_miss(self, number: str) -> None:
        client = self._begin(self._cold(b"long"), (b"Cache-Control", b"no-cache"))
        client.read_head()
        limit = self._dice.randrange(MIB)
        if client.read_exactly(limit) != content(1, 0, limit):
            raise ValueError("wrong bytes")
        self._leave(client, "long miss")

    def _before_the_head(self, number: str) -> None:
        client = self._begin(self._cold(b"slow"), (b"Cache-Control", b"no-cache"))
        if self._dice.random() < 0.5:
            threading.Event().wait(self._dice.random() * 1.2 * HOLD)
        self._leave(client, "before the head")

    def _joined(self, number: str) -> None:
        """Several ask for one cold object; the one who asked first leaves at any time, like the others."""
        key = b"joined-" + number.encode()
        self._stage.put(key, 1, MISS_SIZE)
        clients = [self._begin(key) for _ in range(self._dice.randint(2, 5))]
        self._dice.shuffle(clients)
        for client in clients[1:]:
            if self._dice.random() < 0.3:
                self._leave(client, "joined, before the head")
            else:
                self._read(client, "joined", MISS_SIZE)
        self._read(clients[0], "joined", MISS_SIZE)

    def _uncached(self, number: str) -> None:
        self._read(self._begin(b"hit?response-content-type=a%2Fb"), "uncached", HIT_SIZE)

    def _cold(self, kind: bytes) -> bytes:
        return b"%b-%d" % (kind, self._dice.randrange(max(1, DOWNLOADS // PER_OBJECT)))


class AbortedDownloadTests(SynchronousTestCase):
    """One proxy."""

    def setUp(self) -> None:
        """Start, and serve a little of everything: what is opened once and kept is not left over."""
        self.stage = Stage()
        self.addCleanup(self.stage.stop)
        self.stage.put(b"hit", 1, HIT_SIZE)
        for number in range(max(1, DOWNLOADS // PER_OBJECT)):
            self.stage.put(b"miss-%d" % number, 1, MISS_SIZE)
            self.stage.put(b"slow-%d" % number, 1, MISS_SIZE)
            self.stage.put(b"long-%d" % number, 1, LONG_SIZE)
        for _ in range(2):
            self.assertTrue(self.stage.read(b"hit", 1, HIT_SIZE).exact)
            self.assertTrue(self.stage.read(b"slow-0", 1, MISS_SIZE).exact)
        self.stage.fake.script(Match(target=b"slow-"), Action(delay_head=HOLD), times=None)
        self.stage.fake.script(Match(target=b"joined-"), Action(delay_head=HOLD / 10), times=None)
        self.stage.fake.script(Match(target=b"long-"), Action(rate=LONG_RATE), times=None)
        self.stage.fake.close_idle_connections()
        self.sockets = self.stage.sockets()
        self.gauges = self.busy()

    def busy(self) -> dict[str, float]:
        """Every gauge of something under way that is not zero; the most that there ever was does not come down."""
        text = self.stage.proxy.metrics_text()
        names = re.findall(r"^# TYPE (\S*(?:in_flight|held|client_connections|active)\S*) gauge$", text, re.MULTILINE)
        self.assertIn("s3proxy_http_requests_in_flight", names)
        series = self.stage.proxy.metrics()
        names = [name for name in names if not name.endswith("_max")]
        return {name: value for name, value in series.items() if name.partition("{")[0] in names and value}

    def test_nothing_is_left(self) -> None:
        """Clients leave before the head, in the middle of a body, at its end; from hits, misses, ranges, shared fetches
        and uncached answers, by the dice. Afterwards descriptors, files and gauges are what they were, everything is
        still served, and nothing of it is a matter for the log.
        """
        shares = [Aborts(self.stage, SEED + number, DOWNLOADS // THREADS) for number in range(THREADS)]
        threads = [threading.Thread(target=share.run) for share in shares]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        done = sum((share.done for share in shares), Counter())
        self.assertEqual([problem for share in shares for problem in share.wrong], [])
        self.assertGreaterEqual(done.total(), DOWNLOADS)
        self.assertGreaterEqual(len(done), 9, done)
        self.stage.fake.behave()
        self.stage.wait_idle(self.sockets, 30)
        try:
            poll(lambda: self.busy() == self.gauges, 10, "the gauges to come down")
        except TimeoutError:
            self.assertEqual(self.busy(), self.gauges)
        for key, size in ((b"hit", HIT_SIZE), (b"miss-0", MISS_SIZE), (b"long-0", LONG_SIZE), (b"slow-0", MISS_SIZE)):
            self.assertTrue(self.stage.read(key, 1, size).exact)
        self.stage.wait_idle(self.sockets)
        self.assertEqual(self.stage.tracebacks(), [])
        self.assertEqual(self.stage.cache_state(), ("healthy", ""))
