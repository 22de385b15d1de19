"""sd_assets: text-image datasets for fine-tuning Stable Diffusion, as Dagster assets.

The top level holds what every package shares: the catalogue (`catalog`, `settings`), the table schemas (`schemas`),
the error codes (`errors`), the decoding of images (`images`) and the place where all of it meets (`definitions`).
Everything else is in a package whose docstring says what belongs there.
"""
