"""The container action: one step, from its environment to its exit code."""

from __future__ import annotations

import json
import os
import time

from gha_apptainer.domain.action_inputs import CALLER_OUTPUT, PREFIX, from_variables, parse_inputs
from gha_apptainer.domain.container_specs import DEFAULT_PATH, GPU_MASKS, check_sources, container_spec
from gha_apptainer.domain.containers import GPU_NONE, ContainerSpec, ExitStatus, Mount, Owner, Stdio
from gha_apptainer.domain.errors import DOCKER_NOT_FOUND, GhaError, InputError, disk_full, is_disk_full
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.image_plans import RoutePlan
from gha_apptainer.domain.image_refs import DOCKER, PATH, parse
from gha_apptainer.domain.images import Image
from gha_apptainer.domain.lcg_views import repository_of
from gha_apptainer.domain.reproduce import inline, line, named, variable_options
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.domain.shells import PLACE
from gha_apptainer.domain.step_environments import path_of
from gha_apptainer.domain.step_records import StepRecord, cancelled, card_rows, verdict
from gha_apptainer.domain.values import replace
from gha_apptainer.domain.verdicts import Verdict, Word
from gha_apptainer.node import apptainer, files, process
from gha_apptainer.node.actions import cancelling, gpu_use, surroundings
from gha_apptainer.node.actions.hosting import fit_host
from gha_apptainer.node.actions.planning import CVMFS, StepPlan, plan_step
from gha_apptainer.node.actions.results import RESULTS, publish
from gha_apptainer.node.actions.shell_choice import lacks_bash
from gha_apptainer.node.report import Progress, Report, add_outputs, add_summary, card
from gha_apptainer.node.volumes import cvmfs
from gha_apptainer.node.volumes.cvmfsexec import Cvmfsexec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Mapping, Optional, Tuple

    from gha_apptainer.node.engine.protocol import Engine


