"""`adts` with the fake launcher in the place of the real one; everything else is what users run."""

from __future__ import annotations

import sys
from pathlib import Path

from adts_operator import cli
from adts_operator.cluster import local

if __name__ == "__main__":
    local.LAUNCHER = [sys.executable, str(Path(__file__).with_name("operator_fake_launcher.py"))]
    cli.main()
