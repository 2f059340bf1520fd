"""run_script_step: cases 26 to 42 of the hook contract, played by the test runner through the installed hooks."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hook_jobs import BUSYBOX, HookRunner, job
from live_jobs import LiveJob

PROGRAM = '#!/bin/sh\necho %s-of-the-image "$@"\n'


def with_programs(*names: str) -> object:
    def change(tree: Path) -> None:
        for name in names:
            (tree / "bin" / name).write_text(PROGRAM % name)
            (tree / "bin" / name).chmod(0o755)

    return change


@pytest.mark.case("hooks-26")
def test_the_root_filesystem_lasts_over_steps(all_hooks: HookRunner) -> None:
    done = all_hooks.play(
        job("mkdir -p /usr/local/bin; printf '#!/bin/sh\\necho from x\\n' > /usr/local/bin/x; chmod +x /usr/local/bin/x", "x")
    )
    assert done.result == "success", done
    assert "from x" in done.text("2")


@pytest.mark.case("hooks-27")
def test_a_daemon_is_there_for_the_next_step_and_gone_at_the_end(hooks: HookRunner) -> None:
    daemon = "(while true; do date +%s%N > /new; mv /new /alive; sleep 0.05; done) > /dev/null 2>&1 < /dev/null &"
    waits = 'while [ "$first" = "$(cat /alive)" ] && [ $n -lt 100 ]; do sleep 0.1; n=$((n + 1)); done'
    check = "first=$(cat /alive); n=0; %s; test $n -lt 100; echo still alive" % waits
    done = hooks.play(job(daemon + " sleep 0.2", check))
    assert "still alive" in done.text("2"), done


@pytest.mark.case("hooks-28")
def test_a_background_process_with_our_stdout_does_not_hold_the_step(hooks: HookRunner) -> None:
    done = hooks.play(job("sleep 60 & echo main done", "echo next"))
    assert done.result == "success", done
    assert done.step("1")["seconds"] < 30
    assert "next" in done.text("2")


ODD = {
    "LINES": "first\nsecond\n",
    "DOLLAR": "$HOME ${X} $(id) `id`",
    "QUOTES": "'single' \"double\" \\back",
    "PERCENT": "100% %0A %25",
    "EMPTY": "",
    "UMLAUT": "Grüße ∂",
    "INPUT_NODE-VERSION": "20",
    "WITH.DOT": "x",
    "LONG": "x" * 120_000,
}


@pytest.mark.case("hooks-29")
def test_variables_arrive_unchanged(hooks: HookRunner) -> None:
    home = {"HOME": "/github/home", "CONTAINER": "a $b\nc"}
    with LiveJob(hooks, {"environmentVariables": home}).prepared() as live:
        done = live.script("", program="env", args=("-0",), environmentVariables=ODD)  # a shell would drop names that it cannot have
    assert done.code == 0, done
    found = dict(part.split("=", 1) for part in done.out.decode().split("\0") if part)
    for name, value in {**ODD, "CONTAINER": "a $b\nc"}.items():
        assert found[name] == value, name


@pytest.mark.case("hooks-30")
def test_nothing_of_the_host_enters_but_what_the_site_lets_in(hooks: HookRunner) -> None:
    host = {
        "SLURM_JOB_ID": "7",
        "LD_LIBRARY_PATH": "/opt",
        "PYTHONPATH": "/opt",
        "http_proxy": "http://proxy:3128",
        "SITE": "yes",
        "APPTAINER_BIND": "/",
    }
    done = hooks.play(job("env"), environ=host, policy={"host_env": ["SITE"]})
    log = done.text("1").split("\n")
    assert not [line for line in log if line.startswith(("SLURM_", "LD_", "PYTHON", "APPTAINER", "SINGULARITY"))]
    assert "SITE=yes" in log
    assert "http_proxy=http://proxy:3128" in log  # the runner passes it, as it does with Docker


@pytest.mark.case("hooks-31")
def test_home(hooks: HookRunner) -> None:
    done = hooks.play(job("echo HOME=$HOME; touch $HOME/file; ls ~"))
    assert "HOME=/github/home\nfile" in done.text("1"), done
    own = hooks.play(job("echo HOME=$HOME", container={"image": BUSYBOX, "env": {"GHA_APPTAINER_HOME": "image"}}))
    assert "HOME=/root" in own.text("1"), own
    site = hooks.play(job("echo HOME=$HOME"), policy={"home": "image"})
    assert "HOME=/root" in site.text("1"), site


@pytest.mark.case("hooks-32")
def test_path(hooks: HookRunner) -> None:
    first = "echo /opt/a >> $GITHUB_PATH"
    done = hooks.play(
        job(first, "printf '/opt/b\\n/opt/c\\n' >> $GITHUB_PATH", "echo PATH=$PATH", container={"image": BUSYBOX, "env": {"PATH": "/bin"}})
    )
    assert "PATH=/opt/c:/opt/b:/opt/a:/bin" in done.text("3"), done
    plain = hooks.play(job("echo PATH=$PATH"))
    assert "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" in plain.text("1")
    with LiveJob(hooks, {}).prepared() as live:
        assert b"PATH=/x:/usr/local/sbin" in live.script("echo PATH=$PATH", prependPath="/x").out  # the form of old runners


@pytest.mark.case("hooks-33")
def test_shells_are_the_images(hooks: HookRunner) -> None:
    image = hooks.add_image("shells:1", with_programs("bash", "python", "pwsh", "perl"))  # type: ignore[arg-type]
    shells = ("bash -l {0}", "python", "pwsh", "perl {0}", "bash")
    done = hooks.play(job(*({"run": "x", "shell": shell} for shell in shells), container=image))
    assert done.result == "success", done
    wanted = (
        "bash-of-the-image -l /__w/_temp/",
        "python-of-the-image /__w/_temp/",
        "pwsh-of-the-image -command . '/__w/_temp/",
        "perl-of-the-image /__w/_temp/",
        "bash-of-the-image --noprofile --norc -e -o pipefail /__w/_temp/",
    )
    for number, want in enumerate(wanted, 1):
        assert want in done.text(str(number)), done


@pytest.mark.case("hooks-34", "hooks-35")
def test_arguments_are_put_together_again(hooks: HookRunner) -> None:
    show = ("-c", 'for one; do echo "[$one]"; done', "x")
    with LiveJob(hooks, {}).prepared() as live:
        base = live.script_args("")

        def shown(*pieces: str) -> str:
            args = {**base, "entryPointArgs": ["-c", "'for", "one;", "do", "echo", '"[$one]";', "done'", "x", *pieces]}
            done = live.call("run_script_step", args)
            assert done.code == 0, done
            return done.out.decode()

        assert show
        assert shown("'a", "b'") == "[a b]\n"
        assert shown('"Mona', "the", 'Octocat"') == "[Mona the Octocat]\n"
        done = live.call("run_script_step", {**base, "entryPoint": "/bin/echo", "entryPointArgs": ["it's", '"one', 'word"']})
        assert done.out == b"it's one word\n", done


@pytest.mark.case("hooks-36")
def test_a_missing_working_directory(hooks: HookRunner) -> None:
    done = hooks.play(job({"run": "echo ran", "working-directory": "/nowhere"}))
    assert done.outcome("1") == "failure"
    assert "/nowhere" in done.errors("1") and "No such file" in done.errors("1")
    assert "ran" not in done.text("1")


def node_image(hooks: HookRunner) -> str:
    """An image in which the host's node runs: the libraries that it loads."""

    def change(tree: Path) -> None:
        listed = subprocess.run(["ldd", hooks.node], capture_output=True, text=True, check=True, timeout=60).stdout
        for word in listed.split():
            if word.startswith("/"):
                target = tree / word[1:]
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(os.path.realpath(word), target)

    return hooks.add_image("glibc:1", change)


