"""Requests to S3: name resolution, connections, exchanges."""
