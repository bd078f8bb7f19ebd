"""From a request and a model to codes: what is quantized, by which algorithms, with which data."""
