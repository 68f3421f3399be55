"""Users' files to prepared data sets: `python -m data_pipelines.prepare DATASET ...`.

Names resolve by place: DATASET `narrated` is `prepare/narrated.py:prepare`, whose
keywords are the options of the command line. `shards.py` does what all have in common:
estimate, workers, quarantine, resume. TensorFlow is not needed.
"""
