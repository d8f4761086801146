"""Names below ``up/``, where uploads are until they become entries. Pure: no file is touched here.

==================================  =========================================================================
``up/<K>.w.<G>.<I>/``               ranges that instance I is about to publish as generation G of an entry
``up/<K>.u.<U>/``                   parts of one multipart upload of an object, of any number of instances
``.../r.<n>``                       what is known of part n, and which files have its bytes
``.../d.<I>.<s>``                   bytes of a part, from instance I
``.../t.<start>-<length>.<I>.<s>``  such a file, or a range, or a record, while it is written
``.../described``                   what the object will be described by
``.../poisoned``                    the upload can't be assembled any more
==================================  =========================================================================

``K``, ``G`` and ``I`` are as in :mod:`s3proxy.storage.layout`; ``U`` is a digest of the upload's id in hexadecimal,
``s`` a number that the instance never uses twice.
"""

import hashlib
import re

import attrs

from s3proxy.storage.layout import EntryName

__all__ = [
    "DESCRIPTION",
    "POISONED",
    "DraftName",
    "data_name",
    "draft_name",
    "is_data",
    "parse_draft",
    "parse_record",
    "parse_staging",
    "record_name",
    "staging_name",
]

DESCRIPTION = "described"
POISONED = "poisoned"
_DRAFT = re.compile(r"([a-z2-7]{32})\.w\.([0-9a-f]{15})\.([0-9a-f]{15})\Z")
_STAGING = re.compile(r"([a-z2-7]{32})\.u\.[0-9a-f]{32}\Z")
_DATA = re.compile(r"d\.[0-9a-f]{15}\.[0-9a-f]{1,16}\Z")
_RECORD = re.compile(r"r\.([1-9][0-9]{0,4})\Z")


@attrs.frozen
class DraftName:
    """What the name of a directory that one instance works on says."""

    name: EntryName
    generation: int
    instance: int


def draft_name(name: EntryName, generation: int, instance: int) -> str:
    """The directory in which ``instance`` prepares a generation."""
    return f"{name.text}.w.{generation:015x}.{instance:015x}"


def parse_draft(text: str) -> DraftName | None:
    """The inverse of :func:`draft_name`; None when it is not such a name."""
    match = _DRAFT.match(text)
    name = None if match is None else EntryName.from_text(match[1])
    return None if match is None or name is None else DraftName(name, int(match[2], 16), int(match[3], 16))


def staging_name(name: EntryName, upload_id: bytes) -> str:
    """The directory of the parts of one upload."""
    return f"{name.text}.u.{hashlib.blake2b(upload_id, digest_size=16).hexdigest()}"


def parse_staging(text: str) -> EntryName | None:
    """Which object's upload a directory belongs to; None when it is not such a name."""
    match = _STAGING.match(text)
    return None if match is None else EntryName.from_text(match[1])


def data_name(instance: int, serial: int) -> str:
    """A file with bytes of a part."""
    return f"d.{instance:015x}.{serial:x}"


def is_data(text: str) -> bool:
    """Whether this is such a file's name."""
    return _DATA.match(text) is not None


def record_name(number: int) -> str:
    """The file that tells of part ``number``, 1 to 99999."""
    return f"r.{number}"


def parse_record(text: str) -> int | None:
    """The inverse of :func:`record_name`; None when it is not such a name."""
    match = _RECORD.match(text)
    return None if match is None else int(match[1])
