"""Draws loss.csv as loss.svg: python plot.py"""

import csv
import math
from pathlib import Path

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 720, 360, 56, 44, 34, 16
COLOURS = {"train_loss": "#c2410c", "heldout_loss": "#1d4ed8"}
NAMES = {"train_loss": "training (answers weigh more)", "heldout_loss": "held out (all tokens alike)"}


def main() -> None:
    here = Path(__file__).parent
    rows = list(csv.DictReader(open(here / "loss.csv")))
    last = int(rows[-1]["tokens"])
    low, high = math.log(0.2), math.log(4)

    def x(tokens: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * tokens / last

    def y(loss: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (math.log(loss) - low) / (high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"'
        ' font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="20" fill="#334155">cross-entropy per token, nats (logarithmic)</text>',
    ]
    for loss in (0.2, 0.3, 0.5, 1, 2, 4):
        parts.append(f'<path d="M{LEFT} {y(loss):.1f}H{WIDTH - RIGHT}" stroke="#e2e8f0"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(loss) + 4:.1f}" text-anchor="end" fill="#475569">{loss}</text>')
    for tokens in range(0, last, 100_000_000):
        label = f"{tokens // 1_000_000}M"
        parts.append(f'<text x="{x(tokens):.1f}" y="{HEIGHT - 22}" text-anchor="middle" fill="#475569">{label}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end" fill="#475569">tokens seen</text>')
    for row, (column, colour) in enumerate(COLOURS.items()):
        points = " ".join(f"{x(int(r['tokens'])):.1f},{y(float(r[column])):.1f}" for r in rows)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{WIDTH - RIGHT - 8}" y="{TOP + 16 + 18 * row}" text-anchor="end" fill="{colour}">'
                     f"{NAMES[column]}</text>")
    (here / "loss.svg").write_text("\n".join([*parts, "</svg>"]) + "\n")


if __name__ == "__main__":
    main()