class ContainerStep:
    """One step's walk. Tests give an engine, facts and settings of their own."""

    def __init__(
        self,
        environ: Mapping[str, str],
        report: Report,
        *,
        engine: Optional[Engine] = None,
        host: Optional[HostFacts] = None,
        settings: Optional[NodeSettings] = None,
    ) -> None:
        self.environ = environ
        self.report = report
        self._engine = engine
        self._host = host
        self._settings = settings
        self._record = StepRecord(step=environ.get("GITHUB_ACTION", ""), node=os.uname().nodename, started=time.time())
        self._places: Dict[str, str] = {}

    def run(self) -> int:
        """Do everything; the exit code of the step. Errors are told here, in one annotation each."""
        with cancelling.listening():
            try:
                ended = self._guarded()
            except cancelling.Cancelled as stop:
                ended = cancelled(stop.number)
            cancelling.deaf()
            return self._finish(ended)

    def _guarded(self) -> Verdict:
        try:
            return self._walk()
        except OSError as error:
            told = disk_full(error, str(error.filename or "a file")) if is_disk_full(error) else _internal(error)
        except GhaError as error:
            told = error
        except Exception as error:  # noqa: BLE001  # the door: whatever comes is told, and fails the step
            told = _internal(error)
        word = {76: Word.IMAGE, 71: Word.REFUSED, 72: Word.REFUSED}.get(told.exit_code, Word.FAILED)
        self.report.failed(told)
        self._record = replace(self._record, cause=told.what)
        return Verdict(word, 125, told.what, told.remedy)

    # the phases

    def _walk(self) -> Verdict:
        self.report.mask(self.environ.get(PREFIX + "PASSWORD", ""))
        with _Folder(self._temporary()) as folder:
            with self.report.group("Container step: inputs and machine"):
                plan = self._plan(folder)
                host, settings = self._machine(plan)
            tool = Cvmfsexec(host.state_dir, self.environ)
            try:
                self._cvmfs(plan, settings, tool)
                with self.report.group("Image %s" % plan.asked.image):
                    image = self._image(plan, host, settings)
                spec = self._spec(plan, image, host, self._mounts(plan))
                return self._execute(plan, spec, host, settings)
            finally:
                for left in tool.release():
                    self.report.warning("CVMFS", left)

    def _temporary(self) -> str:
        chosen = self.environ.get("RUNNER_TEMP", "")
        if chosen.startswith("/") and os.path.isdir(chosen):
            return chosen
        import tempfile  # every runner names a directory

        return tempfile.gettempdir()

    def _plan(self, folder: str) -> StepPlan:
        inputs = parse_inputs(from_variables(self.environ), self.environ)
        plan = plan_step(
            inputs,
            self.environ,
            machine=os.uname().machine,
            folder=folder,
            exists=os.path.exists,
            runner=surroundings.runner_environment(),
        )
        for note in plan.notes:
            self.report.warning("container step", note)
        if plan.asked.workdir == plan.workspace and not os.path.isdir(plan.workspace):
            raise InputError("GITHUB_WORKSPACE does not exist: %s" % plan.workspace)
        self.report.line("image %s (%s), in %s" % (plan.asked.image, plan.image_from, plan.asked.workdir))
        return plan

    def _machine(self, plan: StepPlan) -> Tuple[HostFacts, NodeSettings]:
        from gha_apptainer.node import host as prober

        settings = self._settings if self._settings is not None else prober.load_settings(self.environ)
        settings = replace(settings, store=plan.cache_dir or settings.store, layers=plan.scratch or settings.layers)
        for path in (plan.cache_dir, plan.scratch):
            if path:
                os.makedirs(path, exist_ok=True)
        host = self._host if self._host is not None else fit_host(settings, self.environ, self.report, change=plan.setup == "auto")
        name, count = surroundings.processor()
        self._record = replace(self._record, image=plan.asked.image, node=host.hostname, cpu=name, cpus=count)
        self.report.line("node %s, Apptainer %s at %s" % (host.hostname, host.apptainer_version, host.apptainer))
        return host, settings

    def _cvmfs(self, plan: StepPlan, settings: NodeSettings, tool: Cvmfsexec) -> None:
        """Read every repository that the step needs, then look for what it names in them; nothing else may touch a path there before."""
        if not plan.repositories:
            return
        with self.report.group("CVMFS %s" % ", ".join(plan.repositories)):
            found = cvmfs.read_repositories(plan.repositories, settings.cvmfs_aliases, tool)
            for one in found:
                self.report.line("%s: %s, revision %s" % (one.name, one.path, one.revision or "unknown"))
            self._record = replace(self._record, cvmfs={one.name: one.revision for one in found})
            self._places = {"%s/%s" % (CVMFS, one.name): one.path for one in found}
            self._check_view(plan)
            for mount in plan.asked.mounts:
                if repository_of(mount.source) and not cvmfs.exists(self._outside(mount.source)):
                    raise InputError("cannot bind %s: it does not exist on this machine" % mount.source, remedy="correct the path")

    def _mounts(self, plan: StepPlan) -> Tuple[Mount, ...]:
        """The step's mounts, with repositories that are not at their usual place mounted from where they are."""
        mounts = tuple(replace(one, source=self._outside(one.source)) for one in plan.asked.mounts)
        if all(target == path for target, path in self._places.items()):
            return mounts
        # a mount point cannot be made in autofs, so the repositories are mounted one by one
        self.report.line("inside, %s holds only: %s" % (CVMFS, ", ".join(target[len(CVMFS) + 1 :] for target in self._places)))
        asked = {one.target for one in mounts}
        kept = tuple(one for one in mounts if one.target != CVMFS)
        return (*kept, *(Mount(path, target, read_only=True) for target, path in self._places.items() if target not in asked))

    def _outside(self, path: str) -> str:
        """Where a path lies on this machine, if it names a repository that was found elsewhere than in /cvmfs."""
        for target, place in self._places.items():
            if path == target or path.startswith(target + "/"):
                return place + path[len(target) :]
        return path

    def _check_view(self, plan: StepPlan) -> None:
        """A view that is not there is an error of the input's, and told before an image is fetched."""
        if plan.view is None:
            return
        for path in (plan.view.path, plan.view.setup):
            if not cvmfs.exists(self._outside(path)):
                raise InputError(
                    "there is no %s on this machine" % path,
                    cause="release or platform is misspelt, or was never built",
                    remedy="look for it with: ls %s" % os.path.dirname(plan.view.path),
                )

    def _image(self, plan: StepPlan, host: HostFacts, settings: NodeSettings) -> Image:
        from gha_apptainer.node import images

        ref = parse(plan.asked.image, plan.workspace)
        if ref.transport == PATH:
            ref = replace(ref, path=self._outside(ref.path))
        route = images.plan(ref, plan.asked.pull, settings, host)
        image = images.fetch(route, plan.login, Progress(self.report, terminal=False))
        self._note_repository(route, image, settings)
        self._record = replace(self._record, image=image.reference, digest=image.digest.text, route=image.route, where=image.rootfs)
        return image

    def _note_repository(self, route: RoutePlan, image: Image, settings: NodeSettings) -> None:
        """An image that lies on CVMFS, or was copied from there, is as much the work of a revision as what the step reads itself."""
        for path in (image.rootfs, *(one.path for one in route.steps if one.route == image.route)):
            name, place = cvmfs.holder_of(path, settings.cvmfs_aliases)
            if name and name not in self._record.cvmfs:
                revision = cvmfs.look(place).revision
                self._record = replace(self._record, cvmfs={**self._record.cvmfs, name: revision})
                self.report.line("%s: %s, revision %s" % (name, place, revision or "unknown"))

    def _spec(self, plan: StepPlan, image: Image, host: HostFacts, mounts: Tuple[Mount, ...]) -> ContainerSpec:
        path = path_of(plan.paths, plan.env_context, plan.env_input, image.config.env, DEFAULT_PATH)
        env = (*(pair for pair in plan.asked.env if pair[0] != "PATH"), ("PATH", path))
        owner = Owner(host.hostname, host.boot_id, "action:" + os.path.basename(plan.folder), os.getpid(), process.start_time(os.getpid()))
        masks = {name: self.environ[name] for name in GPU_MASKS if name in self.environ}
        spec = container_spec(image, replace(plan.asked, env=env, mounts=mounts), host, owner, gpu_masks=masks)
        check_sources(spec.mounts, lambda path: bool(repository_of(path)) or os.path.lexists(path))
        if spec.gpu != GPU_NONE:
            name = surroundings.graphics(spec.gpu, self.environ)
            self._record = replace(self._record, gpu=name or spec.gpu)
            self.report.notice("GPU", "the container has the GPU of this node: %s" % (name or spec.gpu))
        return spec

    def _execute(self, plan: StepPlan, spec: ContainerSpec, host: HostFacts, settings: NodeSettings) -> Verdict:
        plan, spec = self._with_shell(plan, spec)
        assert spec.main is not None
        readable = 0o755 if spec.main.user not in ("", "0", "root", "0:0", "root:root") else 0o700
        os.chmod(plan.folder, readable)
        for path, text in plan.files:
            files.write_whole(path, files.encode(text), mode=readable & 0o755)
        self._record = replace(self._record, command=self._command(plan, spec, in_full=False))
        self.report.line("Run " + " ".join(spec.main.argv))
        started = time.time()
        engine = self._open_engine(host, settings)
        use = os.path.join(plan.folder, "gpu")
        try:
            with gpu_use.watched(spec.gpu, use, self.environ):
                status = self._run(engine, plan, spec)
        finally:
            self.report.line("took %.2f s" % (time.time() - started))
            self.report.line("reproduce here (on a login node): " + self._command(plan, spec, in_full=True))
        self._record = replace(self._record, gpu_use=gpu_use.use_of(use))
        return self._ended(status, started)

    def _with_shell(self, plan: StepPlan, spec: ContainerSpec) -> Tuple[StepPlan, ContainerSpec]:
        """With the shell that the image's tree shows, where it shows it; else bash is tried first."""
        assert spec.main is not None
        if plan.script is None or not plan.script.fallback:
            return plan, spec
        if not lacks_bash(spec.image, spec.mounts, dict(spec.main.env).get("PATH", DEFAULT_PATH)):
            return plan, spec
        self.report.line("the image has no bash")
        plan = replace(plan, script=replace(plan.script, argv=plan.script.fallback, fallback=()))
        assert plan.script is not None
        return plan, replace(spec, main=replace(spec.main, argv=plan.script.command(plan.script_path)))

    def _run(self, engine: Engine, plan: StepPlan, spec: ContainerSpec) -> ExitStatus:
        assert spec.main is not None
        status = engine.run(spec, "", Stdio(-1, 1, 2), grace=cancelling.GRACE)
        absent = not status.ran and status.exit_code == DOCKER_NOT_FOUND and not status.signal
        if plan.script is not None and plan.script.fallback and absent:
            argv = tuple(word.replace(PLACE, plan.script_path) for word in plan.script.fallback)
            self.report.line("the image has no bash: " + " ".join(argv))
            status = engine.run(replace(spec, main=replace(spec.main, argv=argv)), "", Stdio(-1, 1, 2), grace=cancelling.GRACE)
        return status

    def _open_engine(self, host: HostFacts, settings: NodeSettings) -> Engine:
        if self._engine is not None:
            return self._engine
        from gha_apptainer.node.engine.containers import open_engine

        return open_engine(host, settings)

    def _ended(self, status: ExitStatus, started: float) -> Verdict:
        ended = verdict(status)
        self._record = replace(
            self._record,
            cause=ended.cause,
            started=status.started or started,
            finished=status.finished or time.time(),
            peak_memory=status.peak_memory,
            cpu_seconds=status.cpu_seconds,
        )
        if ended.word != Word.SUCCEEDED:
            self.report.error("container step %s" % ended.word.name.lower(), [one for one in (ended.cause, ended.remedy) if one])
        return ended

    def _command(self, plan: StepPlan, spec: ContainerSpec, *, in_full: bool) -> str:
        """The reproduce-here line. In full only for the log, where the runner masks: expressions in `run` may have put secrets into it."""
        assert spec.main is not None
        image, ref = spec.image, parse(plan.asked.image, plan.workspace)
        source = image.rootfs
        if image.route in ("registry", "store") and ref.transport == DOCKER and image.digest.kind in ("manifest", "index"):
            source = "docker://%s@%s" % (ref.name, image.digest.text)
        mounts = tuple(one for one in spec.mounts if one.kind == "bind" and one.target != plan.folder)
        commands = {self.environ.get(name) for name in self.environ if name.startswith("GITHUB_")} - {plan.workspace}
        binds = tuple(apptainer.Bind(one.source, one.target, one.read_only) for one in mounts if one.target not in commands)
        program = spec.main.argv
        if plan.script:
            program = inline(plan.script, plan.setup_script) if in_full else named(plan.script, plan.setup_script)
        root = spec.main.user in ("", "0", "root", "0:0", "root:root")
        gpu = "" if spec.gpu == GPU_NONE else spec.gpu
        argv, at = apptainer.reproduce_argv(source, binds, spec.main.cwd, program, gpu=gpu, root=root, writable=spec.writable)
        return line(argv, variable_options(plan.env_context + plan.env_input), at)

    # the end

    def _finish(self, ended: Verdict) -> int:
        """Record, outputs, summary; the exit code. What cannot be written turns success into failure, never the other way."""
        code = 125 if ended.exit_code is None else ended.exit_code
        record = replace(self._record, word=ended.word.name, exit_code=code, cause=self._record.cause or ended.cause)
        if not record.finished:
            record = replace(record, finished=time.time())
        try:
            code = publish(record, self.environ.get(RESULTS, "") or self._temporary(), keep=bool(self.environ.get(RESULTS)))
            self._outputs(replace(record, exit_code=code))
            self._summary(record)
        except Exception as error:  # noqa: BLE001  # the last door: whatever hinders the record, without it there is no success
            lines = error.lines() if isinstance(error, GhaError) else ("%s: %s" % (type(error).__name__, error),)
            self.report.error("no record of the step", ("its result could not be written, so it counts as failed", *lines))
            return code or 125
        return code

    def _outputs(self, record: StepRecord) -> None:
        path = self.environ.get("GITHUB_OUTPUT", "")
        if not path:
            return
        self._to_caller(path)
        values: Dict[str, str] = {
            "exit-code": str(record.exit_code),
            "image-digest": record.digest,
            "image-source": "%s %s" % (record.route, record.where) if record.route else "",
            "cvmfs-revisions": json.dumps(dict(record.cvmfs), ensure_ascii=True),
            "command": record.command,
        }
        add_outputs(path, values)

    def _to_caller(self, own: str) -> None:
        """What the step wrote belongs to the step that calls the action; where the runner gives that a file of its own, it is copied."""
        caller = self.environ.get(CALLER_OUTPUT, "")
        if not caller or os.path.dirname(caller) != os.path.dirname(own) or os.path.realpath(caller) == os.path.realpath(own):
            return
        if not os.path.isfile(caller):
            return
        data = files.read_whole(own)
        with open(caller, "ab") as handle:
            handle.write(data)

    def _summary(self, record: StepRecord) -> None:
        path = self.environ.get("GITHUB_STEP_SUMMARY", "")
        if not path:
            return
        if not add_summary(path, card("Container step: %s" % (record.image or record.step), card_rows(record))):
            self.report.line("the job summary is full, the step's card is left out")


