"""A test runner: plays whole jobs towards container hooks as GitHub's official runner does.

Rule: what goes over the wire and what is believed of what comes back is the official runner's, errors included, and nothing of our hooks is
imported here: the runner must notice what a real one would. Its input is a job whose expressions are evaluated already; there is no
expression engine. The protocol is that of https://github.com/actions/runner (src/Runner.Worker/Container and Handlers).

`python -m gha_apptainer.testing.runner JOB.json --hook FILE --work DIR --externals DIR` plays a job and prints its result as JSON.
"""
