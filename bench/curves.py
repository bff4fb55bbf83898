"""Step curves over time, drawn as SVG: one panel for each measurement, each curve on a scale of its own."""

from collections.abc import Sequence
from html import escape
from typing import Final, NamedTuple

WIDTH: Final = 460
HEIGHT: Final = 200
LEFT: Final = 50
TOP: Final = 34
GAP: Final = 56
COLUMNS: Final = 2
COLOURS: Final = ("#1f6feb", "#d1570a")


class Curve(NamedTuple):
    """A value that holds until the next point; x in seconds, ascending."""

    name: str
    points: Sequence[tuple[float, float]]

    @property
    def highest(self) -> float:
        """Of all values; at least 1, so that something can be drawn."""
        return max(1.0, *(y for _, y in self.points)) if self.points else 1.0


def drawn(panels: Sequence[tuple[str, Sequence[Curve]]]) -> str:
    """The picture."""
    rows = -(-len(panels) // COLUMNS)
    width = COLUMNS * (WIDTH + 2 * LEFT)
    height = max(1, rows) * (HEIGHT + TOP + GAP)
    parts = [_panel(title, curves, *divmod(number, COLUMNS)) for number, (title, curves) in enumerate(panels)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _panel(title: str, curves: Sequence[Curve], row: int, column: int) -> str:
    last_s = max((curve.points[-1][0] for curve in curves if curve.points), default=0.0) or 1.0
    x, y = column * (WIDTH + 2 * LEFT) + LEFT, row * (HEIGHT + TOP + GAP) + TOP
    lines = [f'<g transform="translate({x},{y})">', f'<text x="0" y="-12" font-weight="bold">{escape(title)}</text>']
    lines.append(f'<path d="M0 0V{HEIGHT}H{WIDTH}" fill="none" stroke="#888"/>')
    for part in range(5):
        at = WIDTH * part / 4
        lines.append(f'<text x="{at:.0f}" y="{HEIGHT + 16}" text-anchor="middle">{last_s * part / 4:.3g} s</text>')
    for number, curve in enumerate(curves):
        lines += _curve(curve, last_s, COLOURS[number % len(COLOURS)], number)
    return "\n".join([*lines, "</g>"])


def _curve(curve: Curve, last_s: float, colour: str, number: int) -> list[str]:
    path = "".join(
        f"{'M' if not place else 'H'}{WIDTH * s / last_s:.1f}"
        + (f" {_height(value, curve):.1f}" if not place else f"V{_height(value, curve):.1f}")
        for place, (s, value) in enumerate(curve.points)
    )
    label = f"{escape(curve.name)}, at most {curve.highest:,.0f}"
    return [
        f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>' if path else "",
        f'<text x="{WIDTH * (number + 1) / 2:.0f}" y="{HEIGHT + 34}" text-anchor="end" fill="{colour}">{label}</text>',
    ]


def _height(value: float, curve: Curve) -> float:
    return HEIGHT * (1 - value / curve.highest)
