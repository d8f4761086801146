"""Takes secrets out of text that is about to be logged, whoever wrote it.

The code never logs a secret on purpose. This is the net below: exception messages, reprs of header lists and messages
of libraries may contain the request they are about. Removing too much is right here.
"""

import re
from typing import Final

__all__ = ["REDACTED", "redact_text"]

REDACTED: Final = "REDACTED"

_HINT: Final = re.compile(r"amz|sign|auth|cred|awsacc|aws_s|cookie|AWS |://", re.IGNORECASE)
"""Text without any of these has nothing to remove."""

_PERCENT: Final = "%(?:25){0,3}"
"""Once, or several times over."""
_IS: Final = f"(?:=|{_PERCENT}3d)"
_DASH: Final = f"(?:-|{_PERCENT}2d)"
_LETTER: Final = re.compile(r"%(4[1-9a-f]|5[0-9a]|6[1-9a-f]|7[0-9a]|2d)", re.IGNORECASE)
"""What need not be encoded (RFC 3986, section 6.2.2.2)."""

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
        (?: (?: x{_DASH}amz{_DASH}(?:signature|credential|(?:security|s3session){_DASH}token)
              | aws_secret_access_key | aws_session_token
            ) ["']? \s* (?: {_IS} | : | (?:\r?\n|\\r\\n|\\n){{2}} )
          | (?: customer-key(?:-md5)? | awsaccesskeyid | signature | credential ) \s* {_IS}
        )
        \s* ["']?
    )
    [^\s&,;"'<>)\]}}]+""",
    re.IGNORECASE | re.VERBOSE,
)
_VERSION_2: Final = re.compile(r"\b(AWS )[A-Za-z0-9]{4,128}:[A-Za-z0-9+/=]{8,}")
_USER_INFO: Final = re.compile(r"(://)[^/\s@\"']{1,256}@")


def redact_text(text: str) -> str:
    """The text with the values of signatures, credentials, session tokens and customer keys replaced.

    Known are headers in any notation that Python or JSON has for them, query parameters (also percent-encoded, several
    times over; letters that need not be encoded come out decoded), fields of forms, the parts of an Authorization value
    of signature version 4, whole values of version 2, and user information in URLs.
    """
    if "%" in text:
        text = _LETTER.sub(lambda match: chr(int(match[1], 16)), text)
    if not _HINT.search(text):
        return text
    text = _HEADER.sub(rf"\1{REDACTED}", text)
    text = _PARAMETER.sub(rf"\1{REDACTED}", text)
    text = _VERSION_2.sub(rf"\1{REDACTED}", text)
    return _USER_INFO.sub(rf"\1{REDACTED}@", text)
