"""What a plan costs: bytes to the byte, and milliseconds from a table that was measured on the device."""
