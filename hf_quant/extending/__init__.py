"""What this package extends in other libraries, and the way back."""
