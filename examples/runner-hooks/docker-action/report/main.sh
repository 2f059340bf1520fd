#!/bin/sh
set -e
printf '%s\n' "$1" "$2" "$(cat /made)" > report.txt
echo "lines=$(grep -c "" report.txt)" >> "$GITHUB_OUTPUT"
echo "report of $1 written"
