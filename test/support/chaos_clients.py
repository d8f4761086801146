"""Clients of two proxies that compare every byte, and write through them and behind them."""

import hashlib
import itertools
import random
import re
import threading
import time
from collections.abc import Callable
from test.support.chaos_history import BEHIND, History, Version, Wrong
from test.support.chaos_stage import BUCKET, HOST, MIB, PART, ChaosStage
from test.support.raw_client import ConnectionEnded, RawClient, RawResponse, signed_request_bytes
from test.support.sigv4 import UNSIGNED, Pair
from typing import Any

__all__ = ["HANG", "ChaosClients"]

HANG = 25.0
"""Seconds without a byte after which a client gives up, which is a fault."""
_SETTLED = 1.5
"""Seconds after which nobody is at work any more on a write that broke off."""
_SIZES = (0, 1, 1000, 20_000, 65_536, 65_537, 200_000, 700_000, MIB, 3 * MIB)


class _Unlucky(Exception):
    """A connection ended early: nothing is known about the request."""


class ChaosClients:
    """What clients do. Any number of threads may call :meth:`work`.

    :param fault: gets what went wrong: the object's name, and what it is
    """

    def __init__(self, stage: ChaosStage, history: History, keys: list[str], fault: Callable[[str, str], None]) -> None:
        self._stage = stage
        self._history = history
        self._keys = keys
        self._fault = fault

    def work(self, choice: random.Random, over: threading.Event) -> None:
        """One thing after the other, until it is over."""
        todo = (
            (self._read, 60), (self._head, 8), (self._range, 20), (self._condition, 6), (self._put, 4),
            (self._multipart, 2), (self._delete, 1), (self.write_behind, 3),
        )  # fmt: skip
        acts, weights = zip(*todo)
        while not over.is_set():
            # Some objects are asked for more often than others.
            key = self._keys[min(int(choice.expovariate(4 / len(self._keys))), len(self._keys) - 1)]
            act: Any = choice.choices(acts, weights)[0]
            try:
                act(key, choice)
                self._stage.counts[act.__name__.lstrip("_")] += 1
            except _Unlucky:
                self._stage.counts["broken off"] += 1
                time.sleep(0.1)
            except Wrong as problem:
                self._fault(key, str(problem))
            except Exception as problem:
                self._fault(key, f"{act.__name__}: {type(problem).__name__}: {problem}")

    def _ask(
        self, number: int, method: bytes, key: str, headers: list[Pair], body: bytes = b"", rate: float = 0
    ) -> RawResponse:
        """One request to an instance.

        :raises _Unlucky: it broke off, and that may be
        """
        stage = self._stage
        if method in (b"PUT", b"POST"):
            headers = [*headers, (b"Content-Length", b"%d" % len(body))]
        request = signed_request_bytes(
            method, b"/%b/%b" % (BUCKET.encode(), key.encode()), HOST, stage.fake.credential,
            headers=headers, body=body, payload=UNSIGNED,
        )  # fmt: skip
        began, asked = stage.in_trouble(number), time.monotonic()
        try:
            with RawClient("127.0.0.1", stage.proxies[number].port, timeout=HANG) as client:
                client.send(request)
                answer = client.read_response(method, rate)
        except TimeoutError:
            raise Wrong(f"{key}: instance {number} sends nothing for {HANG:g} s") from None
        except (ConnectionEnded, OSError) as problem:
            name = key.partition("?")[0]
            stage.log.add(name, f"{method.decode()} at {number} broke off: {problem}")
            if not began and not stage.in_trouble(number) and not self._history.has_changed(name, asked):
                raise Wrong(f"{key}: instance {number} broke {method.decode()} off: {problem!r}") from None
            raise _Unlucky from None
        if answer.status >= 500:
            stage.counts[f"status {answer.status}"] += 1
            if not began and not stage.in_trouble(number):
                raise Wrong(f"{key}: instance {number} answers {answer.status}: {answer.body[:300]!r}")
            raise _Unlucky
        return answer

    def _instance(self, choice: random.Random) -> int:
        return choice.randrange(2)

    def _judge(self, key: str, number: int, asked: float, answer: RawResponse, start: int = 0) -> Version:
        """Which version an answer is of, all of whose bytes have been compared."""
        etag = b"" if answer.status == 404 else (answer.header(b"etag") or b"?")
        version = self._history.check(key, etag, number, asked)
        said = answer.header(b"x-cache") or b""
        self._stage.log.add(key, f"{answer.status} from {number}: version {version.number} {said.decode()}")
        self._stage.counts[f"x-cache {said.decode()}"] += 1
        if answer.status in (200, 206):
            right = version.body(start, start + len(answer.body))
            wrong = [at for at, (got, wanted) in enumerate(zip(answer.body, right)) if got != wanted]
            if wrong:
                at = wrong[0]
                raise Wrong(
                    f"{key}: instance {number} sent {len(wrong)} wrong bytes of version {version.number}, "
                    f"from {start + at} on: {answer.body[at : at + 16].hex()}"
                )
        self._stage.counts["bytes compared"] += len(answer.body)
        return version

    # Readers.

    def _read(self, key: str, choice: random.Random) -> None:
        number, asked = self._instance(choice), time.monotonic()
        answer = self._ask(number, b"GET", key, [], rate=choice.choice((0, 0, 0, 0, 0, 0, 0, 2e6)))
        version = self._judge(key, number, asked, answer)
        if answer.status not in (200, 404) or (answer.status == 200 and len(answer.body) != version.size):
            raise Wrong(f"{key}: {answer.status} with {len(answer.body)} bytes for version {version.number}")

    def _head(self, key: str, choice: random.Random) -> None:
        number, asked = self._instance(choice), time.monotonic()
        answer = self._ask(number, b"HEAD", key, [])
        version = self._judge(key, number, asked, answer)
        if answer.status == 200 and int(answer.header(b"content-length") or -1) != version.size:
            raise Wrong(f"{key}: HEAD of version {version.number} says {answer.header(b'content-length')!r}")

    def _range(self, key: str, choice: random.Random) -> None:
        size = max(1, self._history.size(key))
        first = choice.randrange(size)
        last = min(size - 1, first + choice.choice((0, 100, 70_000, 500_000, 3 * MIB)))
        number, asked = self._instance(choice), time.monotonic()
        wanted = b"bytes=%d-%d" % (first, last)
        answer = self._ask(number, b"GET", key, [(b"Range", wanted)])
        if answer.status == 416:
            return
        start = 0
        if answer.status == 206:
            found = re.fullmatch(rb"bytes (\d+)-(\d+)/(\d+)", answer.header(b"content-range") or b"")
            if found is None or int(found[1]) != first or int(found[2]) - first + 1 != len(answer.body):
                raise Wrong(f"{key}: {wanted!r} got {answer.header(b'content-range')!r} and {len(answer.body)} bytes")
            start = first
        version = self._judge(key, number, asked, answer, start)
        if answer.status == 206 and len(answer.body) != min(last + 1, version.size) - first:
            raise Wrong(f"{key}: {len(answer.body)} bytes for {wanted!r} of version {version.number}")

    def _condition(self, key: str, choice: random.Random) -> None:
        etag = self._history.current(key).etag
        if not etag:
            return
        number, asked = self._instance(choice), time.monotonic()
        answer = self._ask(number, b"GET", key, [(b"If-None-Match", etag)])
        if answer.status == 304:
            self._history.check(key, etag, number, asked)
        else:
            self._judge(key, number, asked, answer)

    # Writers.

    def write_behind(self, key: str, choice: random.Random) -> None:
        """Change an object at S3 itself."""
        with self._history.writing[key]:
            version = self._history.draft(choice.choice(_SIZES), BEHIND)
            self._stage.log.add(key, f"version {version.number} ({version.size} bytes) behind")
            self._history.begin(key, version)
            self._stage.fake.put_object(BUCKET, key.encode(), version.body(0, version.size))
            self._history.confirm(key, version)

    def _written(self, key: str, version: Version, write: Callable[[], None]) -> None:
        """Do it, and find out what came of it."""
        self._history.begin(key, version)
        taken = True
        try:
            write()
        except _Unlucky:
            # Whoever was at it may still be. Nobody promised this client anything.
            version.by = BEHIND
            time.sleep(_SETTLED)
            taken = self._at_s3(key) == version.etag
            self._stage.log.add(key, f"version {version.number} {'was' if taken else 'was not'} taken all the same")
        if taken:
            self._history.confirm(key, version)
        else:
            self._history.forget(key, version)

    def _at_s3(self, key: str) -> bytes:
        path = b"/%b/%b" % (BUCKET.encode(), key.encode())
        request = signed_request_bytes(b"HEAD", path, HOST, self._stage.fake.credential)
        with RawClient("127.0.0.1", self._stage.fake.port) as client:
            client.send(request)
            answer = client.read_response(b"HEAD")
        return (answer.header(b"etag") or b"") if answer.status == 200 else b""

    def _put(self, key: str, choice: random.Random) -> None:
        with self._history.writing[key]:
            number = self._instance(choice)
            version = self._history.draft(choice.choice(_SIZES), number)
            self._stage.log.add(key, f"version {version.number} ({version.size} bytes) through {number}")

            def write() -> None:
                answer = self._ask(number, b"PUT", key, [], version.body(0, version.size))
                if answer.status != 200 or answer.header(b"etag") != version.etag:
                    raise Wrong(f"{key}: PUT got {answer.status} {answer.headers}")

            self._written(key, version, write)

    def _delete(self, key: str, choice: random.Random) -> None:
        with self._history.writing[key]:
            number = self._instance(choice)
            version = self._history.draft(0, number, b"")
            self._stage.log.add(key, f"version {version.number}: deleted through {number}")

            def write() -> None:
                answer = self._ask(number, b"DELETE", key, [])
                if answer.status != 204:
                    raise Wrong(f"{key}: DELETE got {answer.status}")

            self._written(key, version, write)

    def _multipart(self, key: str, choice: random.Random) -> None:
        parts = choice.randrange(1, 5)
        sizes = [PART + choice.randrange(300_000) for _ in range(parts)]
        with self._history.writing[key]:
            draft = self._history.draft(sum(sizes), BEHIND, b"")
            ends = list(itertools.accumulate(sizes, initial=0))
            bodies = [draft.body(start, stop) for start, stop in zip(ends, ends[1:])]
            sums = b"".join(hashlib.md5(body).digest() for body in bodies)
            draft.etag = b'"%b-%d"' % (hashlib.md5(sums).hexdigest().encode(), parts)
            number = draft.by = self._instance(choice)
            answer = self._ask(number, b"POST", f"{key}?uploads=", [])
            found = re.search(rb"<UploadId>(.*?)</UploadId>", answer.body)
            if found is None:
                raise Wrong(f"{key}: no upload id: {answer.status} {answer.body[:200]!r}")
            upload = found[1].decode()
            listed = []
            for part, body in enumerate(bodies, 1):
                # Parts may come through any instance.
                through = self._instance(choice)
                answer = self._ask(through, b"PUT", f"{key}?partNumber={part}&uploadId={upload}", [], body)
                if answer.status != 200:
                    raise Wrong(f"{key}: part {part} got {answer.status} {answer.body[:200]!r}")
                tag = (answer.header(b"etag") or b"").decode()
                listed.append(f"<Part><PartNumber>{part}</PartNumber><ETag>{tag}</ETag></Part>")
            document = f"<CompleteMultipartUpload>{''.join(listed)}</CompleteMultipartUpload>".encode()
            self._stage.log.add(
                key, f"version {draft.number} ({draft.size} bytes, {parts} parts) through {number}"
            )  # fmt: skip

            def write() -> None:
                answer = self._ask(number, b"POST", f"{key}?uploadId={upload}", [], document)
                if answer.status != 200 or b"<Error>" in answer.body:
                    raise Wrong(f"{key}: completion got {answer.status} {answer.body[:300]!r}")

            self._written(key, draft, write)
