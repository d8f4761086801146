"""Tests for :mod:`s3proxy.control`."""
