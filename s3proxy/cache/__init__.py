"""What is held, who is fetching, what goes."""
