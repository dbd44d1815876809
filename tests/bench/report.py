"""Rows of the benchmark: their table, and their plot."""

import dataclasses
import html

SIGNS = {">=": "≥", "<=": "≤", "==": "exactly"}


@dataclasses.dataclass
class Row:
    key: str
    what: str
    value: float
    # Nothing where a value is only stated.
    sign: str | None
    goal: float | None
    form: str
    note: str = ""

    @property
    def met(self):
        """Whether the value reaches the goal, before it is rounded for the table."""
        if self.goal is None:
            return None
        return {">=": self.value >= self.goal, "<=": self.value <= self.goal, "==": self.value == self.goal}[self.sign]

    @property
    def goal_text(self):
        unit = self.form.split("}")[1]
        return "" if self.goal is None else f"{SIGNS[self.sign]} {self.goal:,.10g}{unit}"

    @property
    def share(self):
        """How far the value reaches the goal: 1 is the goal, and more is better."""
        if self.sign == ">=":
            return self.value / self.goal
        return self.goal / self.value if self.value else 10.0

    def as_json(self):
        return dataclasses.asdict(self) | {"met": self.met}


def table(rows):
    lines = ["| what | measured | goal | met |", "|---|---|---|---|"]
    for row in rows:
        note = f" ({row.note})" if row.note else ""
        met = {None: "", True: "yes", False: "**no**"}[row.met]
        goal = row.goal_text
        lines.append(f"| {row.what} | {row.form.format(row.value)}{note} | {goal} | {met} |")
    return "\n".join(lines)


# Readable on light and on dark pages alike.
STYLE = """
    text { font: 13px system-ui, sans-serif; fill: #1f2328; }
    .small { font-size: 11px; fill: #59636e; }
    .met { fill: #1a7f37; } .missed { fill: #cf222e; }
    .goal { stroke: #1f2328; stroke-width: 1.5; } .grid { stroke: #d1d9e0; }
    @media (prefers-color-scheme: dark) {
        text { fill: #f0f6fc; } .small { fill: #9198a1; }
        .met { fill: #3fb950; } .missed { fill: #f85149; }
        .goal { stroke: #f0f6fc; } .grid { stroke: #3d444d; }
    }
"""


def plot(rows, caption):
    """An SVG with a bar for each row that has a goal: how far it reaches that."""
    rows = [row for row in rows if row.goal is not None]
    label, width, step, top, most = 520, 420, 24, 58, 2.0
    height = top + step * len(rows) + 34
    scale = width / most
    text = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {label + width + 200} {height}" role="img">',
        f"<title>{html.escape(caption)}</title>",
        f"<style>{STYLE}</style>",
        '<text x="12" y="24">Each measure relative to its goal: a bar that reaches the line meets it</text>',
    ]
    bottom = top + step * len(rows)
    for mark in (0.0, 0.5, 1.0, 1.5, 2.0):
        x, kind = label + mark * scale, "goal" if mark == 1 else "grid"
        text.append(f'<line class="{kind}" x1="{x:.0f}" y1="{top - 8}" x2="{x:.0f}" y2="{bottom}"/>')
        name = "goal" if mark == 1 else f"{mark:.1f}"
        text.append(f'<text class="small" x="{x:.0f}" y="{top - 14}" text-anchor="middle">{name}</text>')
    for index, row in enumerate(rows):
        y = top + step * index
        share = min(most, row.share)
        kind = "met" if row.met else "missed"
        what = row.what.replace("`", "")
        what = what if len(what) <= 74 else what[:73] + "…"
        text.append(f'<text class="small" x="{label - 8}" y="{y + 14}" text-anchor="end">{html.escape(what)}</text>')
        text.append(f'<rect class="{kind}" x="{label}" y="{y + 3}" width="{share * scale:.1f}" height="15" rx="2"/>')
        value = html.escape(f"{'✓' if row.met else '✗'} {row.form.format(row.value)} ({row.goal_text})")
        text.append(f'<text class="small" x="{label + width + 14}" y="{y + 14}">{value}</text>')
    text.append(f'<text class="small" x="12" y="{height - 12}">{html.escape(caption)}</text>')
    return "\n".join([*text, "</svg>", ""])