@pytest.mark.case("hooks-37")
def test_a_javascript_action_before_and_after(hooks: HookRunner) -> None:
    if not hooks.node:
        pytest.skip("there is no node on this machine")
    image = node_image(hooks)
    real = hooks.externals / "node20/bin/node"
    real.unlink()
    shutil.copy2(os.path.realpath(hooks.node), real)
    action = hooks.work / "_actions/OWNER/js/v1"
    action.mkdir(parents=True)
    write = "const fs=require('fs');const out=(n,l)=>fs.appendFileSync(process.env['GITHUB_'+n],l+'\\n');"
    (action / "pre.js").write_text(write + "console.log('pre', process.env.INPUT_WORD);out('STATE','kept=from pre');")
    (action / "main.js").write_text(
        write + "console.log('main', process.env.STATE_kept, process.execPath);out('OUTPUT','made=x');out('STATE','kept=from main');"
    )
    (action / "post.js").write_text("console.log('post', process.env.STATE_kept);")
    runs = {"using": "node20", "main": str(action / "main.js"), "pre": str(action / "pre.js"), "post": str(action / "post.js")}
    done = hooks.play(job({"name": "js", "runs": runs, "with": {"word": "hello"}}, container=image))
    assert done.result == "success", done
    assert "pre hello" in done.text("Pre js")
    assert "main from pre /__e/node20/bin/node" in done.text("js")
    assert done.step("js")["outputs"] == {"made": "x"}
    assert "post from main" in done.text("Post js")


