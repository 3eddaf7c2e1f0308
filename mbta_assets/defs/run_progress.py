"""The progress of runs that commands wait for: a bar in a terminal, and a line for each step once it has ended.

It is read from Dagster's event log, so that the runs need not know of it: a run says at its start what it will
materialize, each service day of a table by itself, and then what it has.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import dagster as dg
from rich.console import Console

from mbta_assets.progress.bar import Bar

POLL_SECONDS, PAGE_RECORDS = 1.0, 1_000
PLANNED, MADE = dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED, dg.DagsterEventType.ASSET_MATERIALIZATION
EVALUATED = dg.DagsterEventType.ASSET_CHECK_EVALUATION
Item = tuple[str, str | None]
"""An asset and a partition."""


@dataclass
class RunState:
    """State of one run, as far as its event log has been read."""

    run_id: str
    planned: set[Item] = field(default_factory=set)
    made: set[Item] = field(default_factory=set)
    durations: dict[str, float] = field(default_factory=dict)
    """Seconds that each ended step took."""
    underway: str = ""
    """Step that began last and has not ended."""
    failed: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """By step, the checks that did not pass, each with what its evaluations say."""
    said: dict[str, str] = field(default_factory=dict)
    """What each step logged last, its progress say."""
    cursor: str | None = None
    """Place in the event log up to which it has been read: a backfill of a year plans thousands of items."""

    def update(self, instance: dg.DagsterInstance) -> None:
        """Read what the event log says since the last time."""
        has_more = True
        while has_more:
            page = instance.get_records_for_run(self.run_id, self.cursor, limit=PAGE_RECORDS)
            for record in page.records:
                entry = record.event_log_entry
                event = entry.dagster_event
                if event is None:
                    self.said[entry.step_key or ""] = entry.user_message
                elif event.asset_key is not None and event.event_type in (PLANNED, MADE):
                    item = event.asset_key.to_user_string(), event.partition
                    (self.planned if event.event_type == PLANNED else self.made).add(item)
                elif event.event_type == EVALUATED:
                    check = event.asset_check_evaluation_data
                    if not check.passed:
                        of_step = self.failed.setdefault(event.step_key or "", {})
                        of_step.setdefault(check.check_name, []).append(_describe_failure(check))
            self.cursor, has_more = page.cursor, page.has_more
        self.underway = ""
        for step in instance.get_run_step_stats(self.run_id):
            if step.end_time and step.start_time:
                self.durations[step.step_key] = step.end_time - step.start_time
            elif step.start_time:
                self.underway = step.step_key


def follow_runs(name: str, runs: int, is_over: Callable[[], bool], console: Console, since: float) -> None:
    """Show the progress of some runs until `is_over`, in a terminal as a bar.

    `name` is what they make, in the plural. A line is printed for each step once it has ended in all of them, with the
    longest of its durations, and below it one for each check that did not pass. Runs are those that began after
    `since`, in epoch seconds.
    """
    printed: set[str] = set()
    found: dict[str, RunState] = {}
    console.print(f"\n{name}", highlight=False)
    with dg.DagsterInstance.get() as instance, Bar(console, "starting", name) as bar:
        while True:
            ended = is_over()
            for run_id in _find_runs(instance, runs, since):
                found.setdefault(run_id, RunState(run_id)).update(instance)
            states = [*found.values()]
            for step in _list_ended(states, runs, ended):
                if step not in printed:
                    printed.add(step)
                    for line in _format_step(step, states):
                        console.print(line, highlight=False, markup=False, soft_wrap=True)
            _move(bar, states)
            if ended:
                return
            time.sleep(POLL_SECONDS)


def format_duration_of_step(step: str, seconds: float) -> str:
    """Return the line of a step that has ended, or of all of them."""
    return f"  {step:40}{seconds:6.1f} s"


def _format_step(step: str, states: Sequence[RunState]) -> Iterator[str]:
    """Yield the line of a step that has ended, and one for each check that did not pass, with its first reason."""
    yield format_duration_of_step(step, max(state.durations.get(step, 0.0) for state in states))
    failed: dict[str, list[str]] = {}
    for state in states:
        for check, reasons in state.failed.get(step, {}).items():
            failed.setdefault(check, []).extend(reasons)
    for check, reasons in sorted(failed.items()):
        distinct = sorted(set(reasons))
        yield f"    {check} {distinct[0]}{f' (and {len(distinct) - 1} more)' if len(distinct) > 1 else ''}"


def _describe_failure(check: dg.AssetCheckEvaluation) -> str:
    """Return whether a check that did not pass warns or fails, on which partition, and why."""
    verb = "warns" if check.severity == dg.AssetCheckSeverity.WARN else "fails"
    partition = f" on {check.partition}" if check.partition else ""
    return f"{verb}{partition}: {check.description}" if check.description else f"{verb}{partition}"


def _find_runs(instance: dg.DagsterInstance, number: int, since: float) -> list[str]:
    """Return the ids of the latest runs that began after a time."""
    records = instance.get_run_records(limit=number)
    return [record.dagster_run.run_id for record in records if record.create_timestamp.timestamp() >= since]


def _list_ended(states: Sequence[RunState], runs: int, all_are_over: bool) -> list[str]:
    """Return the steps that have ended in all runs, in the order in which they ended."""
    counts: dict[str, int] = {}
    for state in states:
        for step in state.durations:
            counts[step] = counts.get(step, 0) + 1
    return [step for step, count in counts.items() if count == runs or all_are_over]


def _move(bar: Bar, states: Sequence[RunState]) -> None:
    """Move the bar to what the runs have made, and write before it what is underway."""
    planned = sum(len(state.planned) for state in states)
    made = sum(len(state.made & state.planned) for state in states)
    state = next((state for state in states if state.underway), RunState(""))
    bar.move(made, planned or None, state.underway or "starting", state.said.get(state.underway, ""))
