"""ONNX graphs that hold a model's codes: traced, lowered, written, and compared in ONNX Runtime."""
