"""A model with quantization in the loop, prepared for ``Trainer`` and its checkpoints."""
