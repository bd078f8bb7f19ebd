"""Commands: one file each, each calling one workflow."""
