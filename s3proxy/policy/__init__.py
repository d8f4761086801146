"""Decisions about requests and entries, without input or output."""
