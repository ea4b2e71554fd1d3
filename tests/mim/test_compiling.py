"""What compiling needs is tried and said before a run depends on it."""

from pathlib import Path

import pytest
import torch
from torch._inductor import config

from eva02_det.utils.errors import UserError
from eva02_mim.compiling import require_compiler


def test_a_machine_without_a_cpp_compiler_is_told_that_a_cpu_needs_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()
    with config.patch({"cpp.cxx": (None, "no-such-compiler"), "force_disable_caches": True}):
        sentence = r"does not work on cpu \(.*no-such-compiler.*\); it needs a C\+\+ compiler .* set train\.compile=False"
        with pytest.raises(UserError, match=sentence):
            require_compiler(torch.device("cpu"))
    torch.compiler.reset()
