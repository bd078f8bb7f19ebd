"""Quantization-aware training: float modules that compute with the rounded numbers they will be stored as."""
