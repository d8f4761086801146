"""Which keys a request may change."""

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.cache.entry import ObjectId
from s3proxy.policy.invalidation import body_decides, body_limit, keys_in_answer, keys_in_body, keys_in_head
from s3proxy.s3.address import ObjectAddress, locate
from s3proxy.s3.errors import S3Error
from s3proxy.s3.headers import Headers
from s3proxy.s3.operation import Operation
from s3proxy.s3.target import parse_target

NONE = Headers()
FORM = Headers([(b"Content-Type", b"multipart/form-data; boundary=xx")])


def address(target: bytes = b"/key") -> ObjectAddress:
    """Where the target is in the bucket."""
    found = locate(parse_target(target, Headers([(b"Host", b"bucket.s3.amazonaws.com")])), ())
    assert found is not None
    return found


def keys(ids: tuple[ObjectId, ...]) -> set[bytes]:
    """The keys in the bucket."""
    assert all(id.store == "aws" and id.bucket == b"bucket" for id in ids), ids
    return {id.key for id in ids}


class HeadTests(SynchronousTestCase):
    """What a request's head tells."""

    def test_writes(self) -> None:
        """Every operation that may change an object names it; no other does."""
        for operation in Operation:
            found = keys(keys_in_head(operation, address(), NONE))
            self.assertEqual(found, {b"key"} if operation.writes_object else set(), operation)

    def test_no_object(self) -> None:
        """Without an address, or with a bucket's, nothing is named."""
        self.assertEqual(keys_in_head(Operation.PutObject, None, NONE), ())
        self.assertEqual(keys_in_head(Operation.Other, address(b"/"), NONE), ())

    def test_rename(self) -> None:
        """A rename changes both ends, and the source may be spelled in two ways."""
        for value in (b"/bucket/old%20one", b"bucket/old%20one?versionId=3"):
            headers = Headers([(b"x-amz-rename-source", value)])
            found = keys_in_head(Operation.RenameObject, address(), headers)
            self.assertEqual(keys(found), {b"key", b"old one", b"bucket/old one"})
            self.assertEqual(keys(keys_in_head(Operation.PutObject, address(), headers)), {b"key"})
        self.assertEqual(keys(keys_in_head(Operation.RenameObject, address(), NONE)), {b"key"})


class BodyTests(SynchronousTestCase):
    """What a request's body tells."""

    def test_list(self) -> None:
        """Every key of a list of deletions."""
        body = b"<Delete><Object><Key>a</Key></Object><Object><Key>b&amp;c</Key></Object></Delete>"
        self.assertEqual(keys(keys_in_body(Operation.DeleteObjects, address(b"/"), NONE, body)), {b"a", b"b&c"})

    def test_list_that_is_not_understood(self) -> None:
        """S3 must not act on what the cache can't follow."""
        whole = b"<Delete><Object><Key>a</Key></Object></Delete>"
        limit = body_limit(Operation.DeleteObjects)
        for body in (b"", b"<Delete><Object>", b"x", whole + b" " * (limit - len(whole))):
            error = self.assertRaises(S3Error, keys_in_body, Operation.DeleteObjects, address(b"/"), NONE, body)
            self.assertEqual(error.code, "MalformedXML")

    def test_form(self) -> None:
        """The key of a form upload, if the form tells it."""
        body = b'--xx\r\nContent-Disposition: form-data; name="key"\r\n\r\na b\r\n--xx\r\n'
        self.assertEqual(keys(keys_in_body(Operation.PostObject, address(b"/"), FORM, body)), {b"a b"})
        self.assertEqual(keys_in_body(Operation.PostObject, address(b"/"), FORM, b"--xx--"), ())

    def test_other_bodies(self) -> None:
        """No other body is looked at."""
        body = b"<Delete><Object><Key>a</Key></Object></Delete>"
        self.assertEqual(keys_in_body(Operation.PutObject, address(), NONE, body), ())
        self.assertEqual(keys_in_body(Operation.DeleteObjects, None, NONE, body), ())

    def test_limits(self) -> None:
        """As much of a body as is needed is kept, and of others nothing."""
        for operation in Operation:
            self.assertEqual(body_limit(operation) > 0, operation.body_names_keys, operation)
        self.assertGreater(body_limit(Operation.DeleteObjects), 1000 * 1024 * 9)
        self.assertGreater(body_limit(Operation.PostObject), 20 * 1024)


class AnswerTests(SynchronousTestCase):
    """What S3's answer tells."""

    def named(self, location: bytes, operation: Operation = Operation.PostObject) -> set[bytes]:
        return keys(keys_in_answer(operation, address(b"/"), Headers([(b"Location", location)])))

    def test_location(self) -> None:
        """The object of a form upload, in all forms of an address."""
        self.assertIn(b"a b", self.named(b"https://bucket.s3.amazonaws.com/a%20b"))
        self.assertIn(b"a/b", self.named(b"https://s3.amazonaws.com/bucket/a%2Fb?x=y"))
        self.assertIn(b"a", self.named(b"/a"))

    def test_other_answers(self) -> None:
        """Other operations, and answers without a place, name nothing."""
        self.assertEqual(self.named(b"/a", Operation.PutObject), set())
        self.assertEqual(keys_in_answer(Operation.PostObject, address(b"/"), NONE), ())
        self.assertEqual(keys_in_answer(Operation.PostObject, None, Headers([(b"Location", b"/a")])), ())

    def test_decided_by_the_body(self) -> None:
        """Copies and completions may still fail after a 200."""
        late = {each for each in Operation if body_decides(each)}
        self.assertEqual(late, {Operation.CopyObject, Operation.UploadPartCopy, Operation.CompleteMultipartUpload})
