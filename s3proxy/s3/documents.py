"""The documents whose content a cache must know: which keys a request deletes or a form uploads, and whether a 200 is
an error.

XML is read with expat, as it comes, so that long lists never take long at a time; a document type declaration, and
with it every entity of a document's own, is refused. Forms are read as RFC 7578 describes them, as far as their fields
before the file.
"""

import re
from collections.abc import Callable, Collection
from xml.parsers import expat

import attrs

__all__ = [
    "CompleteUploadReader",
    "CompletedUpload",
    "DeleteObjectsReader",
    "has_error_root",
    "parse_complete_result",
    "parse_initiate_result",
    "post_form_key",
    "root_element",
]

MOST_DELETED = 10_000
"""Objects in one list of deletions. S3 takes 1,000."""
_NAMESPACE_SEPARATOR = " "
_DEEPEST = 16
_MOST_ELEMENTS = 150_000
"""In one document. The longest that S3 takes lists 10,000 parts, each with some ten elements."""
_AT_ONCE = 32 * 1024
"""Bytes that are worth a call of expat: it looks at an unfinished tag from its beginning every time."""
_LONGEST_TAG = 256 * 1024
"""Bytes of one tag, comment or instruction; text may have any length."""

# A byte order mark, the declaration, comments and blanks, then the start of the root element, with or without a prefix.
_MISC = re.compile(rb"(?:\xef\xbb\xbf)?(?:\s+|<\?.*?\?>|<!--.*?-->)*", re.DOTALL)
_ROOT = re.compile(rb"<(?:[^\s<>/?!:=\"'&]+:)?([^\s<>/?!:=\"'&]+)[\s/>]")


class _Refused(Exception):
    """The document is not one of those read here."""


class _XmlReader:
    """Walks through a document that comes in pieces, and reports every element at its end.

    :param roots: the local names that the root element may have
    :param on_element: called with the local names from the root down to an element, and the text directly inside it
    """

    def __init__(self, roots: Collection[str], on_element: Callable[[tuple[str, ...], str], None]) -> None:
        self._roots = roots
        self._on_element = on_element
        self._path: list[str] = []
        self._texts: list[list[str]] = []
        self._elements = 0
        self._waiting: list[bytes] = []
        self._waits = 0
        self._fed = 0
        self._refused = False
        parser = expat.ParserCreate(namespace_separator=_NAMESPACE_SEPARATOR)
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._character_data
        parser.StartDoctypeDeclHandler = self._refuse
        self._parser = parser

    def feed(self, data: bytes) -> None:
        """The next piece."""
        if self._refused:
            return
        self._waiting.append(data)
        self._waits += len(data)
        if self._waits >= _AT_ONCE:
            self._parse(False)

    def finish(self) -> bool:
        """That was all of it: whether it is well-formed and has this root. To be called once."""
        if not self._refused:
            self._parse(True)
        complete, self._refused = not self._refused, True
        return complete

    def _parse(self, last: bool) -> None:
        data = b"".join(self._waiting)
        self._waiting.clear()
        self._waits = 0
        self._fed += len(data)
        try:
            self._parser.Parse(data, last)
            if not last and self._fed - self._parser.CurrentByteIndex > _LONGEST_TAG:
                raise _Refused
        except (_Refused, expat.ExpatError, LookupError, ValueError):
            self._refused = True
            self._texts.clear()

    def _start(self, name: str, attributes: object) -> None:
        local = name.rpartition(_NAMESPACE_SEPARATOR)[2]
        self._elements += 1
        if (not self._path and local not in self._roots) or len(self._path) == _DEEPEST:
            raise _Refused
        if self._elements > _MOST_ELEMENTS:
            raise _Refused
        self._path.append(local)
        self._texts.append([])

    def _end(self, name: str) -> None:
        self._on_element(tuple(self._path), "".join(self._texts.pop()))
        self._path.pop()

    def _character_data(self, data: str) -> None:
        self._texts[-1].append(data)

    def _refuse(self, *declaration: object) -> None:
        raise _Refused


def _read_xml(document: bytes, root: str, on_element: Callable[[tuple[str, ...], str], None]) -> bool:
    """Walk through a whole document; whether it is well-formed and has this root."""
    reader = _XmlReader((root,), on_element)
    reader.feed(document)
    return reader.finish()


class DeleteObjectsReader:
    """The keys that a DeleteObjects request lists."""

    def __init__(self) -> None:
        self._xml = _XmlReader(("Delete",), self._on_element)
        self._keys: list[bytes] = []
        self._objects = 0

    def feed(self, data: bytes) -> None:
        """The next piece of the body."""
        self._xml.feed(data)

    def finish(self) -> tuple[bytes, ...] | None:
        """The keys in the order of the list, repeated ones included, when all of the body is here.

        :returns: None when the body is not such a request, or an object of it has no key: what it deletes is unknown
            then
        """
        return tuple(self._keys) if self._xml.finish() else None

    def _on_element(self, path: tuple[str, ...], text: str) -> None:
        if path == ("Delete", "Object", "Key"):
            self._keys.append(text.encode("utf-8"))
        elif path == ("Delete", "Object"):
            self._objects += 1
            if len(self._keys) != self._objects or self._objects > MOST_DELETED:
                raise _Refused