def old_glibc(tree: Path) -> None:
    (tree / "lib64").mkdir(exist_ok=True)
    (tree / "lib64/libc.so.6").write_bytes(
        b"\0" * 3000 + b"GNU C Library (GNU libc) stable release version 2.17, by Roland McGrath et al.\n\0"
    )


@pytest.mark.case("hooks-38")
def test_a_node_that_does_not_fit_is_told_by_the_libc_or_replaced(hooks: HookRunner) -> None:
    image = hooks.add_image("old:1", old_glibc)
    main = hooks.work / "_actions/a/main.js"
    main.parent.mkdir(parents=True)
    main.write_text("")
    step = {"name": "js", "runs": {"using": "node20", "main": str(main)}}
    refused = hooks.play(job(step, {"name": "shell", "run": "echo fine", "if": "always"}, container=image))
    assert refused.outcome("js") == "failure"
    assert "glibc 2.17" in refused.errors("js") and "2.28" in refused.errors("js")
    assert refused.outcome("shell") == "success", refused
    site = hooks.top / "nodes/node20/bin"
    site.mkdir(parents=True, exist_ok=True)
    (site / "node").write_text("#!/bin/sh\necho node of the site for $1\n")
    (site / "node").chmod(0o755)
    hooks.driver.own(hooks.top / "nodes")
    done = hooks.play(job(step, container=image), policy={"nodes": {"glibc-2.17": str(hooks.top / "nodes"), "glibc-2.20": "/nowhere"}})
    assert done.outcome("js") == "success", done
    assert "node of the site for /__w/_actions/a/main.js" in done.text("js")


@pytest.mark.case("hooks-39", "hooks-40")
def test_files_are_the_runners_own(all_hooks: HookRunner) -> None:
    script = (
        "mkdir -p local deep/er; echo runs: > local/action.yml; echo x > deep/er/x; chown 1234:1234 deep/er/x || true; chmod 600 deep/er/x"
    )
    done = all_hooks.play(job(script, "cat local/action.yml"))
    assert done.result == "success", done
    workspace = all_hooks.work / "repository/repository"
    assert (workspace / "local/action.yml").read_text() == "runs:\n"  # what the runner reads for hashFiles and `uses: ./local`
    assert (workspace / "local/action.yml").stat().st_uid == all_hooks.driver.uid
    if all_hooks.driver.single:
        assert (workspace / "deep/er/x").stat().st_uid == all_hooks.driver.uid
    remove = "import shutil, sys; shutil.rmtree(sys.argv[1])"
    gone = subprocess.run(all_hooks.driver.argv("-c", remove, str(workspace)), capture_output=True, timeout=60, cwd="/", check=False)
    assert gone.returncode == 0, gone.stderr


@pytest.mark.case("hooks-41")
def test_a_shell_that_the_image_lacks(hooks: HookRunner) -> None:
    done = hooks.play(job({"run": "x", "shell": "bash"}))
    assert done.step("1")["exit_code"] == 127
    assert "'bash'" in done.errors("1") and "busybox" in done.errors("1")


@pytest.mark.case("hooks-42")
def test_stdin_is_at_its_end(hooks: HookRunner) -> None:
    done = hooks.play(job("cat | wc -c; read x || echo end"))
    assert done.text("1").split() == ["0", "end"]
