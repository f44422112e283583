#!/usr/bin/env bash
# Type-checks gqn_rl, gqn_rl.envs and gqn_rl.agents, each file once and under its import name.
#
# mypy cannot follow the __path__ rule of gqn_rl/__init__.py, so it gets a tree of links in which envs/ and agents/
# are children of gqn_rl/, as in a wheel. What it prints is translated back to the paths of the clone.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir "$tree/gqn_rl"
ln -s "$root"/gqn_rl/*.py "$root/gqn_rl/commands" "$root/envs" "$root/agents" "$tree/gqn_rl/"
cd "$tree"
"$root/.venv/bin/python" -m mypy --config-file "$root/pyproject.toml" --cache-dir "$root/.mypy_cache" -p gqn_rl "$@" |
    sed -E 's#^gqn_rl/(envs|agents)/#\1/#'
