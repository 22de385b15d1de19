"""CLIP encoders and captioners over open_clip and transformers, and captioners that run elsewhere (`endpoint`).

Here belongs what turns pictures and texts into vectors, and pictures into captions: loading, the model's own
preprocessing, batches. Decoding bytes (`sd_assets.images`), tables, what to embed or caption, and Dagster do not.
A model object costs nothing before its `load()`, and can be pickled to a worker that loads it there.
"""
