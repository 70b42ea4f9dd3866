"""A plugin for tests: the second rank begins to load its model only once a file is there; the others wait for it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any


def register() -> None:
    if "sglang.srt.managers.scheduler" not in sys.modules:
        return
    from sglang.srt.model_executor.model_runner import ModelRunner

    load_model = ModelRunner.load_model
    if hasattr(load_model, "late"):
        return

    def late(self: Any, *args: Any, **kwargs: Any) -> Any:
        from sglang.srt.runtime_context import get_parallel

        while get_parallel().tp_rank == 1 and not Path(os.environ["LATE_RANK_FILE"]).exists():
            time.sleep(0.05)
        return load_model(self, *args, **kwargs)

    late.late = True
    ModelRunner.load_model = late
