"""Files of prompts and of answers: JSONL, a row at a time, in our own form or in that of OpenAI's Batch API."""
