"""Runs of training: what was logged, pictures of it, and a page."""
