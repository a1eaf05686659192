"""What the fleet does, in numbers: counted in Redis by the steps that settle tasks, read by whoever wants to know.

No process keeps a counter, so that none is lost or counted twice where children of a pool come and go. Prompts and
answers never come here.
"""
