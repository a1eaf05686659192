"""Folders of files: found, parsed in processes of their own, and told of one by one. Nothing is dropped in silence."""
