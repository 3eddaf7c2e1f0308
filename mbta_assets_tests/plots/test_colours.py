"""What plots draw can be told apart with any colour vision, and from the background."""

import io
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from PIL import Image

from mbta_assets.plots.style import BACKGROUND, CYCLE, draw_png
from mbta_assets_tests.plots import test_plots
from mbta_assets_tests.support.colour_vision import VISIONS, measure_contrast, measure_distance, to_lab

features = test_plots.features

MIN_DISTANCE = 15.0
"""Minimum distance of two colours in CIE Lab: some six times what is just noticed of two that touch."""
MIN_CONTRAST, MIN_TEXT_CONTRAST = 3.0, 4.5
"""Those of the Web Content Accessibility Guidelines for graphics and for text."""
AMOUNTS = ("hyperparameters",)
"""Plots whose lines are coloured by an amount: how near two colours are is what they say."""
RED, GREEN_AS_LIGHT = "#cc3333", "#2f7d32"


class Look(NamedTuple):
    """How something that the legend names is drawn."""

    label: str
    colour: str
    outline: str
    style: tuple[str, ...]


def draw_axes(function: Callable[..., None], panels: int) -> list[Any]:
    """Return all axes of a plot in the style of `draw_png`."""
    drawn: list[Any] = []

    def draw(*axes: Any) -> None:
        function(*axes)
        drawn.extend(axes[0].figure.axes)

    draw_png(draw, panels)
    return drawn


def list_looks(axes: Any) -> list[Look]:
    """Return the looks of the lines, bars and areas of some axes that have a label."""
    looks = [
        Look(
            line.get_label(),
            to_hex(line.get_color()),
            to_hex(line.get_color()),
            (line.get_linestyle(), line.get_marker()),
        )
        for line in axes.lines
    ]
    for bars in axes.containers:
        colour = to_hex(bars.patches[0].get_facecolor())
        looks.append(Look(bars.get_label(), colour, colour, ("bar",)))
    for collection in axes.collections:
        edge, is_area = collection.get_edgecolor(), isinstance(collection, PolyCollection)
        if len(edge) and collection.get_array() is None:
            face = collection.get_facecolor() if is_area else edge
            looks.append(Look(str(collection.get_label()), to_hex(face[0]), to_hex(edge[0]), ("area",)))
    return [look for look in looks if not look.label.startswith("_")]


def find_confusable(looks: Sequence[Look]) -> list[tuple[str, str, str]]:
    """Return the pairs of labels whose colours look alike with a colour vision and nothing else differs."""
    return [
        (vision, look.label, other.label)
        for look, other in combinations(looks, 2)
        for vision in VISIONS
        if look.style == other.style and measure_distance(look.colour, other.colour, vision) < MIN_DISTANCE
    ]


def test_distance_and_contrast_are_those_of_known_colours() -> None:
    assert measure_contrast("#000000", BACKGROUND) == pytest.approx(21)
    assert measure_contrast("#777777", BACKGROUND) == pytest.approx(4.48, abs=0.01)
    assert to_lab("#ff0000") == pytest.approx([53.24, 80.09, 67.20], abs=0.05)
    greys = [measure_distance("#555555", "#aaaaaa", vision) for vision in VISIONS]
    assert greys == pytest.approx([greys[0]] * len(VISIONS), abs=0.1)


def test_red_and_green_of_the_same_lightness_are_found_to_be_confusable() -> None:
    assert to_lab(RED)[0] == pytest.approx(to_lab(GREEN_AS_LIGHT)[0], abs=1.5)
    assert measure_distance(RED, GREEN_AS_LIGHT, "common") > 80
    looks = [Look(name, colour, colour, ("-", "o")) for name, colour in (("a", RED), ("b", GREEN_AS_LIGHT))]
    assert ("deuteranopia", "a", "b") in find_confusable(looks)
    dashed = looks[1]._replace(style=("--", "o"))
    assert find_confusable([looks[0], dashed]) == []


def test_any_two_colours_of_lines_can_be_told_apart_and_from_the_background() -> None:
    assert find_confusable([Look(colour, colour, colour, ("-",)) for colour in CYCLE]) == []
    assert {
        colour: contrast for colour in CYCLE if (contrast := measure_contrast(colour, BACKGROUND)) < MIN_CONTRAST
    } == {}


def test_what_each_plot_names_can_be_told_apart_and_from_the_background(features: pd.DataFrame) -> None:
    named = 0
    for name, (function, panels) in test_plots.every_plot(features).items():
        for axes in draw_axes(function, panels):
            looks = list_looks(axes)
            named += len(looks)
            assert name in AMOUNTS or find_confusable(looks) == [], name
            pale = [look for look in looks if measure_contrast(look.outline, BACKGROUND) < MIN_CONTRAST]
            assert pale == [], name
    assert named >= 50


def test_a_picture_with_few_colours_has_those_of_its_lines(features: pd.DataFrame) -> None:
    function, panels = test_plots.every_plot(features)["errors"]
    drawn = {look.colour for axes in draw_axes(function, panels) for look in list_looks(axes)}
    pixels = np.asarray(Image.open(io.BytesIO(draw_png(function, panels))).convert("RGB")).reshape(-1, 3)
    assert len(drawn) >= 7
    assert drawn <= {to_hex(pixel / 255) for pixel in np.unique(pixels, axis=0)}


def test_the_text_of_a_plot_can_be_read_on_its_opaque_background(features: pd.DataFrame) -> None:
    for name, (function, panels) in test_plots.every_plot(features).items():
        picture = Image.open(io.BytesIO(draw_png(function, panels)))
        assert not picture.has_transparency_data, name
        pixels = np.asarray(picture.convert("RGB"))
        assert to_hex(pixels[0, 0] / 255) == BACKGROUND, name
        top = pixels[: len(pixels) // 16].reshape(-1, 3)  # the title
        darkest = top[top.sum(axis=1).argmin()] / 255
        assert measure_contrast(to_hex(darkest), BACKGROUND) >= MIN_TEXT_CONTRAST, name
