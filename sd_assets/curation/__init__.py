"""Which pairs one trains on, and why not the others: thresholds, near-duplicates, caps, splits, and the funnel they make.

Here belong pure functions from columns to verdicts, and `reading.curated_rows`, by which everything that is made of the
curated pairs reads them. What does not: how a score is computed (`measures`, `models.scoring`), what is asked for
(`settings.curation`), what becomes of the kept pairs (`exports`, `report`).
"""
