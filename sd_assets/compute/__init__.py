"""Running a stage over the rows that are missing.

Here belongs how work is spread, overlapped and handed to the storage. What does not: what the work is (`stages`),
what is kept of it (`storage`). `local` runs a stage in the step's own process.
"""
