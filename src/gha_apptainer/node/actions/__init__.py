"""The action's walk: environment -> inputs -> StepPlan -> image -> container -> record, outputs, summary, exit code.

Rule: `planning` decides and touches nothing, `container` acts. A step's result is a record written by the process that waited for it;
without one the step has failed.
"""
