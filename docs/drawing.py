"""Boxes and arrows: what the figures of the methods are drawn with."""

import dataclasses
from pathlib import Path

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.patches import FancyBboxPatch  # noqa: E402

COLOURS = {
  "data": ("#dbeafe", "#1d4ed8"),  # what is recorded
  "network": ("#ffedd5", "#c2410c"),  # learned
  "frozen": ("#e5e7eb", "#4b5563"),  # not trained in this stage
  "code": ("#ffffff", "#6b7280"),  # an intermediate result
  "loss": ("#fee2e2", "#b91c1c"),
  "output": ("#dcfce7", "#15803d"),
}
LABELS = {
  "data": "data",
  "network": "learned",
  "frozen": "frozen",
  "code": "intermediate",
  "loss": "loss",
  "output": "prediction",
}


@dataclasses.dataclass
class Figure:
  """Boxes and arrows. Coordinates are inches; a box is named by its centre."""

  name: str
  width: float
  height: float
  roles: list = dataclasses.field(default_factory=list)

  def __post_init__(self):
    self.figure = plt.figure(figsize=(self.width, self.height + 0.35), facecolor="white")
    self.axes = self.figure.add_axes((0, 0, 1, 1))
    self.axes.set(xlim=(0, self.width), ylim=(-0.35, self.height))
    self.axes.axis("off")

  def box(self, x, y, text, role, width=1.45, height=0.5):
    """Draws a box around `text` with its centre at (x, y) and returns it."""
    fill, edge = COLOURS[role]
    patch = FancyBboxPatch(
      (x - width / 2, y - height / 2),
      width,
      height,
      boxstyle="round,pad=0,rounding_size=0.08",
      facecolor=fill,
      edgecolor=edge,
      linewidth=1.1,
      linestyle="--" if role == "frozen" else "-",
      zorder=2,
    )
    self.axes.add_patch(patch)
    self.axes.text(x, y, text, ha="center", va="center", fontsize=9, zorder=3)
    if role not in self.roles:
      self.roles.append(role)
    patch.middle = (x, y)
    return patch

  def arrow(self, start, end, text="", *, bend=0.0, dashed=False, at=0.5, above=0.1):
    """Draws an arrow from box to box, with `text` beside it; dashed: no gradient."""
    self.axes.annotate(
      "",
      xy=end.middle,
      xytext=start.middle,
      arrowprops={
        "arrowstyle": "-|>",
        "patchA": start,
        "patchB": end,
        "shrinkA": 1,
        "shrinkB": 1,
        "linewidth": 1.0,
        "color": "#374151",
        "linestyle": "--" if dashed else "-",
        "connectionstyle": f"arc3,rad={bend}",
      },
      zorder=1,
    )
    if text:
      (x0, y0), (x1, y1) = start.middle, end.middle
      x, y = x0 + at * (x1 - x0), y0 + at * (y1 - y0)
      self.axes.text(x, y + above, text, ha="center", va="center", fontsize=8, color="#374151")

  def note(self, x, y, text, **style):
    """Writes small grey text."""
    style = {"ha": "center", "va": "center", "fontsize": 8, "color": "#374151"} | style
    self.axes.text(x, y, text, **style)

  def save(self, folder):
    """Adds the legend and writes the figure to `folder`."""
    step = self.width / (len(self.roles) + 1)
    for i, role in enumerate(sorted(self.roles, key=list(COLOURS).index)):
      fill, edge = COLOURS[role]
      x = (i + 0.7) * step
      self.axes.add_patch(
        FancyBboxPatch(
          (x, -0.24),
          0.2,
          0.12,
          boxstyle="round,pad=0,rounding_size=0.03",
          facecolor=fill,
          edgecolor=edge,
          linewidth=0.8,
        )
      )
      self.note(x + 0.28, -0.18, LABELS[role], ha="left")
    path = Path(folder) / f"{self.name}.svg"
    self.figure.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(self.figure)
