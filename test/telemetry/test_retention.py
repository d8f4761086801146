"""The removal of old logs."""

import os
from calendar import timegm

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.telemetry.retention import Kept, Sweep

DAY = 86400.0
NOW = float(timegm((2026, 3, 31, 12, 0, 0)))


class RetentionTests(SynchronousTestCase):
    """Kept are 30 days of access logs and 10 of application logs; this host is proxy-1."""

    def setUp(self) -> None:
        self.root = self.mktemp()
        os.makedirs(self.root)

    def plant(self, path: str, *, days: float = 0, text: str = "line\n") -> None:
        """A file that was changed so many days ago."""
        whole = os.path.join(self.root, path)
        os.makedirs(os.path.dirname(whole), exist_ok=True)
        with open(whole, "w", encoding="ascii") as file:
            file.write(text)
        os.utime(whole, (NOW - days * DAY,) * 2)

    def sweep(self) -> Sweep:
        """Look at everything."""
        kept = Kept(
            access_dir=os.path.join(self.root, "access"), access_days=30,
            app_dir=os.path.join(self.root, "app"), app_days=10, hostname="proxy-1",
        )  # fmt: skip
        return Sweep(kept, NOW).run()

    def left(self) -> list[str]:
        """All files and empty directories that are there."""
        found = []
        for folder, folders, names in os.walk(self.root):
            found += [os.path.join(folder, name) for name in names]
            if not names and not folders:
                found.append(folder + "/")
        return sorted(os.path.relpath(path, self.root) + ("/" if path.endswith("/") else "") for path in found)

    def test_segments(self) -> None:
        """Own files go after 30 days by the date in their names, whenever they were changed; the others stay."""
        self.plant("access/2026/02/27/2026-02-27-10-00-00-proxy-1.log")
        self.plant("access/2026/02/28/2026-02-28-10-00-00-proxy-1-2.log")
        self.plant("access/2026/03/01/2026-03-01-13-00-00-proxy-1.log", days=90)
        sweep = self.sweep()
        self.assertEqual(self.left(), ["access/2026/03/01/2026-03-01-13-00-00-proxy-1.log"])
        self.assertEqual(dict(sweep.removed), {("access", "own"): 2})
        self.assertEqual(sweep.problem, "")

    def test_other_hosts(self) -> None:
        """Files of other hosts, gone ones too, get one day more."""
        self.plant("access/2026/02/28/2026-02-28-11-00-00-proxy-2.log")
        self.plant("access/2026/02/28/2026-02-28-13-00-00-proxy-2.log")
        sweep = self.sweep()
        self.assertEqual(self.left(), ["access/2026/02/28/2026-02-28-13-00-00-proxy-2.log"])
        self.assertEqual(dict(sweep.removed), {("access", "foreign"): 1})

    def test_application_logs(self) -> None:
        """A past day's file goes 10 days after its day; a host that is gone leaves no directory behind."""
        self.plant("app/proxy-1/s3proxy.log", days=100)
        self.plant("app/proxy-1/s3proxy.log.2026-03-20")
        self.plant("app/proxy-1/s3proxy.log.2026-03-20-1")
        self.plant("app/proxy-1/s3proxy.log.2026-03-21")
        self.plant("app/gone/s3proxy.log", days=12)
        self.plant("app/gone/s3proxy.log.2026-03-01")
        self.plant("app/quiet/s3proxy.log", days=10.5)
        sweep = self.sweep()
        self.assertEqual(
            self.left(),
            ["app/proxy-1/s3proxy.log", "app/proxy-1/s3proxy.log.2026-03-21", "app/quiet/s3proxy.log"],
        )
        self.assertEqual(dict(sweep.removed), {("app", "own"): 2, ("app", "foreign"): 2})

    def test_active_files(self) -> None:
        """The active access log of a host that writes no more goes by its last change; an empty one is kept."""
        self.plant("access/access-proxy-1.log", days=40, text="")
        self.plant("access/access-proxy-2.log", days=32)
        self.plant("access/access-proxy-3.log", days=30.5)
        self.sweep()
        self.assertEqual(self.left(), ["access/access-proxy-1.log", "access/access-proxy-3.log"])

    def test_foreign_files(self) -> None:
        """Whatever this program did not name stays, at any age, and so does the directory around it."""
        names = [
            "access/2020/01/01/notes.txt",
            "access/2020/01/01/2019-12-31-10-00-00-proxy-1.log",
            "access/2020/01/2020-01-01-10-00-00-proxy-1.log",
            "access/2020/01/01/2020-01-01-10-00-00-proxy-1.log.gz",
            "access/2020/13/01/2020-13-01-10-00-00-proxy-1.txt",
            "access/old/01/01/2020-01-01-10-00-00-proxy-1.log",
            "access/access.log",
            "app/proxy-1/other.log.2020-01-01",
            "app/proxy-1/s3proxy.log.2020-01-01.bak",
            "app/s3proxy.log",
            "app/s3proxy.log.2020-01-01",
        ]
        for name in names:
            self.plant(name, days=1000)
        self.assertEqual(dict(self.sweep().removed), {})
        self.assertEqual(self.left(), sorted(names))

    def test_links(self) -> None:
        """A symbolic link is neither followed nor removed."""
        self.plant("elsewhere/2020-01-01-10-00-00-proxy-1.log")
        self.plant("elsewhere/s3proxy.log.2020-01-01")
        os.makedirs(os.path.join(self.root, "access/2020/01"))
        os.makedirs(os.path.join(self.root, "app/proxy-1"))
        os.symlink("../../../elsewhere", os.path.join(self.root, "access/2020/01/01"))
        name = "s3proxy.log.2020-01-01"
        os.symlink(f"../../elsewhere/{name}", os.path.join(self.root, "app/proxy-1", name))
        before = self.left()
        self.assertEqual(dict(self.sweep().removed), {})
        self.assertEqual(self.left(), before)

    def test_name_without_a_real_date(self) -> None:
        """Then the last change tells."""
        self.plant("access/2020/02/39/2020-02-39-10-00-00-proxy-1.log", days=1)
        self.plant("access/2020/02/38/2020-02-38-10-00-00-proxy-1.log", days=31)
        self.sweep()
        self.assertEqual(
            [name for name in self.left() if name.endswith(".log")],
            ["access/2020/02/39/2020-02-39-10-00-00-proxy-1.log"],
        )

    def test_nothing_there(self) -> None:
        """Directories that do not exist are no problem."""
        sweep = self.sweep()
        self.assertEqual((dict(sweep.removed), sweep.problem), ({}, ""))

    def test_what_cannot_be_removed(self) -> None:
        """It is told, and the rest is removed."""
        self.plant("access/2020/01/01/2020-01-01-10-00-00-proxy-1.log")
        self.plant("access/2020/01/02/2020-01-02-10-00-00-proxy-1.log")
        real = os.unlink

        def unlink(path: str) -> None:
            if "2020-01-01" in path:
                raise PermissionError(1, "Operation not permitted", path)
            real(path)

        self.patch(os, "unlink", unlink)
        sweep = self.sweep()
        self.assertIn("Operation not permitted", sweep.problem)
        self.assertEqual(dict(sweep.removed), {("access", "own"): 1})
