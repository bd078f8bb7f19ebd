"""Weights as they lie in files of other programs: pure functions between their tensors and those of our formats."""
