"""Whoever answers prompts: one protocol, and what stands behind it."""
