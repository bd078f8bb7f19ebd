"""What `hf_quant.benchmark` is made of: cases, models in this process or another, and the talk between them."""
