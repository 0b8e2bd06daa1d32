"""Checkpoints of other layouts: reading, writing, verifying."""
