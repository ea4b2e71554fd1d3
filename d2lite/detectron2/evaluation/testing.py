"""Results in a form that goes into a spreadsheet."""

import logging
from collections.abc import Mapping

log = logging.getLogger(__name__)


def print_csv_format(results: Mapping[str, Mapping[str, float] | float]) -> None:
    """Log {task: {metric: value}} as comma-separated lines to copy; the values per class (their names hold a dash) stay out."""
    for task, values in results.items():
        if not isinstance(values, Mapping):
            log.info("copypaste: %s=%s", task, values)
            continue
        overall = {name: value for name, value in values.items() if "-" not in name}
        log.info("copypaste: Task: %s", task)
        log.info("copypaste: %s", ",".join(overall))
        log.info("copypaste: %s", ",".join(f"{value:.4f}" for value in overall.values()))
