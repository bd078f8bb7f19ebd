"""The machine at hand: what it can do."""
