"""One user verb per file."""
