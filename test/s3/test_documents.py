"""Documents that name keys, or that turn a 200 into an error."""

from test.s3.table import add_rows
from xml.sax.saxutils import escape

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.s3.documents import (
    CompleteUploadReader,
    DeleteObjectsReader,
    has_error_root,
    parse_complete_result,
    parse_initiate_result,
    post_form_key,
    root_element,
)

NAMESPACE = b'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
BOMB = (
    b'<!DOCTYPE Delete [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    b"<Delete><Object><Key>&b;</Key></Object></Delete>"
)
FILE_ENTITY = (
    b'<!DOCTYPE Delete [<!ENTITY x SYSTEM "file:///etc/passwd">]><Delete><Object><Key>&x;</Key></Object></Delete>'
)


def parse_delete_objects(body: bytes) -> tuple[bytes, ...] | None:
    """The keys in a list that is there in one piece."""
    reader = DeleteObjectsReader()
    reader.feed(body)
    return reader.finish()


def parse_complete_upload(body: bytes) -> tuple[tuple[int, bytes], ...] | None:
    """The parts in a list that is there in one piece."""
    reader = CompleteUploadReader()
    reader.feed(body)
    return reader.finish()


class DeleteObjectsTests(SynchronousTestCase):
    """The keys of a multi-object delete."""

    def test_many(self) -> None:
        """A thousand long keys, and more, are all found, in order."""
        keys = [b"%04d/" % number + b"\xc3\xa9" * 500 for number in range(1500)]
        body = b"<Delete>" + b"".join(b"<Object><Key>" + key + b"</Key></Object>" for key in keys) + b"</Delete>"
        self.assertEqual(parse_delete_objects(body), tuple(keys))

    @given(st.binary(max_size=200))
    def test_takes_anything(self, body: bytes) -> None:
        """Any bytes are such a document or none."""
        for prefix in (b"", b"<Delete>", b"<Delete><Object><Key>", b'<?xml version="1.0" encoding="'):
            found = parse_delete_objects(prefix + body)
            self.assertTrue(found is None or isinstance(found, tuple))

    @given(st.lists(st.text(st.characters(min_codepoint=0x20, exclude_categories=["Cs"]), max_size=20), max_size=5))
    def test_any_key(self, keys: list[str]) -> None:
        """Whatever text a key is, it is found as it was written."""
        keys = [key.replace("\ufffe", "").replace("\uffff", "") for key in keys]
        body = "".join(f"<Object><Key>{escape(key)}</Key></Object>" for key in keys)
        self.assertEqual(parse_delete_objects(f"<Delete>{body}</Delete>".encode()), tuple(key.encode() for key in keys))

    def test_depth(self) -> None:
        """A document that is nothing but depth is refused at once."""
        self.assertIsNone(parse_delete_objects(b"<Delete>" * 200_000 + b"</Delete>" * 200_000))

    def test_pieces(self) -> None:
        """It does not matter in which pieces a list comes."""
        keys = tuple(b"%04d/" % number + b"\xc3\xa9" * 20 for number in range(1000))
        body = b"<Delete>" + b"".join(b"<Object><Key>" + key + b"</Key></Object>" for key in keys) + b"</Delete>"
        for size in (1, 7, 1000, 40_000):
            reader = DeleteObjectsReader()
            for start in range(0, len(body), size):
                reader.feed(body[start : start + size])
            self.assertEqual(reader.finish(), keys)

    def test_read_as_it_comes(self) -> None:
        """Of a list that will be refused no more is kept than up to there."""
        reader = DeleteObjectsReader()
        reader.feed(b"<Delete>" + b"<Object><Key>a</Key></Object>" * 100 + b"<" + b"x" * 100_000)
        reader.feed(b"</y>" + b" " * 100_000)
        self.assertEqual((reader._xml._waiting, reader._xml._refused), ([], True))
        self.assertIsNone(reader.finish())

    def test_too_many(self) -> None:
        """Ten times as many keys as S3 takes, and no more; nor any number of other elements."""
        for count, others, known in ((10_000, 4, True), (10_001, 0, False), (1, 200_000, False)):
            more = b"<x/>" * others
            body = b"<Delete>%s</Delete>" % (b"<Object><Key>a</Key>%s</Object>" % more * count)
            self.assertEqual(parse_delete_objects(body) is not None, known)

    def test_endless_tag(self) -> None:
        """A tag or comment without end is not read over and over again."""
        for beginning in (b"<!--", b"<a b='", b"<?pi ", b"<a "):
            reader = DeleteObjectsReader()
            reader.feed(b"<Delete>" + beginning)
            for _ in range(16):
                reader.feed(b"x" * 32_768)
            self.assertTrue(reader._xml._refused, beginning)
            self.assertIsNone(reader.finish())


