"""What figures were taken on."""

from __future__ import annotations

import platform
from pathlib import Path


def processor() -> str:
    """What the machine calls its processor."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.is_file() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
