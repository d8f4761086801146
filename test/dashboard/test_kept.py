"""Answers that are given again."""

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.dashboard.kept import MOST, MOST_BYTES, KeptAnswers


class KeptAnswersTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = 0.0
        self.kept = KeptAnswers(lambda: self.now)

    def put(self, question: bytes, body: bytes = b"body", seconds: float = 1.0) -> None:
        self.kept.put(question, seconds, body, b"text/plain")

    def body(self, question: bytes) -> bytes | None:
        found = self.kept.get(question)
        return None if found is None else found.body

    def test_for_a_moment(self) -> None:
        """Until its time is over."""
        self.put(b"q")
        self.assertEqual((self.body(b"q"), self.body(b"other")), (b"body", None))
        self.now = 1.0
        self.assertIsNone(self.body(b"q"))

    def test_anew(self) -> None:
        """A newer answer takes the place of the one before."""
        self.put(b"q", b"long body")
        self.put(b"q", b"new")
        self.assertEqual((self.body(b"q"), len(self.kept), self.kept.size), (b"new", 1, 3))

    def test_cleared(self) -> None:
        """After a change nothing is given again."""
        self.put(b"q")
        self.kept.clear()
        self.assertEqual((self.body(b"q"), self.kept.size), (None, 0))

    def test_many_questions(self) -> None:
        """Whoever asks for something else each time takes only so much memory; what is over makes room."""
        for number in range(3 * MOST):
            self.put(b"%d" % number)
        self.assertEqual(len(self.kept), MOST)
        self.assertIsNone(self.body(b"%d" % MOST))
        self.now = 2.0
        self.put(b"later", b"new")
        self.assertEqual((self.body(b"later"), len(self.kept)), (b"new", 1))

    def test_large_answers(self) -> None:
        """However many of them there may be, they are not larger than that together."""
        for number in range(MOST):
            self.put(b"%d" % number, bytes(MOST_BYTES // 8))
        self.assertEqual((len(self.kept), self.kept.size), (8, MOST_BYTES))
        self.put(b"huge", bytes(MOST_BYTES + 1))
        self.assertIsNone(self.body(b"huge"))
