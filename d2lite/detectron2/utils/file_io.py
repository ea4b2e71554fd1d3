"""Files at local paths and URLs, through iopath."""

from iopath.common.file_io import HTTPURLHandler
from iopath.common.file_io import PathManager as PathManagerBase

__all__ = ["PathManager"]

PathManager = PathManagerBase()
PathManager.register_handler(HTTPURLHandler())
