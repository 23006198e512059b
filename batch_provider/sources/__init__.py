"""Where records come from: files, databases and what is in memory already.

Importing the declared classes costs a few milliseconds: the libraries that read are imported when reading begins.
"""

from batch_provider.sources.access import LocalAccess
from batch_provider.sources.files import Files
from batch_provider.sources.records import Records
from batch_provider.sources.sql import Sql

__all__ = ["Files", "LocalAccess", "Records", "Sql"]
