"""One request, from its head to its last byte."""
