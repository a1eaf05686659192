#!/bin/sh
# Make .venv, and put packages of requirements.lock and the project in it.
#
#   deploy/bootstrap.sh          Python, pip and uv alone
#   deploy/bootstrap.sh run      what `kagura-tasks up` needs: worker, embedded server, Flower, all kinds of files
#   deploy/bootstrap.sh demo     run, and the local model
#   deploy/bootstrap.sh dev      run, and what tests, lint, benchmarks and docs need
#   deploy/bootstrap.sh bench    run, and the other task queues that the benchmarks compare with
#
# PYTHON names the interpreter. Every file that is fetched has its hash in the lock, uv and the project's builder
# included. Where nothing changed since the last time it does nothing.
set -eu
cd "$(dirname "$0")/.."

venv=.venv
log=.bootstrap.log
state=$venv/.bootstrap # a file for each part: its key once it is whole, "unfinished" while it is being made

fail() {
    echo "bootstrap: $1" >&2
    exit 1
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"; else set -- python3.11 python3.13 python3.12 python3; fi
    for candidate; do
        # Run it: a name on PATH may be a version manager's stand-in for a Python that is switched off.
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer (tried: $*): install one, or name it: PYTHON=/path/to/python3.11 make ..."
}

# One line for what went wrong in the step that wrote the log.
explain() {
    said() { grep -qiE "$1" "$log"; }
    if said 'hash mismatch|do not match the hashes'; then
        echo "a package is not the file that requirements.lock names: restore the lock (git checkout requirements.lock)," \
            "and if it was unchanged, do not trust the package index"
    elif said 'no space left'; then
        echo "the disk is full: free 2 GB, and run this again"
    elif said 'failed to fetch|error sending request|connection|timed out|no matching distribution|was not found in'; then
        case $1 in
        uv) settings="UV_DEFAULT_INDEX or uv.toml (uv does not read pip's)" ;;
        *) settings='PIP_INDEX_URL or pip.conf' ;;
        esac
        echo "$1 could not get packages: check the network, and the package index that is set in $settings, if any"
    elif said 'no trusted hash was provided|no solution found'; then
        echo "requirements.lock does not have what pyproject.toml asks for: run 'make lock'"
    else
        echo "$1 failed: $(tail -n 1 "$log")"
    fi
}

step() {
    name=$1
    shift
    "$@" >>"$log" 2>&1 || fail "$(explain "$name") (all of it: $log)"
}

locked_uv() { awk '/^[a-z0-9]/ { mine = /^uv==/ } mine' requirements.lock; }

key_of() {
    # The folder: a virtual environment that was moved does not work. cksum and not a SHA, since POSIX has only that.
    case $1 in
    uv) echo "$PWD ${PYTHON:-} $(locked_uv | cksum)" ;;
    *) cat pyproject.toml requirements.lock deploy/bootstrap.sh | cksum ;;
    esac
}

is_whole() { [ -x $venv/bin/python ] && [ "$(cat "$state/$1" 2>/dev/null)" = "$(key_of "$1")" ]; }

all_whole() {
    for part in uv "$@"; do is_whole "$part" || return 1; done
}

make_venv() {
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python has no venv or no ensurepip: install its venv package (Debian, Ubuntu: apt install python3-venv)"
    step venv "$python" -m venv --clear $venv
    mkdir $state
    locked_uv >$state/uv.txt
    step pip $venv/bin/python -m pip install --disable-pip-version-check --only-binary :all: --require-hashes -r $state/uv.txt
    key_of uv >$state/uv
}

install() {
    case $1 in
    run) groups="" ;;
    *) groups="--group $1" ;;
    esac
    # What an interrupted install left behind looks installed to uv, and is not.
    if [ "$(cat "$state/$1" 2>/dev/null)" = unfinished ]; then again=--reinstall; else again=""; fi
    echo unfinished >"$state/$1"
    # --no-build: to build a package from source, its builder would be fetched, and no hash covers that.
    # shellcheck disable=SC2086  # no or several words on purpose
    step uv $venv/bin/uv pip install --python $venv/bin/python --no-build --compile-bytecode $again \
        --require-hashes -c requirements.lock -r pyproject.toml \
        --extra worker --extra embedded --extra flower --extra otel --extra office --extra images --extra ocr --group build $groups
    step uv $venv/bin/uv pip install --python $venv/bin/python --no-deps --no-build-isolation -e .
    key_of "$1" >"$state/$1"
}

for part; do
    case $part in
    run | demo | dev | bench) ;;
    *) fail "no part named '$part': run, demo, dev or bench" ;;
    esac
done
if all_whole "$@"; then exit 0; fi

python=$(find_python)
# One at a time: `make up` and `make test` may start together. The lock is the open log, so it ends with this process.
exec 9>>"$log"
"$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
if all_whole "$@"; then exit 0; fi

: >"$log"
echo "Setting up .venv: ${*:-uv} (the first time takes half a minute or more)"
is_whole uv || make_venv
for part; do is_whole "$part" || install "$part"; done
