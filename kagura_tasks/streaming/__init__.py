"""What a model writes, on its way to readers: live over pub/sub, repaired from a short log."""
