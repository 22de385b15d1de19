"""The curated pairs as a dataset of the Hugging Face Hub: Parquet, and a card that is written from the run.

Here belong the repository (`repository`: what it holds, and the one commit that a run makes), the facts of a partition that the
card is made of (`facts`), and the card (`card`). What does not: the Parquet files, which are those of the export
(`exports.parquet`), and reading datasets of the Hub (`sources.hub`).
"""
