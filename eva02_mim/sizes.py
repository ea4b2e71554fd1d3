"""Students by name: the four published sizes (Table 5), and the architectures on the way to them (Table 2)."""

from typing import Any

from eva02_det.layers.sizes import TRV_SIZES
from eva02_det.utils.errors import UserError
from eva02_mim.student import MimStudent

# options for size B, in the order of Table 2; ImageNet-1K top-1 after 300 epochs there: 84.0, 85.0, 85.2, 85.6
TABLE_2: dict[str, dict[str, Any]] = {
    "plain": {"feed_forward": "gelu", "sub_ln": False, "rope": False, "init": "beit"},
    "swiglu": {"sub_ln": False, "rope": False},
    "sub_ln": {"rope": False},
    "trv": {},
}


def student_of_size(size: str, **options: Any) -> MimStudent:
    """The student called "Ti", "S", "B" or "L"; `options` of `MimStudent` go on top (drop_path_rate=0.1 for L's recipe).

    Raises:
        UserError: for another name.
    """
    if size not in TRV_SIZES:
        raise UserError(f"there is no student of size {size!r}; choose one of {', '.join(TRV_SIZES)}")
    shape = TRV_SIZES[size]
    return MimStudent(shape.embed_dim, shape.depth, shape.num_heads, **{"sub_ln": shape.sub_ln, **options})
