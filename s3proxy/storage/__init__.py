"""Bytes on disk: names, formats, publication and eviction. Knows nothing of HTTP."""
