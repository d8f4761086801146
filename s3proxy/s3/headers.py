"""Header fields as pairs of bytes, and what S3 and HTTP say about single ones."""
