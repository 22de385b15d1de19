"""One module per asset: what depends on what.

Here belong an asset's inputs, description, group and kinds. What does not: any algorithm (`stages`), any setting
(the catalogue).
"""
