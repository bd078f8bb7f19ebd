"""One GGUF file of a quantized model, for llama.cpp and Ollama."""
