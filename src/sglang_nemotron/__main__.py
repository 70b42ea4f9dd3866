"""`python -m sglang_nemotron` is the `sglang-nemotron` command."""

from __future__ import annotations

import sys

from sglang_nemotron.cli import main

sys.exit(main())
