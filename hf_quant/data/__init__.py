"""Data as users have it: files, and conversations."""
