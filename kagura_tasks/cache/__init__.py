"""Remembered answers: when two requests are the same, where answers are kept, and for how long."""
