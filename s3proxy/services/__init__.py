"""Composition: from a configuration to a tree of services, and the order in which they start and stop."""
