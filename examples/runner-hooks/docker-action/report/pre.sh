#!/bin/sh
set -e
echo "before: $1"
echo "began=yes" >> "$GITHUB_STATE"