def check_delete(case: SynchronousTestCase, body: bytes, keys: tuple[bytes, ...] | None) -> None:
    case.assertEqual(parse_delete_objects(body), keys)


add_rows(
    DeleteObjectsTests,
    "delete",
    [
        (b"<Delete></Delete>", ()),
        (b"<Delete/>", ()),
        (b"<Delete><Object><Key>a</Key></Object></Delete>", (b"a",)),
        (b"<Delete " + NAMESPACE + b"><Object><Key>a</Key></Object><Quiet>true</Quiet></Delete>", (b"a",)),
        (b'<x:Delete xmlns:x="u"><x:Object><x:Key>a</x:Key></x:Object></x:Delete>', (b"a",)),
        (
            b'<?xml version="1.0" encoding="UTF-8"?>\n<Delete>\n <Object>\n  <Key>a</Key>\n  <VersionId>v</VersionId>\n'
            b" </Object>\n</Delete>\n",
            (b"a",),
        ),
        (b"\xef\xbb\xbf<Delete><Object><Key>a</Key></Object></Delete>", (b"a",)),
        (b"<Delete><Object><VersionId>v</VersionId><Key>a</Key></Object></Delete>", (b"a",)),
        (b"<Delete><Object><Key><![CDATA[a<b>&]]>c</Key></Object></Delete>", (b"a<b>&c",)),
        (b"<Delete><Object><Key>a&amp;b&#47;c&#x2F;&lt;</Key></Object></Delete>", (b"a&b/c/<",)),
        (b"<Delete><Object><Key>a<!-- x -->b</Key></Object></Delete>", (b"ab",)),
        (b"<Delete><Object><Key> a </Key></Object></Delete>", (b" a ",)),
        (b"<Delete><Object><Key>\xc3\xa9&#233;</Key></Object></Delete>", (b"\xc3\xa9\xc3\xa9",)),
        (
            b'<?xml version="1.0" encoding="ISO-8859-1"?><Delete><Object><Key>\xe9</Key></Object></Delete>',
            (b"\xc3\xa9",),
        ),
        ("<Delete><Object><Key>a</Key></Object></Delete>".encode("utf-16"), (b"a",)),
        (b"<Delete><Object><Key>a</Key></Object><Object><Key>a</Key></Object></Delete>", (b"a", b"a")),
        (b"<Delete><Object><Key></Key></Object></Delete>", (b"",)),
        (b"<Delete><Object><Key>a</Key><ETag>x</ETag><Size>5</Size></Object></Delete>", (b"a",)),
        (b"<Delete><Key>stray</Key></Delete>", ()),
        (b"<Delete><Other><Key>stray</Key></Other></Delete>", ()),
        (b"<Delete><Object></Object></Delete>", None),
        (b"<Delete><Object><Key>a</Key><Key>b</Key></Object></Delete>", None),
        (b"<Delete><Object><Key>a</Key></Object>", None),
        (b"<Delete><Object><Key>a</Object></Key></Delete>", None),
        (b"<DeleteResult/>", None),
        (b"<Delete/><Delete/>", None),
        (b"<Delete>&undefined;</Delete>", None),
        (b"<x:Delete/>", None),
        (b"<!DOCTYPE Delete><Delete/>", None),
        (BOMB, None),
        (FILE_ENTITY, None),
        (b'<?xml version="1.0" encoding="no-such"?><Delete/>', None),
        (b"<Delete><Object><Key>\xff</Key></Object></Delete>", None),
        (b"<Delete><Object><Key>\x01</Key></Object></Delete>", None),
        (b"", None),
        (b"not xml", None),
    ],
    check_delete,
)


