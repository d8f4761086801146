"""Which bodies are worth an attempt to make them smaller."""

from test.policy.test_freshness import DEFAULTS

import attrs
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.policy.compression import is_compressed, may_compress
from s3proxy.s3.headers import Headers

COMPRESSED = (
    (b"a/b.zip", {}),
    (b"photo.JPG", {}),
    (b"x.tar.gz", {}),
    (b"table.parquet", {}),
    (b"key", {b"Content-Type": b"image/png"}),
    (b"key", {b"Content-Type": b"video/mp4; codecs=x"}),
    (b"key", {b"Content-Type": b"Application/ZIP"}),
    (b"key", {b"Content-Type": b"application/vnd.openxmlformats-officedocument.wordprocessingml.document"}),
    (b"key.txt", {b"Content-Encoding": b"gzip"}),
    (b"key.txt", {b"Content-Encoding": b"aws-chunked, br"}),
)
PLAIN = (
    (b"key", {}),
    (b"zip", {}),
    (b"a.zip/b", {}),
    (b"a.txt", {b"Content-Type": b"text/plain"}),
    (b"a.json", {b"Content-Type": b"application/json"}),
    (b"key", {b"Content-Type": b"application/octet-stream"}),
    (b"drawing.svg", {b"Content-Type": b"image/svg+xml"}),
    (b"sound", {b"Content-Type": b"audio/wav"}),
    (b"key", {b"Content-Encoding": b"aws-chunked"}),
    (b"key", {b"Content-Encoding": b"identity"}),
    (b"caf\xe9.", {b"Content-Type": b""}),
)


class CompressionTests(SynchronousTestCase):
    """Names, types and encodings; rules."""

    def test_compressed(self) -> None:
        """These are left as they are."""
        for key, fields in COMPRESSED:
            self.assertTrue(is_compressed(key, Headers(fields.items())), (key, fields))

    def test_plain(self) -> None:
        """These are tried."""
        for key, fields in PLAIN:
            self.assertFalse(is_compressed(key, Headers(fields.items())), (key, fields))

    def test_rules(self) -> None:
        """What a rule says goes before everything else, both ways."""
        for key, enabled, rule, expected in (
            (b"a.txt", True, None, True),
            (b"a.txt", False, None, False),
            (b"a.zip", True, None, False),
            (b"a.zip", False, True, True),
            (b"a.txt", True, False, False),
        ):
            settings = attrs.evolve(DEFAULTS, compression=rule)
            self.assertEqual(may_compress(settings, enabled, key, Headers()), expected, (key, enabled, rule))
