"""The fast lane in front of a cache whose entries change."""

from prometheus_client import CollectorRegistry

from s3proxy.gateway.lane import Glance, Lane
from s3proxy.policy.rules import Rules
from s3proxy.s3.signature import redact_target
from s3proxy.telemetry.access import AccessLog
from s3proxy.telemetry.exit import Exit
from s3proxy.telemetry.metrics import Metrics
from test.gateway.test_read import BODY, ReadTestCase, not_modified, ok
from test.support.gateway import HOST, FakeResponse


class LaneTests(ReadTestCase):
    """One lane beside the gateway."""

    def setUp(self) -> None:
        super().setUp()
        metrics = Metrics(CollectorRegistry(), self.harness.clock.seconds)
        log = AccessLog(self.mktemp(), "host", self.harness.clock, redact=redact_target)
        self.lane = Lane(self.harness.cache, Rules(self.harness.config), Exit(metrics, log), now=self.harness.now)

    def answer(self, wanted: bytes | None = None) -> bytes | None:
        """A GET through the lane."""
        answer = self.lane.answer(Glance(b"GET", b"/key", HOST, wanted, False, None, b"", b""), "192.0.2.1", "http")
        return None if answer is None else b"".join(answer)

    def test_every_version_has_its_own_head(self) -> None:
        """No head of an older version is put before the bytes of a newer one of the same size."""
        self.cached()
        self.served(self.harness.get(), b"HIT")
        first = self.answer()
        assert first is not None
        self.assertIn(b'\r\nETag: "v1"\r\n', first)
        self.assertTrue(first.endswith(b"\r\n\r\n" + BODY))
        self.harness.send(b"DELETE", b"/key")
        self.upstream.last.respond(FakeResponse(204))
        self.assertIsNone(self.answer())
        self.harness.get()
        self.upstream.last.respond(ok(BODY[::-1], b'"v2"'))
        self.served(self.harness.get(), b"HIT", BODY[::-1])
        second = self.answer()
        assert second is not None
        self.assertIn(b'\r\nETag: "v2"\r\n', second)
        self.assertTrue(second.endswith(b"\r\n\r\n" + BODY[::-1]))

    def test_what_is_written_takes_the_other_way(self) -> None:
        """From the moment a write may take effect until S3 has been asked again."""
        self.cached()
        self.served(self.harness.get(), b"HIT")
        self.assertIsNotNone(self.answer(b"bytes=0-3"))
        self.harness.send(b"DELETE", b"/key")
        self.assertIsNone(self.answer(b"bytes=0-3"))

    def test_age_after_a_confirmation(self) -> None:
        """The head of a confirmed entry stays, its age begins anew."""
        self.cached()
        self.harness.clock.advance(60)
        self.assertIsNone(self.answer(), "memory has to be read again first")
        self.harness.get()
        self.assertIn(b"\r\nAge: 60\r\n", self.answer() or b"")
        self.harness.clock.advance(1)
        self.assertIsNone(self.answer())
        self.harness.get()
        self.upstream.last.respond(not_modified())
        self.harness.get()
        self.assertIn(b"\r\nAge: 0\r\n", self.answer() or b"")

    def test_st14_expired(self) -> None:
        """ST-14: the lane has no clock of its own: what expires is confirmed first, each time anew."""
        self.cached()
        for round in range(1, 4):
            self.served(self.harness.get(), b"HIT")
            self.assertIsNotNone(self.answer())
            self.harness.clock.advance(61)
            self.assertIsNone(self.answer())
            self.harness.get()
            self.asks(round).respond(not_modified())
