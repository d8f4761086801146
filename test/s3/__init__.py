"""Tests of the facts about S3. Generated examples are the same in every run, and a slow machine fails none of them."""

from hypothesis import settings

settings.register_profile("s3proxy", deadline=None, derandomize=True)
settings.load_profile("s3proxy")
