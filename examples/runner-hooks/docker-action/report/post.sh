#!/bin/sh
set -e
test "${STATE_began:?}" = yes
echo "after: $(head -n 1 report.txt)"
