"""Files of arrays made elsewhere, one format a file; `read.py` tells which it is.

Nothing in a file is run, and no header is believed beyond the size of the file. Only
numpy is needed: pipelines read users' files with these too.
"""
