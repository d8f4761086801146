"""A transparent caching proxy for Amazon S3 and compatible stores."""

__version__ = "0.1.0"
__all__ = ["__version__"]
