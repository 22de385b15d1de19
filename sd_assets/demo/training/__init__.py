"""Training of the embedded world's two small models, and the measuring of them.

Belongs here: rendered training data, the training loops, the export in the libraries' own formats, the figures.

Does not belong here: anything needed to use the models, which are loaded as any other model is; and nothing imports this package
but `sd_assets.demo.train`.
"""
