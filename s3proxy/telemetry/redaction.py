"""Takes secrets out of text that is about to be logged, whoever wrote it.

The code never logs a secret on purpose. This is the net below: exception messages, reprs of header lists and messages
of libraries may contain the request they are about. Removing too much is right here.
"""

import re
from typing import Final

__all__ = ["REDACTED", "redact_text"]

REDACTED: Final = "REDACTED"

_HINT: Final = re.compile(r"amz|sign|auth|cred|awsacc|cookie|AWS |://", re.IGNORECASE)
"""Text without any of these has nothing to remove."""

_DASH: Final = "(?:-|%2d)"

_HEADER: Final = re.compile(
    r"""(
        (?: (?: (?:proxy-)?authorization | (?:set-)?cookie ) ["']? \s* [:=,]
          | (?: x-amz-(?:security|s3session)-token
              | x-amz-(?:copy-source-)?server-side-encryption-customer-key(?:-md5)? ) ["']? \s* [:,]
        )
        \s* [\[(]* \s* b? ["']?      # as a header line, in a dict, in a list of pairs, in JSON
    )
    [^"'\r\n]+""",
    re.IGNORECASE | re.VERBOSE,
)
_PARAMETER: Final = re.compile(
    rf"""(
        (?: x{_DASH}amz{_DASH}(?:signature|credential|(?:security|s3session){_DASH}token) | customer-key(?:-md5)?
          | awsaccesskeyid | signature | credential
        )
        \s* (?:=|%3d) \s*
    )
    [^\s&,;"'<>)\]}}]+""",
    re.IGNORECASE | re.VERBOSE,
)
_VERSION_2: Final = re.compile(r"\b(AWS )[A-Za-z0-9]{4,128}:[A-Za-z0-9+/=]{8,}")
_USER_INFO: Final = re.compile(r"(://)[^/\s@\"']{1,256}@")


def redact_text(text: str) -> str:
    """The text with the values of signatures, credentials, session tokens and customer keys replaced.

    Known are headers in any notation that Python or JSON has for them, query parameters (also percent-encoded), the
    parts of an Authorization value of signature version 4, whole values of version 2, and user information in URLs.
    """
    if not _HINT.search(text):
        return text
    text = _HEADER.sub(rf"\1{REDACTED}", text)
    text = _PARAMETER.sub(rf"\1{REDACTED}", text)
    text = _VERSION_2.sub(rf"\1{REDACTED}", text)
    return _USER_INFO.sub(rf"\1{REDACTED}@", text)
