"""Tests for :mod:`s3proxy.policy.sharing`."""

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.config.model import CallerId
from s3proxy.policy.sharing import Sharing

AGENT = b"Boto3/1.34 md/Botocore#1.34 ua/2.0 os/linux app/%b cfg/retry-mode#legacy"


class SharingTests(SynchronousTestCase):
    """Sharing."""

    def test_buckets(self) -> None:
        """By default buckets share, whatever callers say."""
        self.assertEqual(Sharing(CallerId()).share_of(AGENT % b"train", b"data"), "bkt:data")
        self.assertEqual(Sharing(CallerId()).share_of(None, None), "none")

    def test_callers(self) -> None:
        """Callers that name themselves share; the others are their buckets'."""
        sharing = Sharing(CallerId(enabled=True, max_len=8, validation_regex="^[a-z]+$"))
        for said, share in (
            (AGENT % b"train", "ua:train"),
            (b"app/train", "ua:train"),
            (b"myapp/train", "bkt:data"),
            (AGENT % b"trainings", "bkt:data"),
            (AGENT % b"Train", "bkt:data"),
            (b"curl/8", "bkt:data"),
            (b"", "bkt:data"),
            (None, "bkt:data"),
        ):
            self.assertEqual(sharing.share_of(said, b"data"), share, said)

    def test_unprintable(self) -> None:
        """What can't be shown is nobody's name."""
        self.assertEqual(Sharing(CallerId(enabled=True)).share_of(b"app/a\x07\x80", b"data"), "bkt:data")
