"""Data: named sources of fixed splits, and batches that are pure functions of (seed, step)."""
