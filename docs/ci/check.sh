#!/usr/bin/env bash
# What the action runs: snnc as the first argument; PATHS, ARGUMENTS and SARIF from the environment.
set -euo pipefail
snnc=$1
# Both are lists of words; patterns in them are for snnc, not for the shell.
set -f
read -ra paths <<<"${PATHS:-.}"
read -ra arguments <<<"${ARGUMENTS:-}"
if [ -n "${SARIF:-}" ]; then
    # Findings are no failure here: the next run reports them. A wrong command line is.
    "$snnc" check "${paths[@]}" "${arguments[@]}" --format sarif >"$SARIF" || { code=$?; [ $code -eq 1 ] || exit $code; }
fi
"$snnc" check "${paths[@]}" "${arguments[@]}" --format github
