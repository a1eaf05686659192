#!/bin/sh
# Does the worker in this container take tasks? While it does, it touches a file every 2 s: KAGURA_TASKS_HEARTBEAT_FILE.
# The argument is how old (s) the file may be. A shell, since this is asked all the time: Python alone would cost more.
set -eu
file=${KAGURA_TASKS_HEARTBEAT_FILE:?names the file that the worker touches}
[ -e "$file" ] || { echo "no heartbeat yet" >&2 && exit 1; }
age_s=$(($(date +%s) - $(stat -c %Y "$file")))
[ "$age_s" -le "${1:-30}" ] || { echo "no heartbeat for $age_s s" >&2 && exit 1; }
