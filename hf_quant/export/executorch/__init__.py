"""Programs of ExecuTorch that hold a model's codes: traced, lowered to XNNPACK, and compared in its own runtime."""
