"""Output gathered until the end of a turn."""

from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.util.turn import Turn


class Transport:
    """Notes when it is told to send."""

    def __init__(self, name: str, sent: list[str], act: Callable[[], None] = lambda: None) -> None:
        self._name = name
        self._sent = sent
        self._act = act

    def send_gathered(self) -> None:
        self._sent.append(self._name)
        self._act()


class TurnTests(SynchronousTestCase):
    """Turn."""

    def setUp(self) -> None:
        self.turn = Turn()
        self.sent: list[str] = []

    def test_no_turn(self) -> None:
        """Without a turn nothing is gathered."""
        self.assertFalse(self.turn.gather(Transport("a", self.sent)))

    def test_order(self) -> None:
        """Each sends once, in the order in which they asked first, and not before the end."""
        first, second = Transport("a", self.sent), Transport("b", self.sent)
        self.assertTrue(self.turn.begin())
        for transport in (first, second, first):
            self.assertTrue(self.turn.gather(transport))
        self.assertEqual(self.sent, [])
        self.turn.end()
        self.assertEqual(self.sent, ["a", "b"])
        self.assertFalse(self.turn.gather(first))

    def test_turn_within_a_turn(self) -> None:
        """The outer turn is the one that counts."""
        self.assertTrue(self.turn.begin())
        self.assertFalse(self.turn.begin())

    def test_asking_while_sending(self) -> None:
        """Who wants to send because another one has sent is referred to the reactor."""
        late: list[bool] = []
        self.turn.begin()
        self.turn.gather(Transport("a", self.sent, lambda: late.append(self.turn.gather(Transport("b", self.sent)))))
        self.turn.end()
        self.assertEqual((self.sent, late), (["a"], [False]))
