"""Several processes that serve as one: who starts them, how they talk, and what becomes of them."""
