"""Which keys a request may change."""

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.cache.entry import ObjectId
from s3proxy.policy import invalidation
from s3proxy.policy.invalidation import acted, body_decides, keys_in_answer, keys_in_body, keys_in_head
from s3proxy.s3.address import ObjectAddress, locate
from s3proxy.s3.errors import S3Error
from s3proxy.s3.headers import Headers
from s3proxy.s3.operation import Operation
from s3proxy.s3.target import parse_target

LIST_LIMIT, FORM_LIMIT = invalidation.LIST_LIMIT, invalidation.FORM_LIMIT
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
            found = keys(keys_in_head(operation, address(), NONE, None))
            self.assertEqual(found, {b"key"} if operation.writes_object else set(), operation)

    def test_no_object(self) -> None:
        """Without an address, or with a bucket's, nothing is named."""
        self.assertEqual(keys_in_head(Operation.PutObject, None, NONE, None), ())
        self.assertEqual(keys_in_head(Operation.Other, address(b"/"), NONE, None), ())

    def test_rename(self) -> None:
        """A rename changes both ends, and the source may be spelled in two ways."""
        for value in (b"/bucket/old%20one", b"bucket/old%20one?versionId=3"):
            headers = Headers([(b"x-amz-rename-source", value)])
            found = keys_in_head(Operation.RenameObject, address(), headers, None)
            self.assertEqual(keys(found), {b"key", b"old one", b"bucket/old one"})
            self.assertEqual(keys(keys_in_head(Operation.PutObject, address(), headers, None)), {b"key"})
        self.assertEqual(keys(keys_in_head(Operation.RenameObject, address(), NONE, None)), {b"key"})

    def test_rename_presigned(self) -> None:
        """A presigned rename may name the source in its query, encoded once more."""
        for query in (b"X-Amz-Rename-Source=%2Fbucket%2Fold%2520one&x-id=1", b"x-amz-rename-source=bucket/old%2520one"):
            found = keys_in_head(Operation.RenameObject, address(), NONE, query)
            self.assertEqual(keys(found), {b"key", b"old one", b"bucket/old one"})


class BodyTests(SynchronousTestCase):
    """What a request's body tells."""

    def found(self, operation: Operation, body: bytes, headers: Headers = NONE) -> tuple[ObjectId, ...]:
        """The objects in a body that comes in two pieces."""
        names = keys_in_body(operation, address(b"/"), headers)
        assert names is not None
        names.feed(body[: len(body) // 2])
        names.feed(body[len(body) // 2 : names.most])
        return names.ids()

    def test_list(self) -> None:
        """Every key of a list of deletions."""
        body = b"<Delete><Object><Key>a</Key></Object><Object><Key>b&amp;c</Key></Object></Delete>"
        self.assertEqual(keys(self.found(Operation.DeleteObjects, body)), {b"a", b"b&c"})

    def test_list_that_is_not_understood(self) -> None:
        """S3 must not act on what the cache can't follow."""
        whole = b"<Delete><Object><Key>a</Key></Object></Delete>"
        for body in (b"", b"<Delete><Object>", b"x", whole + b" " * (LIST_LIMIT - len(whole))):
            error = self.assertRaises(S3Error, self.found, Operation.DeleteObjects, body)
            self.assertEqual(error.code, "MalformedXML")

    def test_list_in_chunks(self) -> None:
        """A list may have Amazon's chunks around it."""
        chunks = b"8;chunk-signature=x\r\n<Delete>\r\n%x\r\n%s\r\n0\r\n\r\n"
        rest = b"<Object><Key>a</Key></Object></Delete>"
        headers = Headers([(b"x-amz-content-sha256", b"STREAMING-AWS4-HMAC-SHA256-PAYLOAD")])
        self.assertEqual(keys(self.found(Operation.DeleteObjects, chunks % (len(rest), rest), headers)), {b"a"})
        for body in (b"<Delete>" + rest, chunks % (len(rest) + 1, rest)):
            self.assertRaises(S3Error, self.found, Operation.DeleteObjects, body, headers)

    def test_form(self) -> None:
        """The key of a form upload, if the form tells it."""
        body = b'--xx\r\nContent-Disposition: form-data; name="key"\r\n\r\na b\r\n--xx\r\n'
        self.assertEqual(keys(self.found(Operation.PostObject, body, FORM)), {b"a b"})
        self.assertEqual(self.found(Operation.PostObject, b"--xx--", FORM), ())

    def test_other_bodies(self) -> None:
        """No other body is looked at."""
        self.assertIsNone(keys_in_body(Operation.DeleteObjects, None, NONE))
        for operation in Operation:
            found = keys_in_body(operation, address(b"/"), NONE)
            self.assertEqual(found is not None, operation.body_names_keys, operation)

    def test_limits(self) -> None:
        """As much of a body is read as S3 takes."""
        self.assertGreater(LIST_LIMIT, 1000 * 1024 * 9)
        self.assertGreater(FORM_LIMIT, 20 * 1024)


class AnswerTests(SynchronousTestCase):
    """What S3's answer tells."""

    def named(self, location: bytes, operation: Operation = Operation.PostObject) -> set[bytes]:
        return keys(keys_in_answer(operation, address(b"/"), Headers([(b"Location", location)])))

    def test_location(self) -> None:
        """The object of a form upload, in all forms of an address."""
        self.assertIn(b"a b", self.named(b"https://bucket.s3.amazonaws.com/a%20b"))
        self.assertIn(b"a/b", self.named(b"https://s3.amazonaws.com/bucket/a%2Fb?x=y"))
        self.assertIn(b"a", self.named(b"/a"))

    def test_redirect(self) -> None:
        """The page to which a form sends the browser is told the key."""
        page = b"https://example.com/done?x=y&bucket=bucket&key=a%2Fb+c%2Bd&etag=%22e%22"
        self.assertIn(b"a/b c+d", self.named(page))
        self.assertIn(b"a/b+c+d", self.named(page))

    def test_status(self) -> None:
        """A redirect after a form upload is the form's own; others are S3's and mean that nothing has happened."""
        for status in (200, 201, 204, 301, 302, 303, 304, 307, 400, 403, 412, 500, 503):
            self.assertEqual(acted(Operation.PutObject, status), status < 300)
            self.assertEqual(acted(Operation.PostObject, status), status in (200, 201, 204, 302, 303))

    def test_other_answers(self) -> None:
        """Other operations, and answers without a place, name nothing."""
        self.assertEqual(self.named(b"/a", Operation.PutObject), set())
        self.assertEqual(keys_in_answer(Operation.PostObject, address(b"/"), NONE), ())
        self.assertEqual(keys_in_answer(Operation.PostObject, None, Headers([(b"Location", b"/a")])), ())

    def test_decided_by_the_body(self) -> None:
        """Copies and completions may still fail after a 200."""
        late = {each for each in Operation if body_decides(each)}
        self.assertEqual(late, {Operation.CopyObject, Operation.UploadPartCopy, Operation.CompleteMultipartUpload})
