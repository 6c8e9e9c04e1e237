"""Readers for each kind of data: folders, tables, lists, shards and the generated set."""
