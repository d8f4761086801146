"""The words for operations."""

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.s3.operation import Operation
from s3proxy.telemetry.operations import GROUPS, OTHER, group_of, log_word, metric_name


class OperationTests(SynchronousTestCase):
    def test_every_operation_is_known(self) -> None:
        """Each operation that the proxy tells apart has a label, a group and a word of its own."""
        for operation in Operation:
            if operation is not Operation.Other:
                self.assertEqual(metric_name(operation.name), operation.name)
                self.assertIn(group_of(operation.name), GROUPS)
                self.assertRegex(log_word(operation.name, b"GET"), r"\AREST(\.[A-Z_]+){2}\Z")

    def test_known_words(self) -> None:
        """Words are those of S3's own access log."""
        self.assertEqual(log_word("GetObject", b"GET"), "REST.GET.OBJECT")
        self.assertEqual(log_word("DeleteObjects", b"POST"), "REST.POST.MULTI_OBJECT_DELETE")
        self.assertEqual(log_word("ListObjectsV2", b"GET"), "REST.GET.BUCKET")

    def test_unknown_operation(self) -> None:
        """What has no name counts under one label and is logged by its method."""
        self.assertEqual(metric_name("Other"), OTHER)
        self.assertEqual(metric_name("x" * 1000), OTHER)
        self.assertEqual(group_of("Other"), "other")
        self.assertEqual(log_word("Other", b"OPTIONS"), "REST.OPTIONS.OTHER")

    def test_unknown_method(self) -> None:
        """A method of the client's invention does not reach the log as an operation."""
        self.assertEqual(log_word("Other", b'BREW" 200'), "REST.UNKNOWN.OTHER")
