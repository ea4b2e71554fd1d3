"""Reports that may fail: a full disk costs a run some points of its curves, not the run."""

import logging
from collections.abc import Callable

logger = logging.getLogger(__name__)


class Lenient:
    """Calls what writes `what`, and warns where the storage refuses, once until it works again."""

    def __init__(self, what: str) -> None:
        self.what, self._refused = what, False

    def __call__(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            if not self._refused:
                logger.warning("%s cannot be written (%s): the run goes on; make room", self.what, error.strerror or error)
            self._refused = True
        else:
            self._refused = False
