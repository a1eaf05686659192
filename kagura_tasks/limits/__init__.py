"""The fleet's limits: what they are called, what they allow, and the atomic steps that keep them."""
