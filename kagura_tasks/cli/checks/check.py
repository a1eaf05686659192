"""A finding of the doctor's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What it belongs to.
        level: "ok"; "warning": it works, and may surprise; "error": work stops here.
        message: What was found.
        mend: What to do about it.
    """

    name: str
    level: Literal["ok", "warning", "error"]
    message: str
    mend: str = ""
