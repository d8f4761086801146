"""Two proxies with two workers each on one cache directory, clients that compare every byte, and somebody who kills
processes, damages files and fills the disk meanwhile.
"""

import random
import threading
import time
from test.support.chaos_aftermath import check_aftermath
from test.support.chaos_blows import ChaosBlows
from test.support.chaos_clients import HANG, ChaosClients
from test.support.chaos_history import History
from test.support.chaos_stage import REFRESH, TTL, ChaosStage, Setting
from test.support.waiting import poll

__all__ = ["Chaos", "Setting"]

_SLACK = 1.0
_LOOK = 30.0
_CALM = 8.0
"""Seconds for which clients go on after the last restart."""


class Chaos:
    """One run; :meth:`run` and then :meth:`close`.

    :ivar faults: what went wrong
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.faults: list[str] = []
        self.stage = ChaosStage(setting)
        self.counts = self.stage.counts
        self._choice = random.Random(setting.seed)
        # What the one with the fast clock confirms, the other trusts for longer.
        ahead = setting.skew
        self._history = History([TTL + max(0.0, ahead), TTL + max(0.0, -ahead)], REFRESH, _SLACK)
        self._keys = [f"object-{number}" for number in range(setting.objects)]
        self._over = threading.Event()
        self._clients = ChaosClients(self.stage, self._history, self._keys, self._fault)
        self._blows = ChaosBlows(self.stage, self._choice, self._over)

    def close(self) -> None:
        """End everything and remove the files."""
        self._over.set()
        self.stage.close()

    def run(self) -> list[str]:
        """All of it; what went wrong."""
        self.stage.log.add("chaos", f"seed {self.setting.seed}, skew {self.setting.skew:g} s")
        for key in self._keys:
            self._history.add_key(key)
            self._clients.write_behind(key, self._choice)
        for number in range(2):
            self.stage.start(number)
        poll(lambda: self._is_ahead(), _LOOK, "the second clock to be ahead", interval=0.5)
        threads = [
            threading.Thread(target=self._clients.work, args=(random.Random(self._choice.random()), self._over))
            for _ in range(self.setting.clients)
        ]
        until = time.monotonic() + self.setting.seconds
        for thread in threads:
            thread.start()
        try:
            while time.monotonic() < until and not self.faults:
                if self._over.wait(self._choice.uniform(0.4, 1.6) * self.setting.pause):
                    break
                self.stage.note_evictions()
                self._blows.deal()
            self._blows.calm()
            self._over.wait(_CALM)
        except Exception as problem:
            self._fault("chaos", f"{type(problem).__name__}: {problem}")
        finally:
            self._over.set()
            for thread in threads:
                thread.join(2 * HANG)
        if not self.faults:
            try:
                check_aftermath(self.stage)
            except Exception as problem:
                self._fault("chaos", f"afterwards: {type(problem).__name__}: {problem}")
        return self.faults

    def _is_ahead(self) -> bool:
        skew = self.stage.skew(1)
        return skew is not None and abs(skew - self.setting.skew) < 1

    def _fault(self, subject: str, text: str) -> None:
        about = self.stage.log.about(subject)
        self.faults.append(f"seed {self.setting.seed}, skew {self.setting.skew:g}: {text}\n{about}")
        self._over.set()