class RootElementTests(SynchronousTestCase):
    """The root of a document, from its first bytes."""

    @given(st.binary(max_size=80))
    def test_takes_anything(self, prefix: bytes) -> None:
        """Any bytes begin with some element, or with none."""
        for front in (b"", b"<", b"<?xml", b"  <!--"):
            root = root_element(front + prefix)
            self.assertTrue(root is None or root)
            self.assertIs(has_error_root(front + prefix), root == b"Error")

    def test_hostile(self) -> None:
        """A long beginning without a root costs no more than reading it."""
        for prefix in (b" " * 200_000, b"<!--" * 50_000, b"<?" * 100_000, b"<!---->" * 30_000, b"<" + b"a" * 200_000):
            self.assertIsNone(root_element(prefix))


def check_root(case: SynchronousTestCase, prefix: bytes, root: bytes | None) -> None:
    case.assertEqual(root_element(prefix), root)


add_rows(
    RootElementTests,
    "root",
    [
        (b"<Error><Code>InternalError</Code>", b"Error"),
        (b"<Error>", b"Error"),
        (b"<Error/>", b"Error"),
        (b"<Error " + NAMESPACE + b">", b"Error"),
        (b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>', b"Error"),
        (b'<?xml version="1.0" encoding="UTF-8"?>\n\n     \n   <Error>', b"Error"),
        (b" \r\n\t <?xml version='1.0'?> <Error>", b"Error"),
        (b"\xef\xbb\xbf<Error>", b"Error"),
        (b"<!-- <CopyObjectResult> --><Error>", b"Error"),
        (b'<x:Error xmlns:x="u">', b"Error"),
        (b"<CompleteMultipartUploadResult " + NAMESPACE + b">", b"CompleteMultipartUploadResult"),
        (b"<CopyObjectResult><ETag>", b"CopyObjectResult"),
        (b"<ErrorReport>", b"ErrorReport"),
        (b"<Result><Error>", b"Result"),
        (b"<error>", b"error"),
        (b"<Error", None),
        (b"<", None),
        (b"   ", None),
        (b"<?xml version='1.0'?>", None),
        (b"<?xml version='1.0'", None),
        (b"<!DOCTYPE x><Error>", None),
        (b"Error", None),
        (b"", None),
    ],
    check_root,
)


class PostFormKeyTests(SynchronousTestCase):
    """The key of a browser's form upload."""

    @given(st.binary(max_size=200), st.binary(max_size=40))
    def test_takes_anything(self, head: bytes, boundary: bytes) -> None:
        """Any bytes have a key or none."""
        for content_type in (b"multipart/form-data; boundary=" + boundary, b"multipart/form-data; boundary=x"):
            for front in (b"", b'--x\r\nContent-Disposition: form-data; name="key"\r\n\r\n'):
                key = post_form_key(front + head, content_type)
                self.assertTrue(key is None or isinstance(key, bytes))


def field(name: bytes, value: bytes, boundary: bytes = b"x") -> bytes:
    return b"--" + boundary + b'\r\nContent-Disposition: form-data; name="' + name + b'"\r\n\r\n' + value + b"\r\n"


def upload(disposition: bytes, boundary: bytes = b"x") -> bytes:
    head = b"Content-Disposition: form-data; " + disposition + b"\r\nContent-Type: a/b\r\n\r\n"
    return b"--" + boundary + b"\r\n" + head + b"data"


def check_form(case: SynchronousTestCase, head: bytes, key: bytes | None, content_type: bytes = b"") -> None:
    case.assertEqual(post_form_key(head, content_type or b"multipart/form-data; boundary=x"), key)


FILE = upload(b'name="file"; filename="photo.jpg"')
add_rows(
    PostFormKeyTests,
    "form",
    [
        (field(b"key", b"a/b") + FILE, b"a/b"),
        (field(b"policy", b"p") + field(b"key", b"a/b") + field(b"acl", b"x") + FILE, b"a/b"),
        (field(b"Key", b"a") + FILE, b"a"),
        (field(b"key", b"a\r\nb") + FILE, b"a\r\nb"),
        (field(b"key", b"") + FILE, b""),
        (field(b"key", b"\xc3\xa9 +%20") + FILE, b"\xc3\xa9 +%20"),
        (field(b"key", b"up/${filename}") + FILE, b"up/photo.jpg"),
        (field(b"key", b"${filename}-${filename}") + FILE, b"photo.jpg-photo.jpg"),
        (field(b"key", b"${filename}") + upload(b'name="file"; filename="a/b.jpg"'), b"b.jpg"),
        (field(b"key", b"${filename}") + upload(b"name=file; filename=b.jpg"), b"b.jpg"),
        (b"preamble\r\n" + field(b"key", b"a") + FILE, b"a"),
        (b"--x\r\ncontent-disposition:form-data;name=key\r\n\r\na\r\n" + FILE, b"a"),
        (field(b"key", b"a", b"y y") + upload(b"name=file", b"y y"), b"a", b'Multipart/form-data; Boundary="y y"; c=d'),
        (field(b"key", b"a", b"-b'") + upload(b"name=file", b"-b'"), b"a", b"multipart/form-data;boundary=-b'"),
        (field(b"key", b"${filename}") + upload(b'name="file"; filename="a\\b.jpg"'), None),
        (field(b"key", b"${filename}") + upload(b'name="file"; filename="a%22b.jpg"'), None),
        (field(b"key", b"${filename}") + upload(b'name="file"'), None),
        (field(b"key", b"${filename}") + upload(b'name="file"; filename=""'), None),
        (field(b"key", b"${filename}") + field(b"acl", b"x"), None),
        (field(b"key", b"a") + field(b"key", b"b") + FILE, None),
        (field(b"key", b"a"), None),
        (field(b"key", b"a")[:-4], None),
        (FILE + b"\r\n" + field(b"key", b"late"), None),
        (field(b"xkey", b"a") + FILE, None),
        (field(b"key", b"a", b"y") + FILE, None),
        (field(b"key", b"a") + FILE, None, b"multipart/form-data"),
        (field(b"key", b"a") + FILE, None, b"multipart/form-data; boundary="),
        (b"", None),
    ],
    check_form,
)


DOCTYPE = b'<!DOCTYPE x [<!ENTITY a "b">]>'


class InitiateResultTests(SynchronousTestCase):
    """The id of an upload."""

    def test_found(self) -> None:
        """With a name space, a prefix, blanks or character data; as UTF-8."""
        for document, expected in (
            (
                b"<InitiateMultipartUploadResult %s><UploadId>a</UploadId></InitiateMultipartUploadResult>" % NAMESPACE,
                b"a",
            ),
            (
                b'<?xml version="1.0"?>\n<s:InitiateMultipartUploadResult xmlns:s="x"><s:Key>k</s:Key>'
                b"<s:UploadId> a.b_c- \n</s:UploadId></s:InitiateMultipartUploadResult>",
                b"a.b_c-",
            ),
            (
                b"<InitiateMultipartUploadResult><UploadId><![CDATA[<&>]]></UploadId></InitiateMultipartUploadResult>",
                b"<&>",
            ),
            (
                b"<InitiateMultipartUploadResult><UploadId>&#233;</UploadId></InitiateMultipartUploadResult>",
                "é".encode(),
            ),
        ):
            self.assertEqual(parse_initiate_result(document), expected)

    def test_not_found(self) -> None:
        """Other documents, no id, an empty one, two of them, one in another place, an entity of the document's own."""
        for document in (
            b"",
            b"<Error><UploadId>a</UploadId></Error>",
            b"<InitiateMultipartUploadResult/>",
            b"<InitiateMultipartUploadResult><UploadId/></InitiateMultipartUploadResult>",
            b"<InitiateMultipartUploadResult>%s</InitiateMultipartUploadResult>" % (b"<UploadId>a</UploadId>" * 2),
            b"<InitiateMultipartUploadResult><x><UploadId>a</UploadId></x></InitiateMultipartUploadResult>",
            b"<InitiateMultipartUploadResult><UploadId>a</UploadId>",
            DOCTYPE + b"<InitiateMultipartUploadResult><UploadId>&a;</UploadId></InitiateMultipartUploadResult>",
        ):
            self.assertIsNone(parse_initiate_result(document), document)


def part_list(root: str, parts: "list[tuple[int, str]]") -> bytes:
    """A list of parts as clients send it."""
    inside = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag)}</ETag></Part>" for number, etag in parts
    )
    return f"<{root}>{inside}</{root}>".encode()


