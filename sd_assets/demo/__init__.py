"""The embedded world: everything that lets the whole pipeline run, and be judged, with no network.

Belongs here: the renderer of scenes with known contents, the world and its web server, the two small trained models with the
script that trains them, and the evaluators, the only code that opens a world's truth.

Does not belong here: anything that a real seed dataset needs. No other package imports this one, apart from the wiring of the
demo partitions.
"""
