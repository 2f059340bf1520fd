"""Prints the closing line of several pytest runs as one: closing_line.py COUNTS SECONDS, COUNTS being one JSON object a line."""

import json
import sys

WORDS = ("failed", "passed", "skipped", "xfailed", "xpassed", "warnings", "error")


def main() -> int:
    with open(sys.argv[1], encoding="utf-8") as file:
        runs = [json.loads(line) for line in file]
    total = {word: sum(int(run.get(word, 0)) for run in runs) for word in WORDS}
    total["error"] += int(sys.argv[3]) - len(runs)  # a run that died before it could count is an error
    said = ["%d %s%s" % (total[word], word, "s" if word == "error" and total[word] > 1 else "") for word in WORDS if total[word]]
    text = " %s in %.2fs " % (", ".join(said) or "no tests ran", float(sys.argv[2]))
    print(text.center(100, "="))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
