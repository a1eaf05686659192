"""Flower with a page about LLM work, and with our numbers beside its own in /metrics. All that is added is read-only.

Only what is called from a running Flower imports Flower or Tornado.
"""
