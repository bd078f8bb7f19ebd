"""The package's own compiled kernels: one library for every torch version, one table of kernels per instruction set."""
