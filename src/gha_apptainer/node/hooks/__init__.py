"""The runner's container hooks: job containers, services and container steps of any workflow, over the engine.

Rule: the runner starts a shim, the shim starts `door`, one process a call, and only what a call needs is loaded: `run_script_step` is every
step's start-up and loads no more than the joiner does. What a job is lives in a record in the state directory, outside of every bind; what
comes back from the runner is an id, and is not trusted. What goes wrong is said before the runner's own line, which names nothing.
"""