def parse_initiate_result(body: bytes) -> bytes | None:
    """The upload's id in S3's answer to CreateMultipartUpload; None when the body is not such an answer."""
    found: list[bytes] = []

    def on_element(path: tuple[str, ...], text: str) -> None:
        if path == ("InitiateMultipartUploadResult", "UploadId"):
            found.append(text.strip().encode("utf-8"))

    complete = _read_xml(body, "InitiateMultipartUploadResult", on_element)
    return found[0] if complete and len(found) == 1 and found[0] else None


class CompleteUploadReader:
    """The parts that a CompleteMultipartUpload request lists.

    S3 takes any name for the root element and has documented two.
    """

    def __init__(self) -> None:
        self._xml = _XmlReader(("CompleteMultipartUpload", "CompleteMultipartUploadRequest"), self._on_element)
        self._parts: list[tuple[int, bytes]] = []
        self._part: dict[str, str] = {}

    def feed(self, data: bytes) -> None:
        """The next piece of the body."""
        self._xml.feed(data)

    def finish(self) -> tuple[tuple[int, bytes], ...] | None:
        """Number and ETag of each part, when all of the body is here; None when it is not such a request."""
        return tuple(self._parts) or None if self._xml.finish() else None

    def _on_element(self, path: tuple[str, ...], text: str) -> None:
        part = self._part
        if path[1:] == ("Part",):
            number, etag = part.get("PartNumber", ""), part.get("ETag", "")
            if not (number.isascii() and number.isdigit() and len(number) <= 5 and etag):
                raise _Refused
            self._parts.append((int(number), etag.encode("utf-8")))
            part.clear()
        elif len(path) == 3 and path[1] == "Part":
            if path[2] in part:
                raise _Refused
            part[path[2]] = text.strip()


@attrs.frozen
class CompletedUpload:
    """What S3 says of the object that it has put together.

    :ivar etag: with quotes, as a GET states it
    :ivar checksums: as the header fields of a GET state them
    """

    etag: bytes
    checksums: tuple[tuple[bytes, bytes], ...]


def parse_complete_result(body: bytes) -> CompletedUpload | None:
    """S3's answer to CompleteMultipartUpload; None when the body is not one of success."""
    etags: list[bytes] = []
    checksums: list[tuple[bytes, bytes]] = []

    def on_element(path: tuple[str, ...], text: str) -> None:
        if len(path) != 2:
            return
        if path[1] == "ETag":
            etags.append(text.strip().encode("utf-8"))
        elif path[1].startswith("Checksum"):
            checksums.append(
                (b"x-amz-checksum-" + path[1][8:].lower().encode("ascii", "replace"), text.strip().encode())
            )

    complete = _read_xml(body, "CompleteMultipartUploadResult", on_element)
    if not complete or len(etags) != 1 or not etags[0]:
        return None
    etag = etags[0] if etags[0].endswith(b'"') else b'"%s"' % etags[0]
    return CompletedUpload(etag, tuple(checksums))


def root_element(prefix: bytes) -> bytes | None:
    """The local name of a document's root element, from the document's first bytes.

    :returns: None when these bytes do not reach so far (S3 sends blanks while it works), or are not XML
    """
    misc = _MISC.match(prefix)
    root = _ROOT.match(prefix, misc.end() if misc is not None else 0)
    return root[1] if root is not None else None


def has_error_root(prefix: bytes) -> bool:
    """Whether the body that begins so is an ``<Error>`` document, whatever its status says."""
    return root_element(prefix) == b"Error"


_BOUNDARY = re.compile(rb'(?i:boundary)=(?:"([^"\r\n]{1,70})"|([^\s;,"]{1,70}))')
_DISPOSITION_PARAM = re.compile(rb';\s*([A-Za-z*]+)=(?:"([^"\r\n]*)"|([^\s;"]*))')
_FILENAME = b"${filename}"


def post_form_key(head: bytes, content_type: bytes) -> bytes | None:
    """The key under which a browser's form upload will be stored.

    :param head: the beginning of the body, as far as the file's own part begins
    :param content_type: the request's Content-Type
    :returns: None when the key is not in it, comes twice, or depends on a file name that is not known
    """
    boundary_match = _BOUNDARY.search(content_type)
    if boundary_match is None:
        return None
    delimiter = b"\r\n--" + (boundary_match[1] or boundary_match[2])
    keys: list[bytes] = []
    filename: bytes | None = None
    # The first delimiter has no line end before it. What follows the last delimiter may be incomplete.
    parts = (b"\r\n" + head).split(delimiter)[1:]
    for index, part in enumerate(parts):
        if not part.startswith(b"\r\n"):
            continue
        section, blank, content = part[2:].partition(b"\r\n\r\n")
        if not blank:
            continue
        name, part_filename = _read_disposition(section)
        if name == b"file":
            filename = part_filename
            break
        if name == b"key":
            if index == len(parts) - 1:
                return None
            keys.append(content)
    if len(keys) != 1:
        return None
    if _FILENAME not in keys[0]:
        return keys[0]
    if not filename or b"\\" in filename or b"%" in filename:
        return None
    return keys[0].replace(_FILENAME, filename.rpartition(b"/")[2])


def _read_disposition(section: bytes) -> tuple[bytes | None, bytes | None]:
    """Lower-case field name and file name of one part's header section."""
    for line in section.split(b"\r\n"):
        field, _, value = line.partition(b":")
        if field.strip().lower() != b"content-disposition":
            continue
        params: dict[bytes, bytes] = {}
        for match in _DISPOSITION_PARAM.finditer(value):
            params.setdefault(match[1].lower(), match[2] if match[2] is not None else match[3])
        name = params.get(b"name")
        return None if name is None else name.lower(), params.get(b"filename")
    return None, None
