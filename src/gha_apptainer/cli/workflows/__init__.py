"""A GitHub workflow on one's own machine: read, judge, hand to act, and say truthfully how it ended.

Rule: what act would skip in silence is refused before it starts, and what act reports is believed only with a result for
every job. `documents`, `matrices`, `runner_labels`, `plans` and `outcomes` are pure; `launch` runs act; `examples` is for the bundled ones.
"""
