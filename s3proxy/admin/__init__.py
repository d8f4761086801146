"""Sites for operators: health, metrics."""
