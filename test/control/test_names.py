"""Objects on the command line."""

import os
from urllib.parse import parse_qs

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.control.names import parse_name, parse_prefix
from s3proxy.control.outcome import Usage


class NameTests(SynchronousTestCase):
    def test_forms(self) -> None:
        """All spellings of an object name the same."""
        plain = parse_name("b/dir/k")
        self.assertEqual((plain.store, plain.bucket, plain.key), (None, b"b", b"dir/k"))
        self.assertEqual(parse_name("s3://b/dir/k"), plain)
        for url in (
            "https://s3.eu-west-1.amazonaws.com/b/dir/k",
            "http://b.s3.eu-west-1.amazonaws.com/dir/k?X-Amz-Signature=abc",
            "https://b.s3.amazonaws.com/dir%2Fk",
        ):
            name = parse_name(url)
            self.assertEqual((name.store, name.bucket, name.key), ("aws", b"b", b"dir/k"), url)
        self.assertEqual(parse_name("http://localhost:8333/b/k").store, "localhost:8333")

    def test_a_store_is_exact(self) -> None:
        """With a store the proxy need not look for others that have the name."""
        self.assertEqual(parse_name("b/k").order, {"name": "b/k"})
        self.assertEqual(parse_name("b/k").query, "name=b%2Fk")
        self.assertEqual(parse_name("b/k", "minio:9000").order, {"ref": "store=minio%3A9000&bucket=b&key=k"})

    def test_what_names_nothing(self) -> None:
        """Usage, with what would name an object."""
        for text in (
            "",
            "b",
            "b/",
            "/k",
            "s3://b",
            "https://s3.amazonaws.com/",
            "https://s3.amazonaws.com/b",
            "http://[/x",
        ):
            self.assertRaises(Usage, parse_name, text)

    @given(st.binary(min_size=1).filter(lambda key: b"\0" not in key))
    def test_any_bytes(self, key: bytes) -> None:
        """Whatever bytes a key has, the proxy is told those."""
        name = parse_name(os.fsdecode(b"b/" + key))
        if "ref" in name.order:
            found = parse_qs(name.order["ref"], keep_blank_values=True, encoding="latin-1")
            self.assertEqual(found["key"][0].encode("latin-1"), key)
        else:
            self.assertEqual(name.order["name"].encode("utf-8"), b"b/" + key)

    def test_prefixes(self) -> None:
        """A prefix is text, as the proxy searches it."""
        self.assertEqual(parse_prefix("s3://b/dir/"), "b/dir/")
        self.assertEqual(parse_prefix(os.fsdecode(b"b/\xff")), "b/\\xff")
