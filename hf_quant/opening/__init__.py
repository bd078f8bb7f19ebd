"""Modules whose tensors hold the weights of many, taken apart so that each is quantized by itself."""
