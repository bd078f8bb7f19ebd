"""Ops on quantized weights: contracts, kernels, and the choice between them."""
