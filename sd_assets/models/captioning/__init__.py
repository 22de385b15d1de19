"""What `models.captioner` runs: the families of image-to-text models of transformers, their prompts and their decoding.

These modules import torch and transformers at once, so that their classes can build on those of the libraries; they are
imported when a captioner is loaded, and never before. Settings, names of models and batches are the captioner's; cleaning
captions needs no model, and lies beside it.
"""
