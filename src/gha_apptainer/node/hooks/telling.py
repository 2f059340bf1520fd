"""What a hook says in a step's log, in the words of workflow commands. Imports only os, because a step's start waits for it.

Everything that a step wrote has gone to the log before, perhaps without an end of its last line: so what we say begins with one.
"""

from __future__ import annotations

import os


def write(text: str) -> None:
    """One piece of text on stdout, whole lines of ours. A reader who is gone is no failure."""
    data = text.encode("utf-8", "replace")
    try:
        while data:
            data = data[os.write(1, data) :]
    except OSError:
        return


def line(text: str) -> None:
    """A line of ours, whatever words are in it: nothing in it is a command to the runner."""
    text = text.replace("##[", "## [").replace("\r", " ").replace("\n", " ")
    write(("> " + text if text.lstrip().startswith("::") else text) + "\n")


def error(title: str, text: str) -> None:
    """An annotation; `text` may have several lines."""
    for plain, written in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A")):
        text = text.replace(plain, written)
        title = title.replace(plain, written)
    write("\n::error title=%s::%s\n" % (title.replace(":", "%3A").replace(",", "%2C"), text))


def debug(text: str) -> None:
    """A line that only shows where the runner was asked for debugging."""
    if os.environ.get("RUNNER_DEBUG") == "1":
        for plain, written in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A")):
            text = text.replace(plain, written)
        write("::debug::%s\n" % text)
