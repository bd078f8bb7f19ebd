"""Schemes, presets and plans: what to quantize and how, without doing it."""
