"""Ways to run one model, each behind the contract of `base`; a file imports its library when it loads a model."""
