"""ConfigurableResources and the IO manager: thin, they build the domain objects.

Here belongs what a deployment configures: where tables lie, on which device models run, which catalogue is read.
What does not: anything that would be worth testing without Dagster. Nothing here imports torch, faiss or an HTTP
client at module level.
"""
