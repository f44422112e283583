#!/usr/bin/env bash
# Makes .venv, installs the pinned dependencies and this clone (editable) into it, and checks that headless OpenGL
# rendering works. `make` runs it when it has not been run yet, or when the dependencies have changed.
#
# PYTHON names the interpreter to use. Every PIP_* variable and pip configuration of yours is honoured.
set -euo pipefail
cd "$(dirname "$0")/.."

# What headless rendering without a GPU needs on Debian and Ubuntu: EGL and Mesa's software rasteriser.
readonly OPENGL_PACKAGES="libegl1 libegl-mesa0 libgl1-mesa-dri libgl1"

if [ "$(id -u)" = 0 ]; then as_root=""; else as_root="sudo "; fi

say() { printf '%s\n' "setup: $*" >&2; }
stop() { say "$@"; exit 1; }

install_line() { printf '%s' "${as_root}apt-get update && ${as_root}apt-get install -y --no-install-recommends $*"; }

supported() { "$1" -c 'import sys; raise SystemExit(not (3, 11) <= sys.version_info[:2])' >/dev/null 2>&1; }

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        supported "$PYTHON" || stop "PYTHON=$PYTHON is no Python 3.11 or later"
        printf '%s' "$PYTHON"
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11 python3.14; do
        if supported "$candidate"; then
            printf '%s' "$candidate"
            return
        fi
    done
    stop "no Python 3.11 or later found. On Debian 12, Ubuntu 24.04 or later, type:
    $(install_line python3 python3-venv)
elsewhere install one, and name it: make train PYTHON=/path/to/python3.12"
}

make_venv() {
    local python version
    python=$(find_python)
    if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        stop "this Python cannot make virtual environments. Type:
    $(install_line "python${version}-venv")"
    fi
    say "making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
}

install_packages() {
    if [ "$(uname)" = Linux ] && [ ! -e /proc/driver/nvidia/version ] && [ ! -e /dev/nvidiactl ] &&
        ! .venv/bin/python -m pip config list 2>/dev/null | grep -qE '(extra-)?index-url|find-links'; then
        say "no NVIDIA GPU here, yet torch may bring several GB of CUDA libraries; CONTRIBUTING.md tells how to avoid them"
    fi
    .venv/bin/python -m pip install --constraint constraints.txt setuptools
    .venv/bin/python -m pip install --constraint constraints.txt --no-build-isolation --editable '.[dev,video,contrib,deepmind,hub,mazes,ray,robots]'
}

first_frame() {
    if [ "$(uname)" = Linux ] && [ -z "${DISPLAY:-}" ]; then export MUJOCO_GL="${MUJOCO_GL:-egl}"; fi  # as envs/gl_context.py
    .venv/bin/python -c '
from gqn_rl.envs import doctor
try:
    doctor.probe("gqn_rl.envs.doctor:first_frame")
except doctor.ProbeError as error:
    raise SystemExit(str(error))
'
}

check_rendering() {
    local failure install
    install=$(install_line "$OPENGL_PACKAGES")
    if failure=$(first_frame 2>&1); then return; fi
    # shellcheck disable=SC2086  # one word a package
    if ! command -v apt-get >/dev/null || dpkg --status $OPENGL_PACKAGES >/dev/null 2>&1; then
        stop "headless OpenGL rendering fails: $failure
Find out more: .venv/bin/python train.py doctor"
    fi
    if [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; then
        say "headless OpenGL rendering does not work yet; installing $OPENGL_PACKAGES"
        bash -c "$install" || true
    else
        stop "headless OpenGL rendering does not work yet. Type this, then the same make command again:
    $install"
    fi
    failure=$(first_frame 2>&1) || stop "headless OpenGL rendering still fails: $failure
Try by hand: $install
Find out more: .venv/bin/python train.py doctor"
}

{ supported .venv/bin/python && .venv/bin/python -m pip --version >/dev/null 2>&1; } || make_venv
install_packages
check_rendering
touch .venv/.ready
