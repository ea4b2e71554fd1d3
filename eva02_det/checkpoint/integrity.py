"""Whether a checkpoint is as it was written: the checksum that torch.save keeps for each tensor in the file's zip archive."""

import struct
import zipfile
import zlib
from pathlib import Path

from eva02_det.checkpoint.io import read_file
from eva02_det.utils.errors import UserError


def damage(path: str | Path) -> str | None:
    """What is wrong with a file of torch.save, None where every part agrees with its checksum (CRC-32). Reads the whole file.

    The checksums are part of the file, so that a copy of it can be checked too; by hand: `unzip -tq FILE`.
    """
    path = Path(path)
    try:
        if not path.stat().st_size:
            return "it is empty"
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is None:
            read_file(path)  # torch looks at the archive's table of contents in its own way
    except UserError:
        return "its table of contents was changed"
    except FileNotFoundError:
        return "it is not there"
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    except (zipfile.BadZipFile, EOFError, RuntimeError, ValueError, struct.error, zlib.error) as error:
        # wherever a byte was changed: in the table of contents, in the name or the flags of a part
        return f"it was cut short or changed: {str(error) or type(error).__name__}"
    return None if broken is None else f"the checksum of {broken} does not agree"
