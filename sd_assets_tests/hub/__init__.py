"""A Hugging Face Hub on the loopback: what the real clients ask of the real one, for datasets and models.

Here belongs what it holds (`repos`), its protocol (`server`) and how clients are pointed at it (`environment`). What
is read through it, and tests of that, do not. Nothing here imports a client: the server knows the protocol alone.
"""