class CompleteUploadTests(SynchronousTestCase):
    """Lists of parts."""

    def test_forms(self) -> None:
        """Both names of the root; other elements, comments and instructions between."""
        expected = ((1, b'"a"'), (2, b"b"))
        for root in ("CompleteMultipartUpload", "CompleteMultipartUploadRequest"):
            document = (
                b'<?xml version="1.0" encoding="UTF-8"?><!-- c --><%s %s>\n<Part><ETag>&quot;a&quot;</ETag>'
                b"<ChecksumCRC32>x</ChecksumCRC32><PartNumber>\n1</PartNumber></Part><?pi?>"
                b"<Part><PartNumber>2</PartNumber><ETag><![CDATA[b]]></ETag></Part></%s>"
                % (root.encode(), NAMESPACE, root.encode())
            )
            self.assertEqual(parse_complete_upload(document), expected)

    def test_encodings(self) -> None:
        """A list may be in UTF-16, if it says so as XML does."""
        document = part_list("CompleteMultipartUpload", [(1, '"a"')]).decode()
        self.assertIn(parse_complete_upload(document.encode("utf-16")), (None, ((1, b'"a"'),)))

    def test_ten_thousand(self) -> None:
        """As many parts as S3 takes."""
        parts = [(number, f'"{number:032x}"') for number in range(1, 10_001)]
        found = parse_complete_upload(part_list("CompleteMultipartUpload", parts))
        self.assertEqual(found, tuple((number, etag.encode()) for number, etag in parts))

    def test_refused(self) -> None:
        """No parts, parts without number or tag, or with two, numbers that are none, broken and foreign documents."""
        for inside in (
            b"",
            b"<Part/>",
            b"<Part><PartNumber>1</PartNumber></Part>",
            b"<Part><ETag>a</ETag></Part>",
            b"<Part><PartNumber>1</PartNumber><ETag/></Part>",
            b"<Part><PartNumber>x</PartNumber><ETag>a</ETag></Part>",
            b"<Part><PartNumber>-1</PartNumber><ETag>a</ETag></Part>",
            "<Part><PartNumber>٣</PartNumber><ETag>a</ETag></Part>".encode(),
            b"<Part><PartNumber>100000</PartNumber><ETag>a</ETag></Part>",
            b"<Part><PartNumber>1</PartNumber><PartNumber>2</PartNumber><ETag>a</ETag></Part>",
            b"<Part><PartNumber>1</PartNumber><ETag>a</ETag><ETag>b</ETag></Part>",
            b"<Part><PartNumber>1</PartNumber><ETag>a</ETag></Part></x>",
            b"<Part><PartNumber>1</PartNumber><ETag>&a;</ETag></Part>",
            b"<x>" * 100 + b"</x>" * 100,
        ):
            document = b"<CompleteMultipartUpload>%s</CompleteMultipartUpload>" % inside
            self.assertIsNone(parse_complete_upload(document), inside)
        good = part_list("CompleteMultipartUpload", [(1, "a")])
        for document in (
            b"",
            b" ",
            DOCTYPE + good,
            good + good,
            good[:-1],
            b"\xff" + good,
            part_list("Other", [(1, "a")]),
        ):
            self.assertIsNone(parse_complete_upload(document), document)

    @given(
        st.lists(st.tuples(st.integers(0, 99_999), st.text(st.characters(codec="ascii", min_codepoint=33), min_size=1)))
    )
    def test_round_trip(self, parts: "list[tuple[int, str]]") -> None:
        """What is listed is what is read."""
        found = parse_complete_upload(part_list("CompleteMultipartUpload", parts))
        self.assertEqual(found, tuple((number, etag.encode()) for number, etag in parts) or None)

    @given(st.binary(max_size=60), st.integers(0, 200))
    def test_damaged(self, garbage: bytes, position: int) -> None:
        """Whatever stands in a list, there is a result or none."""
        document = part_list("CompleteMultipartUpload", [(1, '"a"'), (2, '"b"')])
        for each in (document[:position] + garbage + document[position:], garbage, document[:position]):
            found = parse_complete_upload(each)
            self.assertTrue(found is None or all(number < 100_000 and etag for number, etag in found))


