"""The file operations that the storage is made of, on a local disk and on S3.

Each either happens whole or not at all, so a table that is killed between any two of them is the old version or
the new one. Paths are relative to the base, with `/`.

Here belongs how a file is written, created exclusively, read in part and listed. What does not: what is in it.
"""

from sd_assets.storage.files.local import LocalFiles
from sd_assets.storage.files.protocol import Files
from sd_assets.storage.files.s3 import S3Files
from sd_assets.storage.files.s3_connection import S3Connection

__all__ = ["Files", "LocalFiles", "S3Connection", "S3Files"]
