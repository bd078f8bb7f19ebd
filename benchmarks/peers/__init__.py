"""Programs that quantize with the help of data, each driven by a file that only its own interpreter runs."""
