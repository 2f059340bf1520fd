"""The small language between front ends and emitter: functions of one row of numbers, as graphs of about fifteen operations.

Rule: everything is frozen, every shape and name is checked when a graph is made, and no operation has a default that a front end could
forget. `interpret` is what an operation means; the emitter is right if it agrees with that. Networks compute in float32; preprocessing and
trees, which decide by comparing, compute in float64 and keep it between them, as sklearn does: `Graph.doubles` names those values.
"""
