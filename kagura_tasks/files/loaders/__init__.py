"""From a file to text and parts, one kind of file a module. They run in the parser's process; `table` lists them."""
