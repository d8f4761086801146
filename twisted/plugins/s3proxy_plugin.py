"""Makes ``twistd s3proxy`` known. Imports nothing of ours: see ServiceMaker's dotted name."""

from twisted.application.service import ServiceMaker

s3proxy = ServiceMaker(
    "S3 Proxy",
    "s3proxy.tap",
    "A transparent caching proxy for Amazon S3 and compatible stores.",
    "s3proxy",
)
