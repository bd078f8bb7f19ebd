"""Checkpoints of other programs: which of their tensors belong to which module, and what their configs mean."""
