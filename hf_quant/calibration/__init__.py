"""What a model does to real inputs: statistics of activations, and which modules feed which."""
