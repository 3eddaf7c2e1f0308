"""Each plot by what it draws: the numbers are those of the data, axes say their units, pictures are small and quick."""

import io
from collections.abc import Callable
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as arrow
import pytest
from matplotlib.figure import Figure
from PIL import Image

from mbta_assets.plots import accuracy, models, tables
from mbta_assets.plots.style import MAX_NAME_LETTERS, draw_png, name_columns
from mbta_assets.transit import schema, service_day

MAX_BYTES = 60_000
DAYS = [f"2024-09-{number:02}" for number in range(1, 41 - 10)]
ERROR = "validation MAE (seconds)"
TRIALS: list[dict[str, Any]] = [
    {"residual_to": "lookup", "max_depth": 8, "eta": 0.1, "gamma": 0.0, ERROR: 42.0},
    {"residual_to": "now", "max_depth": 5, "eta": 0.05, "gamma": 0.0, ERROR: 45.0},
    {"residual_to": "now", "max_depth": None, "eta": 0.2, "gamma": 0.0, ERROR: 44.0},
]


@pytest.fixture(scope="module")
def features() -> pd.DataFrame:
    """Return rows of a service day: 40 an hour from its sixth on, of three routes, a quarter without a label."""
    n = 400
    start = pd.Timestamp(service_day.start_time(date(2024, 9, 10)))
    rows = pd.DataFrame(
        {name: np.ones(n, np.float32) for name in schema.columns_with_role(schema.TransitFeatures, "numeric")}
    )
    return rows.assign(
        service_date=pd.Timestamp("2024-09-10"),
        time_stamp=start + pd.to_timedelta(6 * 3600 + np.arange(n) * 90, unit="s"),
        route_id=pd.Series(np.array(["Red", "Blue", "Mattapan"])[np.arange(n) % 10 // 4], dtype="string"),
        stops_ahead=1 + np.arange(n) % 5,
        last_delay_seconds=np.where(np.arange(n) % 5 == 0, np.nan, 1.0),
        delay_seconds=np.where(np.arange(n) % 4 == 0, np.nan, 30.0),
    )


def count(features: pd.DataFrame) -> tables.FeatureCounts:
    """Return the counts of rows of a service day."""
    return tables.count_features(arrow.Table.from_pandas(features, preserve_index=False))


def draw(function: Callable[..., None], *arguments: Any, panels: int = 1) -> Any:
    """Return the axes, or the array of axes, that a plot was drawn on."""
    axes = Figure().subplots(1, panels)
    function(*(axes if panels > 1 else (axes,)), *arguments)
    return axes


def sum_bars(axes: Any, label: str) -> float:
    """Return the sum of the lengths of the bars of a part."""
    (container,) = [container for container in axes.containers if container.get_label() == label]
    return float(sum(container.datavalues))


def name_ticks(axes: Any) -> list[str]:
    """Return the names on the vertical axis."""
    return [label.get_text() for label in axes.get_yticklabels()]


def test_labels_are_counted_by_hour_and_by_route(features: pd.DataFrame) -> None:
    by_hour = draw(tables.draw_labels_by_hour, count(features))
    labelled, without = (next(c for c in by_hour.containers if c.get_label() == name) for name in tables.LABEL_COLOURS)
    assert list(labelled.datavalues[5:8]) == [0, 30, 30] and list(without.datavalues[5:8]) == [0, 10, 10]
    by_route = draw(tables.draw_labels_by_route, count(features))
    assert name_ticks(by_route) == ["Blue", "Red", "Mattapan"] or name_ticks(by_route) == ["Red", "Blue", "Mattapan"]
    assert sum_bars(by_route, tables.LABELLED) == 300 and sum_bars(by_route, tables.UNLABELLED) == 100


def test_reports_before_the_service_day_began_are_in_its_first_hour(features: pd.DataFrame) -> None:
    early = features.assign(time_stamp=features["time_stamp"] - pd.Timedelta(7, unit="h"))  # from 23 h on
    assert count(early).rows.sum(axis=1).tolist() == [80, 40, 40, 40, 40, 40, 40, 40, 40]
    by_hour = draw(models.draw_residuals, early, np.ones(len(early)), panels=3)[0]
    assert min(by_hour.lines[0].get_xdata()) == 0


def test_features_with_missing_values_are_named_with_their_share(features: pd.DataFrame) -> None:
    axes = draw(tables.draw_missing_values, count(features))
    assert name_ticks(axes) == ["last_delay_seconds"] and sum_bars(axes, "missing") == pytest.approx(20)


def test_rows_without_a_route_are_counted_as_such(features: pd.DataFrame) -> None:
    route = features["route_id"].mask(features["route_id"] == "Red").mask(np.arange(400) < 5, "none")
    counts = count(features.assign(route_id=route))
    assert counts.routes == ["Blue", "Mattapan", "none"]
    assert counts.rows.sum(axis=0).tolist() == [(route == name).sum() for name in ("Blue", "Mattapan")] + [
        (route.fillna("none") == "none").sum()
    ]


def test_missing_values_are_drawn_by_hour_and_by_route(features: pd.DataFrame) -> None:
    unknown = (features["route_id"] == "Red") & (np.arange(400) < 40)
    features = features.assign(last_delay_seconds=features["last_delay_seconds"].mask(unknown))
    by_hour, by_route = draw(tables.draw_missing_by_group, count(features), panels=2)
    of_hours, of_routes = (np.ma.getdata(axes.images[0].get_array()) for axes in (by_hour, by_route))
    is_missing = features["last_delay_seconds"].isna()
    assert name_ticks(by_hour) == ["last_delay_seconds"] and by_hour.figure.axes[-1].get_ylabel()
    assert np.isnan(of_hours[0, :6]).all()
    assert of_hours[0, 6:] == pytest.approx([100 * is_missing[i : i + 40].mean() for i in range(0, 400, 40)])
    routes = [label.get_text() for label in by_route.get_xticklabels()]
    assert sorted(routes) == ["Blue", "Mattapan", "Red"] and routes[-1] == "Mattapan"
    assert of_routes[0] == pytest.approx([100 * is_missing[features["route_id"] == route].mean() for route in routes])


def test_without_missing_values_the_plots_by_hour_and_by_route_are_empty(features: pd.DataFrame) -> None:
    counts = count(features.assign(last_delay_seconds=1.0))
    by_hour, _ = draw(tables.draw_missing_by_group, counts, panels=2)
    assert name_ticks(by_hour) == []


def test_shares_of_the_upstream_rows_sum_to_a_hundred() -> None:
    usage = pd.DataFrame(
        [
            ("vehicle", "matched", "", 75),
            ("vehicle", "dropped", "no_trip", 25),
            ("stop", "matched", "", 10),
        ],
        columns=["source_table", "outcome", "reason", "row_count"],
    )
    axes = draw(tables.draw_usage, usage)
    assert name_ticks(axes) == ["vehicle, 100 rows", "stop, 10 rows"]
    assert sum_bars(axes, "used") == pytest.approx(175) and sum_bars(axes, "no_trip") == pytest.approx(25)


def test_no_two_reasons_look_the_same_however_many_there_are() -> None:
    reasons = [f"reason {n:02}" for n in range(17)]
    usage = pd.DataFrame(
        {"source_table": "vehicle", "outcome": "dropped", "reason": reasons, "row_count": range(1, len(reasons) + 1)}
    )
    axes = draw(tables.draw_usage, usage)
    looks = {(bar.get_facecolor(), bar.get_hatch()) for bar in axes.patches}
    assert len(looks) == len(axes.patches) == len(reasons)


def test_parts_of_a_training_set_follow_one_another_by_hour_where_days_are_few(features: pd.DataFrame) -> None:
    part = np.repeat(["train", "validation", "test"], [200, 100, 100]).astype(object)
    counts = tables.count_by_time(part, features)
    assert list(counts.index[:2]) == ["2024-09-10, 6 h", "2024-09-10, 7 h"] and counts["train"].sum() == 200
    axes = draw(tables.draw_split, counts)
    assert [sum_bars(axes, name) for name in ("train", "validation", "test")] == [200, 100, 100]
    over_days = features.assign(service_date=pd.Timestamp("2024-09-10") + pd.to_timedelta(np.arange(400) % 4, unit="D"))
    assert list(tables.count_by_time(part, over_days).index)[0] == "2024-09-10"


def test_residuals_are_drawn_by_hour_distance_and_route(features: pd.DataFrame) -> None:
    residual = np.where(features["route_id"] == "Red", 60.0, -60.0)
    _, by_distance, by_route = draw(models.draw_residuals, features, residual, panels=3)
    medians = {line.get_label(): list(line.get_ydata()) for line in by_route.lines}["median"]
    assert dict(zip([label.get_text() for label in by_route.get_xticklabels()], medians, strict=True))["Red"] == 60
    assert list(by_distance.lines[0].get_xdata()) == [1, 2, 3, 4, 5]


def test_parallel_coordinates_leave_out_what_all_trials_share() -> None:
    axes = draw(models.draw_parallel_coordinates, TRIALS, ERROR)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["residual_to", "max_depth", "eta", ERROR]
    best = next(line for line in axes.lines if line.get_label() == "42.0")
    assert best.get_ydata()[-1] == 0 and len(axes.lines) == 3
    alone = draw(models.draw_parallel_coordinates, TRIALS[:1], ERROR)
    assert [label.get_text() for label in alone.get_xticklabels()] == [ERROR]


def test_importance_shows_the_largest_on_top() -> None:
    gain, permuted = draw(models.draw_importance, {"a": 0.2, "b": 0.8}, {"a": 3.0, "b": -0.1}, panels=2)
    assert name_ticks(gain) == ["b", "a"] and name_ticks(permuted) == ["a", "b"]
    assert gain.get_xlabel() == "share of the gain (%)" and permuted.get_xlabel() == "error (seconds)"


def test_calibration_is_drawn_beside_what_is_promised() -> None:
    axes = draw(models.draw_calibration, {1: 0.91, 2: 0.88, 50: 0.2}, {1: 60.0, 2: 80.0, 50: 900.0}, 0.9)
    coverage, promised = axes.lines
    assert list(coverage.get_ydata()) == [91, 88] and promised.get_ydata()[0] == 90


def test_errors_by_route_are_those_of_model_and_rival() -> None:
    errors = {"quantized_student": {"Red": 40.0, "Blue": 30.0}, "runtime_lookup": {"Red": 50.0, "Blue": 60.0}}
    axes = draw(models.draw_errors_by_route, errors, {"Red": 10, "Blue": 1000})
    assert name_ticks(axes) == ["Blue, 1,000 rows", "Red, 10 rows"]
    assert list(axes.lines[0].get_xdata()) == [30, 40] and list(axes.lines[1].get_xdata()) == [60, 50]


def test_errors_of_models_are_drawn_over_the_same_groups() -> None:
    errors = {"oracle": {"1": 10.0, "2": 20.0}, "schedule": {"2": 90.0, "3": 95.0}}
    axes = draw(models.draw_errors, errors, "stops ahead", "Error by distance")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "3"]
    of_oracle, of_schedule = (list(line.get_ydata()) for line in axes.lines)
    assert of_oracle[:2] == [10, 20] and np.isnan(of_oracle[2])
    assert np.isnan(of_schedule[0]) and of_schedule[1:] == [90, 95]
    assert [line.get_label() for line in axes.lines] == list(errors) and axes.get_yscale() == "log"


def test_errors_are_drawn_against_sizes_and_the_marked_are_diamonds() -> None:
    points = {"small": (100, 50.0), "large": (10_000, 40.0)}
    axes = draw(models.draw_error_against_size, points, ["large"], ERROR)
    drawn = {line.get_label(): (*line.get_xdata(), *line.get_ydata()) for line in axes.lines}
    assert drawn == points and axes.get_xscale() == "log"
    assert [line.get_marker() for line in axes.lines] == ["o", "D"]


def test_the_legend_names_lines_in_the_order_of_their_ends_and_one_is_emphasized() -> None:
    errors = {"low": {"1": 90.0, "2": 10.0}, "high": {"1": 10.0, "2": 90.0}, "short": {"1": 50.0}}
    axes = draw(lambda axes: models.draw_errors(axes, errors, "stops ahead", "Error by distance", "low"))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["high", "short", "low"]
    above = max(axes.lines, key=lambda line: (line.get_zorder(), line.get_linewidth()))
    assert above.get_label() == "low" and above.get_linewidth() > axes.lines[1].get_linewidth()


def test_models_can_be_told_apart_without_colours() -> None:
    looks = [look[1:] for look in models.MODEL_STYLES.values()]
    assert len(set(looks)) == len(looks)


@pytest.mark.parametrize("panels", [1, 2])
@pytest.mark.parametrize("names", [8, 12, 40])
@pytest.mark.parametrize("letters", [4, 7, 10, 24])
def test_names_of_columns_do_not_overlap_and_are_not_long(panels: int, names: int, letters: int) -> None:
    shown: list[Any] = []

    def draw_names(*axes: Any) -> None:
        shown.append(axes[-1])
        axes[-1].plot(range(names))
        name_columns(axes[-1], [f"{number:02}" + "m" * (letters - 2) for number in range(names)])

    draw_png(draw_names, panels)
    labels = [label for label in shown[0].get_xticklabels() if label.get_text()]
    assert all(len(label.get_text()) <= MAX_NAME_LETTERS or not label.get_rotation() for label in labels)
    # The distance of two lines of text that are turned is less than that of their beginnings.
    turned = np.radians(labels[0].get_rotation())
    boxes = [label.get_window_extent() for label in labels]
    distance = boxes[1].x1 - boxes[0].x1
    needed = labels[0].get_fontsize() * 110 / 72 if turned else max(box.width for box in boxes)
    assert distance * (np.sin(turned) if turned else 1) >= 0.9 * needed


def test_counts_have_whole_ticks(features: pd.DataFrame) -> None:
    few = draw(tables.draw_labels_by_hour, count(features[:2]))
    assert all(tick == round(tick) for tick in few.get_yticks())
    by_distance = draw(models.draw_calibration, {1: 0.9, 2: 0.9, 3: 0.9}, {1: 6.0, 2: 7.0, 3: 8.0}, 0.9)
    assert all(tick == round(tick) for tick in by_distance.get_xticks())


def test_learning_curves_have_each_error_at_its_step() -> None:
    curves = {"trial 0": [(20, 50.0), (40, 45.0)], "trial 1": [(20, 60.0)]}
    axes = draw(models.draw_learning_curves, curves, "rounds", ERROR, "Trials")
    drawn = {line.get_label(): list(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in axes.lines}
    assert drawn == curves and (axes.get_xlabel(), axes.get_ylabel()) == ("rounds", ERROR)


def test_no_two_of_many_learning_curves_look_the_same() -> None:
    curves = {f"trial {number}": [(1, 50.0), (2, 45.0)] for number in range(60)}
    axes = draw(models.draw_learning_curves, curves, "rounds", ERROR, "Trials")
    looks = [(line.get_color(), line.get_linestyle(), line.get_marker()) for line in axes.lines]
    assert len(set(looks)) == 60
    assert len({line for _, line, _ in looks[:7]}) == 1 and looks[7][1] != looks[0][1]


def test_the_map_has_each_delay_at_its_position() -> None:
    longitude, latitude, delay = np.array([-71.1, -71.0]), np.array([42.3, 42.4]), np.array([60.0, -30.0])
    (points,) = draw(tables.draw_map, longitude, latitude, delay).collections
    assert np.array_equal(points.get_offsets(), np.column_stack([longitude, latitude]))
    assert np.array_equal(points.get_array(), delay)


def test_rows_of_routes_are_drawn_by_day_the_largest_on_top() -> None:
    counts = pd.DataFrame([[1, 2], [30, 40]], ["Blue", "Red"], DAYS[:2])
    axes = draw(tables.draw_routes_by_day, counts)
    assert axes.images[0].get_array().tolist() == [[30, 40], [1, 2]] and name_ticks(axes) == ["Red", "Blue"]
    assert [label.get_text() for label in axes.get_xticklabels()] == DAYS[:2]


def test_the_features_that_drifted_most_are_drawn_by_day() -> None:
    drift = {"still": {DAYS[0]: 0.1}, "moved": {DAYS[1]: 0.7, DAYS[0]: 0.2}, "new": {DAYS[1]: 0.5}}
    moved, new = draw(accuracy.draw_drift_over_days, drift, 2).lines
    assert (moved.get_label(), list(moved.get_xdata()), list(moved.get_ydata())) == ("moved", DAYS[:2], [0.2, 0.7])
    assert new.get_label() == "new" and np.isnan(new.get_ydata()[0]) and new.get_ydata()[1] == 0.5


def test_ours_and_the_agencys_accuracy_are_drawn_by_day() -> None:
    ours = {"0-3 min": {"2024-09-02": 0.9, "2024-09-01": 0.8}}
    axes = draw(accuracy.draw_windows_over_days, ours, {"0-3 min": {"2024-09-02": 0.7}})
    of_ours, of_agency = (list(line.get_ydata()) for line in axes.lines)
    assert of_ours == pytest.approx([80, 90]) and np.isnan(of_agency[0]) and of_agency[1] == pytest.approx(70)


def test_each_of_many_bins_is_drawn_by_day_and_no_two_look_the_same() -> None:
    shares = {f"{minutes}-{minutes + 1} min": {DAYS[0]: 0.8, DAYS[1]: 0.9} for minutes in range(30)}
    axes = draw(accuracy.draw_windows_over_days, shares, shares)
    assert [line.get_label() for line in axes.lines] == [
        f"{name}, {who}" for name in shares for who in ("ours", "agency")
    ]
    looks = [(line.get_color(), line.get_linestyle(), line.get_marker()) for line in axes.lines]
    assert len(set(looks)) == 60
    assert {style for _, style, _ in looks[::2]} == {"-"} and {style for _, style, _ in looks[1::2]} == {"--"}
    assert [look[::2] for look in looks[::2]] == [look[::2] for look in looks[1::2]]
    assert {marker for _, _, marker in looks[:14]} == {"o"}


def test_the_legend_of_many_bins_leaves_the_plot_its_height() -> None:
    shares = {f"{minutes}-{minutes + 1} min": {DAYS[0]: 0.8, DAYS[1]: 0.9} for minutes in range(30)}
    drawn: list[Any] = []

    def draw_bins(axes: Any) -> None:
        accuracy.draw_windows_over_days(axes, shown, shown)
        drawn.append(axes)

    for bins in (1, 30):
        shown = dict(list(shares.items())[:bins])
        draw_png(draw_bins)
    few, many = (axes.get_position().height for axes in drawn)
    assert many == pytest.approx(few, rel=0.05)


def test_shares_within_the_window_are_columns_for_each_name() -> None:
    shares = {"model": {"0-3 min": 0.75, "all": None}, "agency": {"0-3 min": 0.5, "all": 0.25}}
    axes = draw(accuracy.draw_windows_by_horizon, shares, {"model": 41.6, "agency": None})
    model, agency = axes.containers
    assert (model.get_label(), list(model.datavalues)) == ("model, MAE 42 s", [75, 0])
    assert (agency.get_label(), list(agency.datavalues)) == ("agency", [50, 25])
    assert [text.get_text() for text in axes.texts] == ["75", "", "50", "25"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0-3 min", "all"]


def every_plot(features: pd.DataFrame) -> dict[str, tuple[Callable[..., None], int]]:
    """Return each plot and its number of panels."""
    n = len(features)
    random = np.random.default_rng(0)
    with_gaps = features.assign(route_id=pd.Series(np.arange(n) % 30).map("route {}".format))
    for name in schema.columns_with_role(schema.TransitFeatures, "numeric"):
        with_gaps[name] = with_gaps[name].mask(random.random(n) < random.random())
    counted, counted_gaps = count(features), count(with_gaps)
    usage = pd.DataFrame({"source_table": ["trip"], "outcome": ["matched"], "reason": [""], "row_count": [3]})
    counts = pd.DataFrame(random.integers(0, 99, (30, 30)), [f"route {i}" for i in range(30)], DAYS)
    split = pd.DataFrame(random.integers(0, 99, (30, 3)), DAYS, list(tables.PART_COLOURS))
    shares = {name: dict(zip(DAYS, random.random(30), strict=True)) for name in ("0-3 min", "3-6 min", "6-12 min")}
    by_horizon = {name: dict.fromkeys([*shares, "12-30 min", "all"], 0.8) for name in ("model", "agency", "shadow")}
    errors = {model: {str(i): float(i + 1) for i in range(25)} for model in models.MODEL_STYLES}
    curves = {f"trial {t}": [(20 * s, 50 / (s + t + 1)) for s in range(6)] for t in range(8)}
    return {
        "labels_by_hour": (lambda axes: tables.draw_labels_by_hour(axes, counted), 1),
        "labels_by_route": (lambda axes: tables.draw_labels_by_route(axes, counted), 1),
        "missing_values": (lambda axes: tables.draw_missing_values(axes, counted), 1),
        "missing_by_group": (lambda a, b: tables.draw_missing_by_group(a, b, counted_gaps), 2),
        "usage": (lambda axes: tables.draw_usage(axes, usage), 1),
        "split": (lambda axes: tables.draw_split(axes, split), 1),
        "routes_by_day": (lambda axes: tables.draw_routes_by_day(axes, counts), 1),
        "map": (lambda axes: tables.draw_map(axes, *(random.normal(i, 1, 500) for i in (-71, 42, 60))), 1),
        "learning_curves": (
            lambda axes: models.draw_learning_curves(axes, curves, "rounds", ERROR, "Trials"),
            1,
        ),
        "hyperparameters": (lambda axes: models.draw_parallel_coordinates(axes, TRIALS, ERROR), 1),
        "importance": (lambda a, b: models.draw_importance(a, b, {"a": 1.0}, {"a": 2.0}), 2),
        "residuals": (lambda a, b, c: models.draw_residuals(a, b, c, features, random.normal(0, 60, n)), 3),
        "calibration": (lambda axes: models.draw_calibration(axes, {1: 0.9}, {1: 60.0}, 0.9), 1),
        "size": (lambda axes: models.draw_error_against_size(axes, {"a": (10, 4.0)}, ["a"], "MAE (seconds)"), 1),
        "errors": (lambda axes: models.draw_errors(axes, errors, "stops ahead", "Error"), 1),
        "by_route": (lambda axes: models.draw_errors_by_route(axes, {"a": {"Red": 1.0}}, {"Red": 3}), 1),
        "windows": (lambda axes: accuracy.draw_windows_over_days(axes, shares, shares), 1),
        "horizons": (lambda axes: accuracy.draw_windows_by_horizon(axes, by_horizon, {"model": 40.0}), 1),
        "drift": (lambda axes: accuracy.draw_drift_over_days(axes, shares), 1),
    }


def test_every_plot_is_a_small_picture_with_labelled_axes(features: pd.DataFrame) -> None:
    for name, (function, panels) in every_plot(features).items():
        picture = draw_png(function, panels)
        assert len(picture) < MAX_BYTES, name
        assert Image.open(io.BytesIO(picture)).convert("RGB").getpixel((0, 0)) == (255, 255, 255), name
        axes = draw(function, panels=panels)
        of_panels = list(axes) if panels > 1 else [axes]
        for one in of_panels:
            assert one.get_xlabel() and one.get_ylabel(), name
        # A twin shares the horizontal axis of its panel, and the bar of a colour map has none.
        assert all(one.get_ylabel() for one in of_panels[0].figure.axes), name
        assert any(one.get_title(loc="left") or one.get_title() for one in of_panels), name
