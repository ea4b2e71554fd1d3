"""Reads the pickles of detectron2's model zoo, and nothing but arrays and plain values from them."""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eva02_det.utils.errors import UserError

# what NumPy writes into a pickle to rebuild an array and a number; the module that holds them has moved with its versions
_REBUILD_ARRAY: Any = np.zeros(1).__reduce__()[0]
_REBUILD_NUMBER: Any = np.float32(1).__reduce__()[0]
_REBUILD_FROM_BYTES: Any = np.zeros(1).__reduce_ex__(5)[0]
_INERT: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _REBUILD_ARRAY for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _REBUILD_NUMBER for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _REBUILD_FROM_BYTES for core in ("core", "_core")},
}


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """The bytes that Python 2's protocol writes as text; no other codec."""
    if encoding not in {"latin1", "latin-1"}:
        raise pickle.UnpicklingError(f"text in {encoding}")
    return text.encode("latin1")


class _ArraysOnly(pickle.Unpickler):
    """Every name that is not in the list above is refused before anything of it is imported or called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _encode
        if (module, name) not in _INERT:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return _INERT[module, name]


def read_zoo_pickle(path: str | Path) -> dict[str, Any]:
    """The content of a .pkl file, its arrays as tensors; UserError for any other object in it."""
    try:
        with Path(path).open("rb") as stream:
            content = _ArraysOnly(stream, encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise UserError(
            f"checkpoint {path} holds objects other than arrays ({error}) and is not loaded, since unpickling runs code; "
            f"re-save its arrays alone where it comes from"
        ) from error
    except (EOFError, OSError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        raise UserError(f"checkpoint {path} is truncated or not a pickle; copy or download it again") from error
    if not isinstance(content, dict):
        raise UserError(f"checkpoint {path} holds a {type(content).__name__}, not the dict of a model zoo file")
    return {key: _tensors(value) for key, value in content.items()}


def _tensors(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tensors(item) for key, item in value.items()}
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("="), order="C"))
    return value
