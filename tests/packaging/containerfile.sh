#!/usr/bin/env bash
# Runs the Containerfile's build stage as written, with its paths moved below a temporary directory,
# then its entry point with its environment until the daemon says that it has started. No container
# engine is needed, so this works where none is to be had.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
checkout=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/src"
cd "$work/src"

# COPY SOURCE ... DESTINATION: a directory's content, or files into a directory.
copy() {
  local destination=${*: -1} source
  mkdir -p "$destination"
  for source in "${@:1:$#-1}"; do
    if [ -d "$checkout/$source" ]; then
      cp -R "$checkout/$source/." "$destination"
    else
      cp "$checkout/$source" "$destination"
    fi
  done
}

steps=0
while read -r verb arguments; do
  case "$verb" in
    RUN)
      moved=${arguments//\/opt\/venv/$work/venv}
      bash -euc "${moved//\/opt\/build/$work/build}" > "$work/log" 2>&1 || {
        cat "$work/log"
        exit 1
      }
      ;;
    COPY)
      read -ra words <<< "$arguments"
      copy "${words[@]}"
      ;;
    *) continue ;;
  esac
  steps=$((steps + 1))
done < <(sed -n '/ AS build$/,/^FROM /p' "$checkout/Containerfile") # never the stage `root`, which removes files
[ "$steps" -ge 12 ]
[ ! -e "$work/venv/bin/pip" ]

cd "$work"
"$work/venv/bin/verdictd-py" --version
"$work/venv/bin/verdictd-py" demo --exit > "$work/log" 2>&1 || {
  cat "$work/log"
  exit 1
}

# Any free port instead of the Containerfile's own; data and client API below the temporary directory.
mapfile -t settings < <(sed -n 's/^ENV \(VERDICTD_.*\)/\1/p' "$checkout/Containerfile" |
  sed "s|:20002\$|:0|; s|/opt/verdictd|$work|; s|/run/verdictd-py|$work|")
[ "${#settings[@]}" -eq 3 ]
mapfile -t entry < <(sed -n 's/^ENTRYPOINT \["\(.*\)"\]$/\1/p' "$checkout/Containerfile")
mkfifo "$work/events"
env "${settings[@]}" XDG_CACHE_HOME="$work/empty" timeout 60 "$work/venv/bin/${entry[0]}" > "$work/events" 2>&1 &
daemon=$!
started=
while read -r line; do
  echo "$line" >> "$work/log.events"
  [[ $line == *daemon.started* ]] && started=$line && kill -TERM "$daemon"
done < "$work/events"
[ "$(id -u)" -ne 0 ] || ! grep -q 'compiling the policy engine' "$work/log.events" || {
  echo "containerfile: the compiled policy engine of the image was not used" >&2
  exit 1
}
wait "$daemon" # not 0 unless it drained and ended by itself
[[ $started == *'listen="0.0.0.0:'*"client_api=\"unix:$work/client-api.sock\""* ]]
echo "containerfile: its build stage and its entry point give a running broker"
