"""Answers of which the cache has a part: the rest is asked of S3 in spans, of the same version only."""

import os

from twisted.internet.defer import Deferred

from s3proxy.cache.entry import ObjectId
from s3proxy.gateway.gaps import MOST_SPANS
from s3proxy.upstream.interfaces import UpstreamRequest, UpstreamTimeout
from test.gateway.test_read import BODY, SIGNED_RANGE, ReadTestCase, error, not_modified, ok, part
from test.support.gateway import FakeClient, FakeResponse

NEW = BODY[::-1]
ID = ObjectId("aws", b"bucket", b"key")
OTHER_SIGNED = SIGNED_RANGE.replace(b"host;range", b"host")


def precondition_failed() -> FakeResponse:
    """S3 has another version by now."""
    return error(412, b"PreconditionFailed")


class GapTestCase(ReadTestCase):
    """Nothing is merged unless a test says so."""

    settings: dict[str, object] = {"range_merge_gap_threshold": 0}

    def has(self, *spans: tuple[int, int], body: bytes = BODY) -> None:
        """Put these bytes into the cache."""
        for start, stop in spans:
            self.harness.get(range=b"bytes=%d-%d" % (start, stop - 1), authorization=SIGNED_RANGE)
            self.upstream.last.respond(part(start, stop, body))
        self.upstream.asked.clear()

    def ranges(self) -> list[bytes | None]:
        """The ranges that S3 was asked for."""
        return [asked.header(b"range") for asked in self.upstream.asked]

    def unanswered(self, client: FakeClient) -> None:
        """The client has nothing yet, not even a status."""
        self.assertEqual((client.status, client.ended), (None, None))


