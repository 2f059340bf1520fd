"""The two files that a runner starts, as text. Each starts an absolute interpreter in isolated mode, with a PATH of our own.

The runner looks for `bash` in the directories that the job's own steps put into GITHUB_PATH, before anything of ours runs; a `.js` file
it starts with its own node, by an absolute path. So the `.js` file is for every runner, and the `.sh` file, which is faster, only for
one whose repositories are all trusted.
"""

from __future__ import annotations

import json
import shlex
from typing import Mapping, Sequence

from gha_apptainer.domain.values import dataclass, field
from gha_apptainer.node.process import BASE_PATH

JS, SH = "gha-apptainer-hooks.js", "gha-apptainer-hooks.sh"
MARK = "Written by `gha-apptainer hooks install`"
_DROPPED = (
    "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_RUNTIME_TOKEN", "ACTIONS_RUNTIME_URL", "ACTIONS_CACHE_URL",
    "ACTIONS_RESULTS_URL", "BASH_ENV", "ENV", "CDPATH", "GLOBIGNORE", "IFS", "NODE_OPTIONS", "NODE_PATH",
)  # fmt: skip
_DROPPED_PREFIXES = ("LD_", "PYTHON", "APPTAINER", "SINGULARITY", "GHA_APPTAINER", "BASH_FUNC_")
"""What our process has no use for, and what could steer an interpreter or Apptainer. Of ours, what was set at installation counts."""


@dataclass(frozen=True)
class Settings:
    """What a shim is written with: the interpreter, the directory of our package, the policy's path, and variables for our process."""

    python: str
    source: str
    policy: str = ""
    environ: Mapping[str, str] = field(default_factory=dict)


def program(settings: Settings) -> str:
    """The one line of Python that a shim runs: the verb `hook`, without the door of all verbs, which would cost every step its loading.

    The interpreter finds nothing but this directory and its own library, and is not taken apart at the end: nothing is left to do.
    """
    return (
        "import gc,sys,os;gc.set_threshold(100000);sys.path.insert(0,%r);from gha_apptainer.node.hooks.door import main;"
        "c=main(sys.argv[1:]);sys.stdout.flush();os._exit(c)" % settings.source
    )


def arguments(settings: Settings) -> Sequence[str]:
    """The interpreter's arguments, without those that only the shim knows."""
    found = ["-I", "-S", "-c", program(settings)]
    return [*found, "--policy", settings.policy] if settings.policy else found


def javascript(settings: Settings) -> str:
    """The `.js` file."""
    return _JS % {
        "mark": MARK,
        "python": json.dumps(settings.python),
        "argv": json.dumps(list(arguments(settings))),
        "dropped": json.dumps(list(_DROPPED)),
        "prefixes": json.dumps(list(_DROPPED_PREFIXES)),
        "environ": json.dumps({"PATH": BASE_PATH, **settings.environ}),
    }


def shell(settings: Settings) -> str:
    """The `.sh` file."""
    names = " ".join("${!%s@}" % prefix for prefix in _DROPPED_PREFIXES if prefix != "BASH_FUNC_")
    exports = "\n".join("export %s=%s" % (name, shlex.quote(value)) for name, value in settings.environ.items())
    return _SH % {
        "mark": MARK,
        "names": names,
        "dropped": " ".join(name for name in _DROPPED if name != "IFS"),
        "path": BASE_PATH,
        "exports": exports,
        "python": shlex.quote(settings.python),
        "argv": " ".join(shlex.quote(word) for word in arguments(settings)),
    }


_JS = """// %(mark)s; install again instead of editing.
// ACTIONS_RUNNER_CONTAINER_HOOKS names this file. The runner starts it with its own node, by an absolute path.
'use strict';
const { spawn } = require('child_process');
const os = require('os');
const dropped = new Set(%(dropped)s);
const prefixes = %(prefixes)s;
const env = {};
for (const [name, value] of Object.entries(process.env)) {
  if (!dropped.has(name) && !prefixes.some((prefix) => name.startsWith(prefix))) env[name] = value;
}
Object.assign(env, %(environ)s);
let child;
const early = [];
for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.on(name, () => (child ? child.kill(name) : early.push(name)));
}
// the child has our streams, not pipes of ours: what it writes passes through nobody
const own = ['--tie', String(process.pid), '--owner', String(process.ppid)];
child = spawn(%(python)s, %(argv)s.concat(own), { stdio: 'inherit', env, cwd: '/' });
early.forEach((name) => child.kill(name));
child.on('error', (error) => {
  console.log('::error title=container hooks::cannot start %%s: %%s', %(python)s, error.message);
  process.exit(125);
});
child.on('exit', (code, signal) => process.exit(code === null ? 128 + os.constants.signals[signal] : code));
"""

_SH = """# %(mark)s; install again instead of editing.
# For runners whose repositories are all trusted: the runner finds the bash that runs this by the job's own GITHUB_PATH.
# Elsewhere use the .js file beside it.
unset %(names)s %(dropped)s 2>/dev/null || true
export PATH=%(path)s
%(exports)s
cd /
exec %(python)s %(argv)s --owner "$PPID"
"""
