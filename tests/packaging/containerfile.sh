#!/usr/bin/env bash
# Runs the Containerfile's pip steps as written, with their paths moved below a temporary
# directory: no container engine is needed, so this works where none is to be had.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git ls-files -z | tar --null --create --files-from=- | tar --extract --one-top-level="$work/src"
steps=$(sed -n 's/^RUN \(python -m venv.*\|\/opt\/venv\/bin\/python -m pip.*\)$/\1/p' Containerfile)
[ "$(wc -l <<< "$steps")" -eq 2 ]
(cd "$work/src" && bash -euc "${steps//\/opt\/venv/$work/venv}")
entry=$(sed -n 's/^ENTRYPOINT //p' Containerfile)
[ "${entry#*verdictd-py}" != "$entry" ]
"$work/venv/bin/verdictd-py" --version
(cd "$work" && "$work/venv/bin/verdictd-py" demo --exit > demo.log) || { cat "$work/demo.log"; exit 1; }
echo "containerfile: its install steps give a working program"
