#!/usr/bin/env bash
# What the action runs: snnc as the first argument; PATHS, ARGUMENTS and SARIF from the environment.
set -euo pipefail
snnc=$1
# Both are lists of words, on one line or several; patterns in them are for snnc, not for the shell.
set -f
read -r -d '' -a paths <<<"${PATHS:-.}" || true
read -r -d '' -a arguments <<<"${ARGUMENTS:-}" || true
check() { "$snnc" check "${paths[@]}" ${arguments[@]+"${arguments[@]}"} "$@"; }
if [ -n "${SARIF:-}" ]; then
    : >"$SARIF"
    # Findings (1) are no failure here: the next run reports them. A wrong command line or a full disk (2) is.
    check --format sarif >"$SARIF" || { code=$?; [ $code -eq 1 ] || exit $code; }
fi
check --format github
