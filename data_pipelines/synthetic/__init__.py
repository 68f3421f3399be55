"""The generated corpus: narrated clips of moving shapes, as real mp4 files.

`corpus.generate` makes it from Python, `python -m data_pipelines.synthetic` from the
shell. Needs numpy, PyAV and rich only: neither jax nor tensorflow. Files: `world`
(shapes, colours, actions, splits), `motion` (paths), `render` (pixels, boxes), `sound`,
`words` and `speech` (captions, narrations), `questions`, `clips` (one example), `write`
(mp4), `corpus` (all files, resume).
"""
