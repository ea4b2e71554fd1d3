"""Run in a process of its own, whose environment decides where the hub's cache is: the file or the error of every argument."""

import json
import sys

from eva02_det.checkpoint.hub import find_file
from eva02_det.utils.errors import UserError


def outcome(name: str) -> str:
    try:
        return str(find_file(name))
    except UserError as error:
        return f"error: {error}"


if __name__ == "__main__":
    sys.stdout.write(json.dumps({name: outcome(name) for name in sys.argv[1:]}) + "\n")
