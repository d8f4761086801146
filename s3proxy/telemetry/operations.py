"""S3's operations as counters and log lines name them.

The access log of S3 has its own words for operations (``REST.GET.OBJECT``), metrics use the names of the API
(``GetObject``), and histograms group them, because a label may only have a few values.
"""

from typing import Final

__all__ = ["GROUPS", "OTHER", "group_of", "log_word", "metric_name"]

OTHER: Final = "OTHER"
"""The metric label of whatever is not in the table."""

GROUPS: Final = ("get", "head", "put", "delete", "list", "other")
"""Every group, in the order of documents."""

_TABLE: Final[dict[str, tuple[str, str]]] = {
    # API name: (word of S3's access log, group)
    "GetObject": ("REST.GET.OBJECT", "get"),
    "GetObjectPart": ("REST.GET.OBJECT", "get"),
    "GetObjectVariant": ("REST.GET.OBJECT", "get"),
    "HeadObject": ("REST.HEAD.OBJECT", "head"),
    "HeadObjectPart": ("REST.HEAD.OBJECT", "head"),
    "HeadObjectVariant": ("REST.HEAD.OBJECT", "head"),
    "PutObject": ("REST.PUT.OBJECT", "put"),
    "PutObjectVariant": ("REST.PUT.OBJECT", "put"),
    "PostObject": ("REST.POST.OBJECT", "put"),
    "CopyObject": ("REST.COPY.OBJECT", "put"),
    "AppendObject": ("REST.PUT.OBJECT", "put"),
    "RenameObject": ("REST.PUT.RENAME", "put"),
    "CreateMultipartUpload": ("REST.POST.UPLOADS", "put"),
    "UploadPart": ("REST.PUT.PART", "put"),
    "UploadPartCopy": ("REST.COPY.PART", "put"),
    "CompleteMultipartUpload": ("REST.POST.UPLOAD", "put"),
    "AbortMultipartUpload": ("REST.DELETE.UPLOAD", "delete"),
    "DeleteObject": ("REST.DELETE.OBJECT", "delete"),
    "DeleteObjectVersion": ("REST.DELETE.OBJECT", "delete"),
    "DeleteObjectVariant": ("REST.DELETE.OBJECT", "delete"),
    "DeleteObjects": ("REST.POST.MULTI_OBJECT_DELETE", "delete"),
    "ListObjects": ("REST.GET.BUCKET", "list"),
    "ListObjectsV2": ("REST.GET.BUCKET", "list"),
    "ListObjectVersions": ("REST.GET.BUCKETVERSIONS", "list"),
    "ListBuckets": ("REST.GET.SERVICE", "list"),
    "ListParts": ("REST.GET.UPLOAD", "list"),
    "ListMultipartUploads": ("REST.GET.UPLOADS", "list"),
    "GetObjectAcl": ("REST.GET.ACL", "other"),
    "PutObjectAcl": ("REST.PUT.ACL", "other"),
    "GetObjectTagging": ("REST.GET.OBJECT_TAGGING", "other"),
    "PutObjectTagging": ("REST.PUT.OBJECT_TAGGING", "other"),
    "DeleteObjectTagging": ("REST.DELETE.OBJECT_TAGGING", "other"),
    "GetObjectAnnotation": ("REST.GET.ANNOTATION", "other"),
    "PutObjectAnnotation": ("REST.PUT.ANNOTATION", "other"),
    "DeleteObjectAnnotation": ("REST.DELETE.ANNOTATION", "other"),
    "GetObjectLegalHold": ("REST.GET.LEGAL_HOLD", "other"),
    "PutObjectLegalHold": ("REST.PUT.LEGAL_HOLD", "other"),
    "GetObjectRetention": ("REST.GET.OBJECT_RETENTION", "other"),
    "PutObjectRetention": ("REST.PUT.OBJECT_RETENTION", "other"),
    "GetObjectAttributes": ("REST.GET.OBJECT_ATTRIBUTES", "other"),
    "GetObjectTorrent": ("REST.GET.OBJECT_TORRENT", "other"),
    "RestoreObject": ("REST.POST.RESTORE", "other"),
    "SelectObjectContent": ("REST.SELECT.OBJECT", "other"),
    "UpdateObjectEncryption": ("REST.PUT.OBJECT_ENCRYPTION", "other"),
    "OptionsObject": ("REST.OPTIONS.PREFLIGHT", "other"),
    "HeadBucket": ("REST.HEAD.BUCKET", "other"),
    "CreateBucket": ("REST.PUT.BUCKET", "other"),
    "DeleteBucket": ("REST.DELETE.BUCKET", "other"),
    "GetBucketLocation": ("REST.GET.LOCATION", "other"),
    "GetBucketSubresource": ("REST.GET.BUCKET_SUBRESOURCE", "other"),
    "PutBucketSubresource": ("REST.PUT.BUCKET_SUBRESOURCE", "other"),
    "DeleteBucketSubresource": ("REST.DELETE.BUCKET_SUBRESOURCE", "other"),
    "CreateSession": ("REST.CREATE.SESSION", "other"),
    "Tunnel": ("TUNNEL", "other"),
}

_METHODS: Final = frozenset({b"GET", b"HEAD", b"PUT", b"POST", b"DELETE", b"OPTIONS", b"PATCH", b"CONNECT", b"TRACE"})


def metric_name(operation: str) -> str:
    """The operation's metric label: its API name, or OTHER for everything unknown."""
    return operation if operation in _TABLE else OTHER


def group_of(operation: str) -> str:
    """One of :data:`GROUPS`."""
    known = _TABLE.get(operation)
    return known[1] if known else "other"


def log_word(operation: str, method: bytes) -> str:
    """The operation as S3's access log spells it; ``REST.GET.OTHER`` and the like for what has no word of its own."""
    known = _TABLE.get(operation)
    if known:
        return known[0]
    return f"REST.{method.decode('ascii') if method in _METHODS else 'UNKNOWN'}.OTHER"
