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

import dagster as dg

step_executor = dg.ExecutorDefinition(
    name="in_process_or_multiprocess",
    config_schema=dg.Field(
        dg.multi_or_in_process_executor.config_schema.as_field().config_type, default_value={"in_process": {}}
    ),
    requirements=dg.multi_or_in_process_executor.get_requirements,
    executor_creation_fn=dg.multi_or_in_process_executor.executor_creation_fn,
    description="Dagster's default executor, with `in_process` as the default of its two modes.",
)
