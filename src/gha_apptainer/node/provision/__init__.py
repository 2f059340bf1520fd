"""How Apptainer, a Python or a root filesystem comes to a machine that has neither them nor a registry in reach.

Rule: plan first, as a value, from a description of the host; everything comes by its name from the system's own package archives
with their own client, signatures checked, and lands in the user's cache, unless the plan says that the system is changed.
`provision.json` is the one list of what comes from where.
"""