class SpanTests(GapTestCase):
    """What is asked for."""

    def test_only_what_is_missing(self) -> None:
        """Each gap is one request, with the version pinned; the next read of it all is a hit."""
        self.has((100, 200), (300, 400))
        client = self.harness.get()
        self.assertEqual(self.ranges(), [b"bytes=0-99", b"bytes=200-299", b"bytes=400-1023"])
        self.assertEqual([asked.header(b"if-match") for asked in self.upstream.asked], [b'"v1"'] * 3)
        for asked, span in zip(self.upstream.asked, ((0, 100), (200, 300), (400, 1024))):
            self.unanswered(client)
            asked.respond(part(*span))
        self.served(client, b"PARTIAL")
        self.assertIsNone(client.header(b"content-range"))
        record = self.harness.records[-1]
        self.assertEqual((record.bytes_from_cache, record.bytes_from_upstream, record.served_range), (200, 824, ""))
        self.served(self.harness.get(), b"HIT")

    def test_a_range(self) -> None:
        """A range with a gap is a 206 with its own Content-Range."""
        self.has((100, 200), (300, 400))
        client = self.harness.get(range=b"bytes=150-349")
        self.assertEqual(self.ranges(), [b"bytes=200-299"])
        self.asks(1).respond(part(200, 300))
        self.served(client, b"PARTIAL", BODY[150:350], 206)
        self.assertEqual(client.header(b"content-range"), b"bytes 150-349/1024")
        self.assertEqual(self.harness.records[-1].served_range, "bytes=150-349")

    def test_suffix(self) -> None:
        """The last bytes are counted from the size that is known."""
        self.has((1000, 1010))
        client = self.harness.get(range=b"bytes=-20")
        self.assertEqual(self.ranges(), [b"bytes=1010-1023"])
        self.asks(1).respond(part(1010, 1024))
        self.served(client, b"PARTIAL", BODY[-20:], 206)

    def test_open_end(self) -> None:
        """An open end is that of the object."""
        self.has((1000, 1010))
        client = self.harness.get(range=b"bytes=1005-")
        self.assertEqual(self.ranges(), [b"bytes=1010-1023"])
        self.asks(1).respond(part(1010, 1024))
        self.served(client, b"PARTIAL", BODY[1005:], 206)

    def test_nothing_at_hand(self) -> None:
        """If nothing of what is wanted is cached, the client's request goes up as it is."""
        self.has((100, 200))
        self.harness.get(range=b"bytes=500-599")
        self.assertEqual(self.ranges(), [b"bytes=500-599"])
        self.assertIsNone(self.upstream.last.header(b"if-match"))

    def test_signed_range_is_never_narrowed(self) -> None:
        """It goes up whole. What is held already is not stored twice."""
        self.has((100, 200))
        client = self.harness.get(range=b"bytes=50-349", authorization=SIGNED_RANGE)
        self.assertEqual(self.ranges(), [b"bytes=50-349"])
        self.assertIsNone(self.upstream.last.header(b"if-match"))
        self.asks(1).respond(part(50, 350))
        self.served(client, b"MISS", BODY[50:350], 206)
        self.served(self.harness.get(range=b"bytes=50-349"), b"HIT", BODY[50:350], 206)
        view = self.successResultOf(Deferred.fromCoroutine(self.harness.cache.view(ID)))
        assert view is not None
        self.assertEqual(view.held(), ((50, 100), (100, 200), (200, 350)))

    def test_other_signed_headers_leave_the_range_free(self) -> None:
        """What counts is whether Range is signed, not whether the request is."""
        self.has((100, 200))
        self.harness.get(range=b"bytes=150-299", authorization=OTHER_SIGNED)
        self.assertEqual(self.ranges(), [b"bytes=200-299"])

    def test_signed_if_match_stays(self) -> None:
        """A signed If-Match is the client's; the version is judged by the answer then."""
        self.has((100, 200))
        signed = SIGNED_RANGE.replace(b"host;range", b"host;if-match")
        client = self.harness.get(range=b"bytes=150-299", authorization=signed, if_match=b"*")
        self.assertEqual(self.asks(1).header(b"if-match"), b"*")
        self.upstream.last.respond(part(200, 300, NEW, b'"v2"'))
        self.unanswered(client)
        self.asks(2).respond(part(150, 300, NEW, b'"v2"'))
        self.served(client, b"MISS", NEW[150:300], 206)

    def test_bounded(self) -> None:
        """Of many gaps the nearest become one, and all are asked for at once."""
        self.has(*((start, start + 20 + start // 40) for start in range(20, 1000, 40)))
        client = self.harness.get()
        asked = self.upstream.asked[:]
        self.assertEqual(len(asked), MOST_SPANS)
        for each in asked:
            self.unanswered(client)
            first, last = (each.header(b"range") or b"")[6:].split(b"-")
            each.respond(part(int(first), int(last) + 1))
        self.asks(MOST_SPANS)
        self.served(client, b"PARTIAL")

    def test_bodies_in_any_order(self) -> None:
        """Later spans may come first: the client gets the bytes in order."""
        self.has((100, 200), (300, 400))
        client = self.harness.get()
        answers = [part(*span, deliver=False) for span in ((0, 100), (200, 300), (400, 1024))]
        for asked, answer in zip(self.upstream.asked, answers):
            asked.respond(answer)
        self.assertEqual((client.status, client.answer), (200, b""))
        for answer, (start, stop) in reversed(list(zip(answers, ((0, 100), (200, 300), (400, 1024))))):
            answer.sink.data_received(BODY[start:stop])
            answer.sink.stream_ended()
        self.served(client, b"PARTIAL")

    def test_at_once(self) -> None:
        """Answers may be complete before anybody could wait for them."""
        self.has((100, 200), (300, 400))

        def answer(request: UpstreamRequest) -> FakeResponse:
            first, last = (request.headers.get(b"range") or b"")[6:].split(b"-")
            return part(int(first), int(last) + 1)

        self.upstream.automatic = answer
        self.served(self.harness.get(), b"PARTIAL")

    def test_200_to_a_span(self) -> None:
        """A store that ignores Range sends everything: that will do."""
        self.has((100, 200))
        client = self.harness.get()
        self.upstream.asked[0].respond(ok())
        self.upstream.asked[1].respond(part(200, 1024))
        self.served(client, b"PARTIAL")


class MergeTests(GapTestCase):
    """``cache.range_merge_gap_threshold``."""

    settings = {"range_merge_gap_threshold": 50}

    def test_near_gaps_become_one(self) -> None:
        """Gaps with at most so many bytes between them are one request."""
        self.has((100, 150), (300, 351))
        client = self.harness.get()
        self.assertEqual(self.ranges(), [b"bytes=0-299", b"bytes=351-1023"])
        self.upstream.asked[0].respond(part(0, 300))
        self.upstream.asked[1].respond(part(351, 1024))
        self.served(client, b"PARTIAL")
        self.served(self.harness.get(), b"HIT")


class ChangedTests(GapTestCase):
    """The object is another one by now: one consistent restart."""

    def test_412(self) -> None:
        """The proxy's own precondition fails: the client never sees that, but the new object."""
        self.has((100, 200), (300, 400))
        client = self.harness.get()
        self.upstream.asked[0].respond(part(0, 100))
        self.upstream.asked[1].respond(precondition_failed())
        self.unanswered(client)
        self.assertTrue(self.upstream.asked[2].cancelled)
        last = self.asks(4)
        self.assertEqual((last.header(b"range"), last.header(b"if-match")), (None, None))
        last.respond(ok(NEW, b'"v2"'))
        self.served(client, b"MISS", NEW)
        self.served(self.harness.get(), b"HIT", NEW)

    def test_another_tag(self) -> None:
        """A store that ignores If-Match sends bytes of another version: none of them get into the old one."""
        self.has((100, 200))
        client = self.harness.get(range=b"bytes=150-249")
        self.asks(1).respond(part(200, 250, NEW, b'"v2"'))
        self.unanswered(client)
        last = self.asks(2)
        self.assertEqual((last.header(b"range"), last.header(b"if-match")), (b"bytes=150-249", None))
        last.respond(part(150, 250, NEW, b'"v2"'))
        self.served(client, b"MISS", NEW[150:250], 206)

    def broken_amid_the_body(self) -> FakeClient:
        """The client has a part of the old body, and the rest of a span is asked for again."""
        self.has((100, 200))
        client = self.harness.get(range=b"bytes=100-599")
        body = self.asks(1).respond(part(200, 600, deliver=False))
        body.sink.data_received(BODY[200:300])
        body.sink.stream_ended()
        self.assertEqual((client.status, client.answer), (206, BODY[100:300]))
        self.assertEqual(self.asks(2).header(b"range"), b"bytes=300-599")
        return client

    def test_amid_the_body(self) -> None:
        """What shows when the client has a part of the old body cuts it: never a mixture."""
        client = self.broken_amid_the_body()
        self.upstream.last.respond(precondition_failed())
        self.assertEqual((client.ended, client.answer), ("aborted", BODY[100:300]))
        self.assertIsNone(self.successResultOf(Deferred.fromCoroutine(self.harness.cache.view(ID))))

    def test_refused_amid_the_body(self) -> None:
        """S3 is not asked over and over when it has refused the rest."""
        client = self.broken_amid_the_body()
        self.upstream.last.respond(error(403, b"AccessDenied"))
        self.assertEqual(client.ended, "aborted")
        self.asks(2)

    def test_newer_version_in_the_cache(self) -> None:
        """Who is still in the middle of the old version learns that it is gone; the new one stays cached."""
        old = self.broken_amid_the_body()
        late = self.upstream.last
        fresh = self.harness.get(cache_control=b"no-cache")
        self.upstream.last.respond(ok(NEW, b'"v2"'))
        self.served(fresh, b"MISS", NEW)
        late.respond(precondition_failed())
        self.assertEqual(old.ended, "aborted")
        self.served(self.harness.get(), b"HIT", NEW)


class RefusedTests(GapTestCase):
    """S3 does not give a span."""

    def test_refused(self) -> None:
        """The client's own request decides: what S3 says to that is the answer, and the entry stays."""
        self.has((100, 200))
        client = self.harness.get(range=b"bytes=150-249")
        self.asks(1).respond(error(403, b"AccessDenied"))
        last = self.asks(2)
        self.assertEqual((last.header(b"range"), last.header(b"if-match")), (b"bytes=150-249", None))
        last.respond(error(403, b"AccessDenied"))
        self.assertEqual((client.status, client.ended), (403, "finished"))
        self.served(self.harness.get(range=b"bytes=100-199"), b"HIT", BODY[100:200], 206)

    def test_out_of_order(self) -> None:
        """A 503 to a span does not make the whole read fail."""
        self.has((100, 200))
        client = self.harness.get()
        self.upstream.asked[0].respond(error(503, b"SlowDown"))
        self.assertTrue(self.upstream.asked[1].cancelled)
        self.asks(3).respond(ok())
        self.served(client, b"MISS")

    def test_no_answer(self) -> None:
        """A time limit that passed is not given to the client twice."""
        self.has((100, 200))
        client = self.harness.get(range=b"bytes=150-249")
        self.asks(1).fail(UpstreamTimeout("no answer"))
        self.asks(1)
        self.assertEqual((client.status, client.ended), (504, "finished"))

    def test_client_leaves(self) -> None:
        """Nobody waits any more: the requests are given up, and nothing is left."""
        self.has((100, 200))
        client = self.harness.get()
        client.leave()
        self.assertEqual([asked.cancelled for asked in self.upstream.asked], [True, True])
        self.assertEqual(self.harness.left_over(), [])
        self.assertEqual(self.harness.cache.fills_in_flight, 0)


class SharedTests(GapTestCase):
    """Several clients at the same gaps."""

    def test_the_same_gap(self) -> None:
        """Nobody asks twice for the same bytes, and everybody waits for S3's word on the version."""
        self.has((100, 200))
        first = self.harness.get()
        second = self.harness.get()
        third = self.harness.get(range=b"bytes=150-249")
        self.asks(2)
        self.upstream.asked[0].respond(part(0, 100))
        self.unanswered(second)
        self.upstream.asked[1].respond(part(200, 1024))
        self.served(first, b"PARTIAL")
        self.served(second, b"PARTIAL")
        self.served(third, b"PARTIAL", BODY[150:250], 206)
        self.assertEqual(self.harness.records[-1].bytes_from_upstream, 0)

    def test_overlapping_gaps(self) -> None:
        """Only what nobody has asked for yet is asked for."""
        self.has((100, 200))
        first = self.harness.get(range=b"bytes=150-299")
        second = self.harness.get(range=b"bytes=150-399")
        self.assertEqual(self.ranges(), [b"bytes=200-299", b"bytes=300-399"])
        self.upstream.asked[1].respond(part(300, 400))
        self.unanswered(second)
        self.upstream.asked[0].respond(part(200, 300))
        self.served(first, b"PARTIAL", BODY[150:300], 206)
        self.served(second, b"PARTIAL", BODY[150:400], 206)

    def test_refusal_of_another(self) -> None:
        """What S3 refuses to one client it may give to the next."""
        self.has((100, 200))
        first = self.harness.get(range=b"bytes=150-249")
        second = self.harness.get(range=b"bytes=160-249")
        self.asks(1).respond(error(403, b"AccessDenied"))
        self.assertEqual(self.ranges(), [b"bytes=200-249", b"bytes=150-249", b"bytes=200-249"])
        self.upstream.asked[1].respond(error(403, b"AccessDenied"))
        self.upstream.asked[2].respond(part(200, 250))
        self.assertEqual(first.status, 403)
        self.served(second, b"PARTIAL", BODY[160:250], 206)

    def test_leader_leaves(self) -> None:
        """The client who asked may leave: the other gets the bytes."""
        self.has((100, 200))
        first = self.harness.get(range=b"bytes=150-249")
        second = self.harness.get(range=b"bytes=150-249")
        first.leave()
        self.asks(1).respond(part(200, 250))
        self.served(second, b"PARTIAL", BODY[150:250], 206)


class AskingFirstTests(GapTestCase):
    """S3 has to be asked about this caller: a span is a question, too."""

    settings = {"range_merge_gap_threshold": 0, "get_ttl": 0.0}

    def test_span_confirms(self) -> None:
        """One round trip: a span of the pinned version shows that the caller may read it and that it is current."""
        self.has((100, 200))
        client = self.harness.get(range=b"bytes=150-249")
        self.assertEqual(self.ranges(), [b"bytes=200-249"])
        self.asks(1).respond(part(200, 250))
        self.served(client, b"PARTIAL", BODY[150:250], 206)

    def test_refused_caller_gets_nothing(self) -> None:
        """A caller whom S3 refuses gets no byte of what is cached."""
        self.has((100, 200))
        client = self.harness.get(range=b"bytes=150-249")
        self.asks(1).respond(error(403, b"AccessDenied"))
        self.asks(2).respond(error(403, b"AccessDenied"))
        self.assertEqual(client.status, 403)
        self.assertIn(b"AccessDenied", client.answer)

    def test_others_are_asked_about_by_themselves(self) -> None:
        """Who comes while the span is asked for sends a question without a body, and shares the bytes."""
        self.has((100, 200))
        first = self.harness.get(range=b"bytes=150-249")
        second = self.harness.get(range=b"bytes=150-249")
        third = self.harness.get(range=b"bytes=150-249")
        self.asks(3)
        self.assertEqual(self.upstream.asked[1].header(b"if-none-match"), b'"v1"')
        answer = part(200, 250, deliver=False)
        self.upstream.asked[0].respond(answer)
        self.upstream.asked[1].respond(not_modified())
        self.upstream.asked[2].respond(error(403, b"AccessDenied"))
        answer.sink.data_received(BODY[200:250])
        answer.sink.stream_ended()
        self.served(first, b"PARTIAL", BODY[150:250], 206)
        self.served(second, b"REVALIDATED", BODY[150:250], 206)
        self.assertEqual(third.status, 403)
        self.asks(3)


class ExpiredTests(GapTestCase):
    """The entry is too old."""

    def test_span_renews(self) -> None:
        """A span of the pinned version renews the entry."""
        self.has((100, 200))
        self.harness.clock.advance(61)
        client = self.harness.get(range=b"bytes=150-249")
        self.asks(1).respond(part(200, 250))
        self.served(client, b"PARTIAL", BODY[150:250], 206)
        self.assertEqual(client.header(b"age"), b"0")
        self.served(self.harness.get(range=b"bytes=100-249"), b"HIT", BODY[100:250], 206)

    def test_conditions_are_forwarded(self) -> None:
        """With conditions of the client's own an old entry answers nothing, and its request is not changed."""
        self.has((100, 200))
        self.harness.clock.advance(61)
        self.harness.get(range=b"bytes=150-249", if_match=b'"v1"')
        self.assertEqual(self.ranges(), [b"bytes=150-249"])


class ResumeTests(GapTestCase):
    """A body breaks off where the cache has more of it further on."""

    def test_only_up_to_what_is_held(self) -> None:
        """Only the bytes up to those that are cached are asked for again."""
        self.has((600, 700))
        client = self.harness.get()
        body = part(0, 600, deliver=False)
        self.upstream.asked[0].respond(body)
        self.upstream.asked[1].respond(part(700, 1024))
        body.sink.data_received(BODY[:400])
        self.harness.clock.advance(1)
        body.sink.stream_ended()
        self.assertEqual(self.ranges()[2:], [b"bytes=400-599"])
        self.upstream.last.respond(part(400, 600))
        self.served(client, b"PARTIAL")


class ManyGapsTests(GapTestCase):
    """More gaps than are asked for at once."""

    spans = [(start, start + 20) for start in range(20, 1000, 40)]

    def answer(self, *, until: int | None = None) -> int:
        """S3 answers all it was not asked in vain, and what follows from that; how much that was."""
        answered = 0
        number = 0
        while number < len(self.upstream.asked) and answered != until:
            asked = self.upstream.asked[number]
            if not asked.cancelled and not asked.deferred.called:
                first, last = (asked.header(b"range") or b"")[6:].split(b"-")
                asked.respond(part(int(first), int(last) + 1))
                answered += 1
            number += 1
        return answered

    def test_what_was_served(self) -> None:
        """The record of the request names the client's bytes, not those of the last gap."""
        self.has(*self.spans)
        client = self.harness.get()
        self.answer()
        self.served(client, b"PARTIAL")
        self.assertEqual(self.harness.records[-1].served_range, "")
        self.harness.cache.drop(ID)
        self.has(*self.spans)
        self.harness.get(range=b"bytes=0-899")
        self.answer()
        self.assertEqual(self.harness.records[-1].served_range, "bytes=0-899")

    def test_bodies_are_left_behind(self) -> None:
        """A body that has been read is let go of at once, not at the end of the answer."""
        size = 100_000
        body = bytes(range(256)) * (40 * size // 256)
        self.has(*((start, start + size) for start in range(size, len(body), 2 * size)), body=body)
        self.harness.store.volume.handles.close()
        fds = len(os.listdir("/proc/self/fd"))
        client = self.harness.get()
        most = number = 0
        while number < len(self.upstream.asked):
            first, last = (self.upstream.asked[number].header(b"range") or b"")[6:].split(b"-")
            self.upstream.asked[number].respond(part(int(first), int(last) + 1, body))
            self.harness.store.volume.handles.close()
            most = max(most, len(os.listdir("/proc/self/fd")) - fds)
            number += 1
        self.served(client, b"PARTIAL", body)
        self.assertLessEqual(most, 2 * MOST_SPANS)

    def test_nothing_is_kept(self) -> None:
        """When the cache does not take the spans, they are asked for once all the same."""
        self.has(*self.spans)
        client = self.harness.get()
        self.patch(self.harness.cache.admission, "receive", lambda *args, **options: None)
        self.answer()
        self.served(client, b"PARTIAL")
        self.asks(MOST_SPANS)


class RewrittenTests(GapTestCase):
    """The same bytes were written again, under other metadata: the ETag is the same."""

    def written(self, start: int, stop: int, when: bytes, colour: bytes) -> FakeResponse:
        """A 206 of that writing."""
        answer = part(start, stop)
        answer.headers = answer.headers.adding((b"Last-Modified", when), (b"x-amz-meta-colour", colour))
        return answer

    def first(self) -> None:
        """What the cache has."""
        self.harness.get(range=b"bytes=100-199", authorization=SIGNED_RANGE)
        self.upstream.last.respond(self.written(100, 200, b"Wed, 21 Oct 2015 07:28:00 GMT", b"red"))
        self.upstream.asked.clear()

    def again(self, start: int, stop: int) -> FakeResponse:
        """What S3 has now."""
        return self.written(start, stop, b"Fri, 21 Oct 2016 07:28:00 GMT", b"blue")

    def test_expired(self) -> None:
        """A span confirms an old entry only if S3 describes the object as the entry does."""
        self.first()
        self.harness.clock.advance(61)
        client = self.harness.get(range=b"bytes=150-249")
        self.asks(1).respond(self.again(200, 250))
        self.unanswered(client)
        self.assertEqual(self.asks(2).header(b"if-none-match"), b'"v1"')
        answer = not_modified()
        answer.headers = answer.headers.adding((b"Last-Modified", b"Fri, 21 Oct 2016 07:28:00 GMT"))
        self.upstream.last.respond(answer)
        self.asks(3).respond(self.again(150, 250))
        self.served(client, b"MISS", BODY[150:250], 206)
        self.assertEqual(client.header(b"x-amz-meta-colour"), b"blue")
        again = self.harness.get(range=b"bytes=160-199")
        self.served(again, b"HIT", BODY[160:200], 206)
        self.assertEqual(again.header(b"x-amz-meta-colour"), b"blue")

    def test_fresh(self) -> None:
        """A fresh entry is served as it is described: the bytes are the same."""
        self.first()
        client = self.harness.get(range=b"bytes=150-249")
        self.asks(1).respond(self.again(200, 250))
        self.served(client, b"PARTIAL", BODY[150:250], 206)
