"""The configuration: model, loading, checks."""
