"""Cards of instances."""

import os
from test.support.gateway import GatewayHarness

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.dashboard.instances import Cards
from s3proxy.storage.layout import instance_text


class CardsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.one, self.two = GatewayHarness(), GatewayHarness()
        self.addCleanup(self.one.close)
        self.addCleanup(self.two.close)
        self.two.root = self.one.root
        self.two.open()
        self.mine, self.theirs = Cards(self.one.store.volume), Cards(self.two.store.volume)
        self.folder = os.path.join(self.one.root, "inst")

    def test_each_other(self) -> None:
        """Instances on one directory see each other's cards; their own comes first."""
        self.mine.write({"hostname": "one"})
        self.theirs.write({"hostname": "two"})
        self.assertEqual([row["card"] for row in self.mine.read()], [{"hostname": "one"}, {"hostname": "two"}])
        self.assertEqual([row["own"] for row in self.theirs.read()], [True, False])
        self.assertTrue(all(row["alive"] and row["beat"] for row in self.mine.read()))

    def test_without_a_card(self) -> None:
        """One whose dashboard is off, or whose card is damaged, is known by its heartbeat."""
        self.assertEqual([row["card"] for row in self.mine.read()], [{}, {}])
        self.theirs.write({"hostname": "two"})
        with open(self.path(self.two, "card"), "wb") as file:
            file.write(b'{"hostname": "tw')
        self.assertEqual([row["card"] for row in self.mine.read()], [{}, {}])
        with open(self.path(self.two, "card"), "wb") as file:
            file.write(b"[]")
        self.assertEqual(self.mine.read()[1]["card"], {})

    def path(self, harness: GatewayHarness, suffix: str) -> str:
        return os.path.join(self.folder, f"{instance_text(harness.store.volume.instance.number)}.{suffix}")

    def test_the_end(self) -> None:
        """A card is taken away at the end; those of the dead are removed by the living."""
        self.mine.write({})
        self.theirs.write({})
        self.mine.remove()
        self.assertFalse(os.path.exists(self.path(self.one, "card")))
        os.unlink(self.path(self.two, "hb"))
        self.assertEqual(len(self.mine.read()), 1)
        self.mine.tidy()
        self.assertFalse(os.path.exists(self.path(self.two, "card")))
        self.mine.remove()

    def test_nothing_else_is_touched(self) -> None:
        """Files of others stay."""
        path = os.path.join(self.folder, "x.other")
        with open(path, "wb"):
            pass
        self.mine.write({})
        self.mine.tidy()
        self.assertTrue(os.path.exists(path))
        self.assertTrue(os.path.exists(self.path(self.one, "card")))
