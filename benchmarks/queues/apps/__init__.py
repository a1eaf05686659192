"""The programs of the workers: each a job that does nothing, or (`*_llm.py`) calls a model, as its users write one.

The other queues' connections wait for an answer as long as it takes: an idle worker's blocking read has none, and
redis-py 8 gives up after five seconds. taskiq's list broker would then start its worker anew, and lose a message.
"""
