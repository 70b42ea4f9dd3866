"""The spec of the published Omni config, whose rules and tokens many tests need; test_config_omni.py proves it."""

from __future__ import annotations

import json
from pathlib import Path

from sglang_nemotron.config.omni import omni_spec

CONFIG = Path(__file__).parents[1] / "data" / "nano-omni-30b-a3b.config.json"
SPEC = omni_spec(json.loads(CONFIG.read_text()))