def _internal(error: Exception) -> GhaError:
    return GhaError(
        "internal error: %s: %s" % (type(error).__name__, error), remedy="set GHA_APPTAINER_TRACE=1 for the traceback, and report it"
    )


_FOLDER = "gha-apptainer-step"


class _Folder:
    """A private directory for the step's files, gone afterwards; what killed steps of the same runner left is removed before."""

    def __init__(self, parent: str) -> None:
        self._parent = parent
        self._path = ""

    def __enter__(self) -> str:
        for name in os.listdir(self._parent):
            words = name.split(".")
            ours = words[0] == _FOLDER and len(words) == 4 and words[1].isdigit() and words[2].isdigit()
            if ours and not process.alive(int(words[1]), int(words[2])):
                _remove(os.path.join(self._parent, name))
        name = "%s.%d.%d.%s" % (_FOLDER, os.getpid(), process.start_time(os.getpid()), os.urandom(8).hex())
        self._path = os.path.join(self._parent, name)
        os.mkdir(self._path, 0o700)
        return self._path

    def __exit__(self, *_: object) -> None:
        _remove(self._path)


def _remove(path: str) -> None:
    """As far as it goes: what is left is removed before a later step."""
    try:
        files.remove_tree(path)
    except (OSError, GhaError):
        pass
