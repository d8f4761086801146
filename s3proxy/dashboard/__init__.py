"""The dashboard: one page for people, and the JSON behind it."""
