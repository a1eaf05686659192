"""What it costs, beside plain Celery and bare Redis in the same run: `python -m benchmarks --help`.

Everything runs on loopback: a Redis of its own, a scripted provider with a ledger, real worker processes. On a machine
that others use, too, absolute figures drift by a factor of two within minutes: only ratios of one run say something.
"""
