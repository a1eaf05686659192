"""Maps: thousands of requests under one name. What Redis knows of them, changed one atomic step at a time."""
