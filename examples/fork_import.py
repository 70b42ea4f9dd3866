"""A fork's own model class over this package's: what a file of the fork's folder of models holds.

SGLang finds classes by their names, so the subclass keeps the name that checkpoints say. The package stays installed
and does the rest; `docs/forks.md` has the names that forks may rely on. Run as a program, this file puts itself into a
folder of models, serves a tiny checkpoint from there and asks it for a few tokens.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch

from sglang_nemotron.models import nemotron_h


class NemotronHForCausalLM(nemotron_h.NemotronHForCausalLM):
    """Serves as the package's class does, and says what it loaded."""

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """As the class above, whose checks hold here too."""
        loaded = super().load_weights(weights)
        print(f"fork: {len(loaded)} parameters of {len(self.stage)} layers", flush=True)
        return loaded


EntryClass = NemotronHForCausalLM


def main() -> None:
    """Stands for the fork: one package, `fork_models`, whose only module is this file."""
    import sglang as sgl

    from sglang_nemotron.checkpoint.spec import PRESETS
    from sglang_nemotron.checkpoint.writer import write_checkpoint

    with tempfile.TemporaryDirectory(prefix="fork-import-") as name:
        folder = Path(name)
        (folder / "fork_models").mkdir()
        (folder / "fork_models" / "__init__.py").touch()
        shutil.copy(__file__, folder / "fork_models" / "nemotron_h.py")
        write_checkpoint(PRESETS["tiny"], folder / "checkpoint")
        # a fork whose folder is sglang/srt/models needs neither
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [name, os.environ.get("PYTHONPATH")]))
        os.environ["SGLANG_EXTERNAL_MODEL_PACKAGE"] = "fork_models"
        sys.path.insert(0, name)
        engine = sgl.Engine(model_path=str(folder / "checkpoint"), log_level="error")
        try:
            reply = engine.generate("The Rhine", {"temperature": 0, "max_new_tokens": 8})
        finally:
            engine.shutdown()
    print(f"{reply['meta_info']['completion_tokens']} tokens: {reply['text']}")


if __name__ == "__main__":
    main()
