"""The progress of work as a bar in a terminal, with the rate and the time left; nothing where there is no terminal."""

from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from mbta_assets.progress.lines import format_duration, format_rate

ONE_LINE = Column(no_wrap=True)


class RateColumn(ProgressColumn):
    """Shows how many of a unit are done a second, a minute or an hour."""

    def __init__(self, unit: str) -> None:
        super().__init__(ONE_LINE)
        self._unit = unit

    def render(self, task: Task) -> Text:
        """Return the rate of a task since it began."""
        return Text(format_rate(task.completed / task.elapsed if task.elapsed else 0.0, self._unit))


class TimeLeftColumn(ProgressColumn):
    """Shows how long the rest takes at the rate since the work began; that of the latest items changes too much."""

    def render(self, task: Task) -> Text:
        """Return the time that is left; nothing before anything is done."""
        if not task.completed or not task.total or not task.elapsed:
            return Text("")
        return Text(f"{format_duration((task.total - task.completed) * task.elapsed / task.completed)} left")


class Bar(Progress):
    """A bar of one piece of work, with a note below it; a context manager, at whose end it disappears."""

    def __init__(self, console: Console, work: str, unit: str) -> None:
        """Begin now. `unit` is what is counted, in the plural, such as "days"."""
        columns = (
            TextColumn("  {task.description:22}", markup=False, table_column=ONE_LINE),
            BarColumn(bar_width=16),
            MofNCompleteColumn(table_column=ONE_LINE),
            RateColumn(unit),
            TimeLeftColumn(ONE_LINE),
        )
        self.note = ""
        super().__init__(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._task = self.add_task(work, total=None)

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the bar and the note."""
        yield from super().get_renderables()
        yield Text(f"  {self.note}", no_wrap=True, overflow="ellipsis", style="dim")

    def move(self, done: float, total: float | None, work: str, note: str = "") -> None:
        """Move to what is done of a total, if that is known; `work` is written before the bar."""
        self.note = note
        self.update(self._task, completed=done, total=total, description=work)