class CompleteResultTests(SynchronousTestCase):
    """What S3 says in the end."""

    def test_found(self) -> None:
        """ETag and checksums, as a GET states them, behind blanks and in a name space."""
        document = (
            b'<?xml version="1.0"?>\n\n   \n<CompleteMultipartUploadResult %s><Location>l</Location>'
            b"<ETag>&#34;abc-2&#34;</ETag><ChecksumCRC32>AAAAAA==-2</ChecksumCRC32>"
            b"<ChecksumType>COMPOSITE</ChecksumType></CompleteMultipartUploadResult>" % NAMESPACE
        )
        found = parse_complete_result(document)
        assert found is not None
        self.assertEqual(found.etag, b'"abc-2"')
        self.assertEqual(
            found.checksums, ((b"x-amz-checksum-crc32", b"AAAAAA==-2"), (b"x-amz-checksum-type", b"COMPOSITE"))
        )

    def test_bare_tag(self) -> None:
        """A GET puts it into quotes."""
        found = parse_complete_result(
            b"<CompleteMultipartUploadResult><ETag>abc-2</ETag></CompleteMultipartUploadResult>"
        )
        assert found is not None
        self.assertEqual((found.etag, found.checksums), (b'"abc-2"', ()))

    def test_not_found(self) -> None:
        """An error, no tag or two, an entity of the document's own, a document that is cut."""
        good = b"<CompleteMultipartUploadResult><ETag>a</ETag></CompleteMultipartUploadResult>"
        for document in (
            b"",
            b"<Error><ETag>a</ETag></Error>",
            b"<CompleteMultipartUploadResult/>",
            b"<CompleteMultipartUploadResult><ETag/></CompleteMultipartUploadResult>",
            good.replace(b"<ETag>a</ETag>", b"<ETag>a</ETag>" * 2),
            good.replace(b"<ETag>a</ETag>", b"<x><ETag>a</ETag></x>"),
            DOCTYPE + good,
            good[:-1],
        ):
            self.assertIsNone(parse_complete_result(document), document)

    @given(st.binary(max_size=200))
    def test_garbage(self, document: bytes) -> None:
        """Whatever comes, there is a result or none."""
        self.assertIsNone(parse_complete_result(document))
        self.assertIsNone(parse_initiate_result(document))
