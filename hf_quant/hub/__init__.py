"""Model cards for quantized models."""
