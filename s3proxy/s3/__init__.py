"""Facts about S3 and HTTP as pure functions and values: no input, no output, no clock."""
