"""What wrk prints, as a load."""

from twisted.trial.unittest import SynchronousTestCase

from bench.process import ServerFailed
from bench.wrk import parse_summary

OUTPUT = """\
Running 3s test @ http://127.0.0.1:8000/
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   700.00us  100.00us   9.00ms   90.00%
  60000 requests in 3.00s, 80.00MB read
Requests/sec:  20000.00
Transfer/sec:     26.67MB
requests=60000 microseconds=3000000 p50=700 p99=2500 status={status} connect=0 read={read} write=0 timeout=0
"""


class WrkTests(SynchronousTestCase):
    def test_a_summary(self) -> None:
        """Its last line says it all; bodies have the size that the caller knows."""
        load = parse_summary(OUTPUT.format(status=0, read=0), 1024)
        self.assertEqual((load.requests, load.body_bytes, load.seconds), (60000, 60000 * 1024, 3.0))
        self.assertEqual(load.extras, {"total_ms": 0.7, "p99_ms": 2.5})

    def test_errors(self) -> None:
        """One answer with a wrong status or one lost connection, and there is no figure."""
        for wrong in ({"status": 1, "read": 0}, {"status": 0, "read": 3}):
            error = self.assertRaises(ServerFailed, parse_summary, OUTPUT.format(**wrong), 1024)
            self.assertIn(str({name: count for name, count in wrong.items() if count}), str(error))

    def test_nothing_was_answered(self) -> None:
        """No requests are no figure."""
        silent = OUTPUT.format(status=0, read=0).replace("requests=60000", "requests=0")
        self.assertRaises(ServerFailed, parse_summary, silent, 1024)

    def test_no_summary(self) -> None:
        """The error shows what was printed instead."""
        error = self.assertRaises(ServerFailed, parse_summary, "unable to connect to 127.0.0.1:8000", 1024)
        self.assertIn("unable to connect", str(error))
