"""Tasks: one a file. Each makes model inputs of data, and paired results of two models' outputs."""
