"""The executor of all runs: steps in the process of the run, or in processes of their own where the run config says so.

In one process, because a training run then has one Ray session for all of its steps, which takes seconds to begin,
and because the steps of a service day take less time than starting a process for each and importing the code location.

Run config for processes of their own, in the launchpad or with `dagster … --config`, for example where a step must not
share memory with another:

    execution:
      config:
        multiprocess:
          max_concurrent: 2
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from mbta_assets.defs.commands import fail_lost_commands, tag_process


class CommandExecutor(dg.Executor):
    """Another executor, which first releases what the killed runs of commands hold; see `defs.commands`."""

    def __init__(self, executor: dg.Executor) -> None:
        self._executor = executor

    @property
    def retries(self) -> Any:
        """Return the mode of retries of steps."""
        return self._executor.retries

    @property
    def step_dependency_config(self) -> Any:
        """Return when steps begin whose inputs are there in part."""
        return self._executor.step_dependency_config

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[dg.DagsterEvent]:
        """Execute the steps of a run and yield their events."""
        tag_process(plan_context.instance, plan_context.dagster_run)
        fail_lost_commands(plan_context.instance)
        yield from self._executor.execute(plan_context, execution_plan)


def _create_executor(context: dg.InitExecutorContext) -> dg.Executor:
    create = dg.multi_or_in_process_executor.executor_creation_fn
    if create is None:
        raise TypeError("dagster.multi_or_in_process_executor has no function that creates it; see Dagster's changes.")
    return CommandExecutor(create(context))


step_executor = dg.ExecutorDefinition(
    name="in_process_or_multiprocess",
    config_schema=dg.Field(
        dg.multi_or_in_process_executor.config_schema.as_field().config_type, default_value={"in_process": {}}
    ),
    requirements=dg.multi_or_in_process_executor.get_requirements,
    executor_creation_fn=_create_executor,
    description="Dagster's default executor, with `in_process` as the default of its two modes.",
)
