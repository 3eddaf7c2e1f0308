"""The one style of all plots, and the small PNG files that are made of them.

Colours are those of Okabe and Ito, which people with any colour vision tell apart; the lighter ones are darkened until
they have a contrast of 3:1 with the background. That is white and opaque, so that a picture can be read on a light page
and on a dark one.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE, BLACK = (
    "#0072B2", "#CE8300", "#0E9348", "#C04C00", "#359CD6", "#CC79A7", "#2b2b2b",
)  # fmt: skip
CYCLE = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK)
LINES, MARKERS = ("-", "--", ":", "-."), (".", "x", "^", "s")
"""Styles of lines whose colours repeat, and markers of those whose styles repeat too."""
HATCHES = ("", "///", "xxx")
"""Hatches of bars whose colours repeat."""
GREY, LIGHT_GREY = "#6b6b6b", "#d9d9d9"
"""The light one is for what only guides the eye: it has little contrast with the background."""
BACKGROUND = "#ffffff"
SEQUENTIAL = "cividis"
"""Colour map of amounts; it was made for people of any colour vision."""
MAX_SEQUENTIAL = 0.6
"""Place in that colour map, from 0 to 1, up to which lines have a contrast of 3:1 with the background."""
INCHES = (8.0, 4.5)
DOTS_PER_INCH = 110
MAX_NAMES, MAX_LETTERS, MAX_NAME_LETTERS = 26, 80, 16
"""Number of names, and of letters, that fit beside one another below a plot, and of the letters of a turned name."""
COLOURS = 48
"""Number of colours of a picture besides the style's own: it takes a third of the bytes, and looks the same."""
COMPRESSION = 6
"""Level of zlib; the highest one, 9, takes six times as long for a tenth of the bytes."""
_SETTINGS: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "font.size": 9,
    "grid.color": "#ececec",
    "legend.fontsize": "small",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
}


def draw_png(draw: Callable[..., None], panels: int = 1, rows: int = 1) -> bytes:
    """Return a PNG file of what `draw(axes, ...)` draws on so many axes side by side, in each of some rows."""
    # These take a while to import, and only runs draw.
    from cycler import cycler
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({**_SETTINGS, "axes.prop_cycle": cycler(color=CYCLE)}):
        width, height = INCHES[0] * (1 if panels == 1 else 1.4), INCHES[1] * rows
        figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        draw(*figure.subplots(rows, panels, squeeze=False).ravel())
        canvas.draw()
    return _encode_png(np.asarray(canvas.buffer_rgba())[..., :3])


def _encode_png(pixels: np.ndarray) -> bytes:
    """Return a PNG file of pixels (height, width, 3) in few colours.

    These are the style's own, as they are, and those that the others are nearest to.
    """
    from PIL import Image, ImageColor

    own = [value for colour in (BACKGROUND, *CYCLE, GREY) for value in ImageColor.getrgb(colour)]
    quantized = Image.fromarray(pixels).quantize(COLOURS, method=Image.Quantize.FASTOCTREE)
    palette = [*own, *(quantized.getpalette() or [])]
    packed = pixels @ np.array([1 << 16, 1 << 8, 1], dtype=np.int32)
    colours = np.unique(packed)
    unpacked = colours[:, None] >> np.array([16, 8, 0]) & 255
    distance = ((unpacked[:, None] - np.reshape(palette, (-1, 3))) ** 2).sum(axis=-1)
    nearest = np.zeros(1 << 24, dtype=np.uint8)  # of each colour; a lookup is faster than a search for each pixel
    nearest[colours] = distance.argmin(axis=1)
    reduced, buffer = Image.fromarray(nearest[packed]), io.BytesIO()
    reduced.putpalette(palette)
    reduced.save(buffer, format="png", compress_level=COMPRESSION)
    return buffer.getvalue()


def choose_line(number: int) -> dict[str, str]:
    """Return the colour, style and marker of a line by its number, from 0: the first 112 lines all differ."""
    repeats = number // len(CYCLE)
    return {
        "color": CYCLE[number % len(CYCLE)],
        "linestyle": LINES[repeats % len(LINES)],
        "marker": MARKERS[repeats // len(LINES) % len(MARKERS)],
    }


def choose_marked_line(number: int) -> dict[str, Any]:
    """Return the colour and marker of a line by its number, from 0, which differ for each: its style is left free.

    The markers of colours that repeat are polygons of more and more corners.
    """
    repeats = number // len(CYCLE)
    return {"color": CYCLE[number % len(CYCLE)], "marker": (repeats + 2, 0, 0) if repeats else "o"}


def draw_bars(
    axes: Any, names: Sequence[str], parts: Mapping[str, Sequence[float]], colours: Mapping[str, str]
) -> None:
    """Draw horizontal bars, the first name on top, of parts (n,) that follow one another from left to right.

    Parts whose colour repeats are hatched.
    """
    seen: list[str] = []
    for part, begins in _stack(parts).items():
        hatch = HATCHES[seen.count(colours[part]) % len(HATCHES)]
        seen.append(colours[part])
        axes.barh(
            range(len(names)), parts[part], left=begins, label=part, color=colours[part], hatch=hatch,
            edgecolor=BACKGROUND,
        )  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)


def draw_columns(
    axes: Any, names: Sequence[str], parts: Mapping[str, Sequence[float]], colours: Mapping[str, str]
) -> None:
    """Draw columns from left to right, of parts (n,) on top of one another."""
    for part, begins in _stack(parts).items():
        axes.bar(range(len(names)), parts[part], bottom=begins, label=part, color=colours[part])
    name_columns(axes, names)
    axes.grid(axis="x", visible=False)


def _stack(parts: Mapping[str, Sequence[float]]) -> dict[str, np.ndarray]:
    """Return where each of some parts (n,) begins, as each follows those before it."""
    lengths = np.array(list(parts.values()), dtype=float)
    return dict(zip(parts, np.cumsum(lengths, axis=0) - lengths, strict=True))


def name_columns(axes: Any, names: Sequence[str]) -> None:
    """Name the places 0, 1, ... of the horizontal axis; names that would overlap are turned, and some left out."""
    step = 1 + len(names) // MAX_NAMES
    shown = list(names)[::step]
    panels = axes.get_subplotspec().get_gridspec().ncols
    letters = MAX_LETTERS if panels == 1 else 1.2 * MAX_LETTERS / panels
    turned: dict[str, Any] = {}
    if len(shown) * (1 + max(map(len, shown), default=0)) > letters:
        shown = [shorten_name(name) for name in shown]
        turned = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(0, len(names), step), shown, **turned)


def shorten_name(name: str) -> str:
    """Return a name that is no longer than `MAX_NAME_LETTERS`, with an ellipsis where it is cut."""
    return name if len(name) <= MAX_NAME_LETTERS else f"{name[: MAX_NAME_LETTERS - 1]}…"


def count_in_integers(*axis: Any) -> None:
    """Put ticks of axes, such as `axes.xaxis`, at whole numbers only, with a comma for thousands."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    for one in axis:
        one.set_major_locator(MaxNLocator(nbins="auto", steps=[1, 2, 5, 10], integer=True))
        one.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def name_lines(axes: Any, **options: Any) -> None:
    """Name the lines in a legend beside the plot, from top to bottom in the order in which they end."""

    def find_end(line: Any) -> float:
        values = np.asarray(line.get_ydata(), dtype=float)
        finite = values[np.isfinite(values)]
        return float(finite[-1]) if len(finite) else -np.inf

    lines = sorted(axes.lines, key=find_end, reverse=True)
    axes.legend(handles=lines, loc="upper left", bbox_to_anchor=(1, 1), **options)
