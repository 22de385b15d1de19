"""Models that give an image one number: heads on a CLIP embedding, and image classifiers.

Here belongs how such a model is named, read and run, and what is wrong with one that does not fit. What does not: which of them
an entry asks for (`settings.scores`), the tables of their scores (`stages.model_score`), thresholds on them (`curation`).
"""
