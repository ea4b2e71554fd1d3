"""Encoded images by number, from folders, lists and tar shards, on local or remote storage."""
