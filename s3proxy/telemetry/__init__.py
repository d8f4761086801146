"""Counters, the access log, and the set-up of the application log."""
