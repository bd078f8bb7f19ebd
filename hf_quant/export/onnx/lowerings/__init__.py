"""How a quantized module is said in nodes, one way a file."""
