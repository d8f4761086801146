"""How many instances there are on one directory."""

import json
import os
import random
import tempfile

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.storage.files import SystemCalls
from s3proxy.storage.instance import Instance
from s3proxy.storage.layout import instance_text


class LeadersTests(SynchronousTestCase):
    """Instance.leaders."""

    def test_leaders(self) -> None:
        """Counted are those that live and stand for themselves: not workers, not the dead, not the silent of other
        hosts.
        """
        with tempfile.TemporaryDirectory() as folder:
            now = [0.0]

            def start(leads: bool) -> Instance:
                instance = Instance(SystemCalls(), folder, random.Random(os.urandom(8)), lambda: now[0], leads)
                instance.start()
                return instance

            first, worker, second = start(True), start(False), start(True)
            now[0] = first.started_at
            self.assertEqual([each.leaders(30.0) for each in (first, worker, second)], [2, 2, 2])
            with open(f"{folder}/{instance_text(255)}.hb", "w", encoding="ascii") as file:
                json.dump({"host": "elsewhere x", "pid": 1, "start": "1"}, file)
            self.assertEqual(first.leaders(30.0), 3)
            now[0] += 31.0
            self.assertEqual(first.leaders(30.0), 2)
            self.assertEqual(first.leaders(60.0), 3)
            second.stop()
            self.assertEqual(first.leaders(60.0), 2)
