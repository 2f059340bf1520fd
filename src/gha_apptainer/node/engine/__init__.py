"""A root filesystem becomes a running container: one engine for every face.

`containers.ApptainerEngine` is the face of it. Apptainer sets a container up once, around a holder that only waits; a monitor
process owns it, and a joiner enters its namespaces for every command. Rule: this package init imports nothing, because the joiner's
start-up time is every step's start-up time.
"""
