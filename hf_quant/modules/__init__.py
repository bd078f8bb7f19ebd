"""Quantized modules, and the exchange of float modules for them."""
