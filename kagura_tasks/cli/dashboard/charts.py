"""Small charts of the last hour as inline SVG: no script, no font, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

_WIDTH: Final = 320
_HEIGHT: Final = 72

#: Room for a line that is as high as it gets, and as low.
_MARGIN: Final = 4

#: A value a minute, oldest first; None where there is none.
Values = Sequence[float | None]


@dataclass(frozen=True)
class Line:
    """One line of a chart: what it is called, and its values."""

    name: str
    values: Values


@dataclass(frozen=True)
class Chart:
    """Some lines over the same hour.

    Attributes:
        title: What is shown.
        unit: Of the values; it stands behind each number.
        lines: One or two.
        ceiling: What the whole height stands for; None is the largest value.
    """

    title: str
    unit: str
    lines: tuple[Line, ...]
    ceiling: float | None = None

    @property
    def highest(self) -> float:
        """The largest value of all lines; 0 where there is none."""
        return max((value for line in self.lines for value in line.values if value is not None), default=0.0)

    def svg(self) -> str:
        """The chart as an element. Its colours come from the page: `kg-line-0`, `kg-line-1`, `kg-base`."""
        top = self.ceiling or self.highest or 1.0
        paths = "".join(
            f'<path class="kg-line-{number}" d="{path}"><title>{escape(line.name)}</title></path>'
            for number, line in enumerate(self.lines)
            if (path := _path(line.values, top))
        )
        base = f'<path class="kg-base" d="M0 {_HEIGHT - _MARGIN}H{_WIDTH}"/>'
        label = f"{self.title} over the last hour, at most {short(self.highest, self.unit)}"
        return (
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img"'
            f' aria-label="{escape(label)}">{base}{paths}</svg>'
        )


def short(value: float | None, unit: str = "") -> str:
    """A number in three digits or so, for people; a dash where there is none."""
    if value is None:
        return "-"
    if unit == "%":
        return f"{value * 100:.1f} %"
    if unit == "s" and 0 < value < 1:
        return short(value * 1000, "ms")
    for limit, sign in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (limit if sign != 'k' else 1e3):.3g} {sign}{unit}".rstrip()
    number = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{number} {unit}".rstrip()


def _path(values: Values, top: float) -> str:
    """The line through all values that are there; one that stands alone is a short stroke."""
    step = _WIDTH / max(len(values) - 1, 1)
    room = _HEIGHT - 2 * _MARGIN
    drawn, has_pen_down = list[str](), False
    for number, value in enumerate(values):
        if value is not None:
            place = f"{number * step:.1f} {_HEIGHT - _MARGIN - room * min(value / top, 1.0):.1f}"
            drawn.append(f"L{place}" if has_pen_down else f"M{place}h1M{place}")
        has_pen_down = value is not None
    return "".join(drawn)
