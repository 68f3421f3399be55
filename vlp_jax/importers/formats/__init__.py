"""Readers of weight files, one format a file; `importers/read.py` chooses."""
