#!/bin/sh
# Build the wheel, install it into a fresh environment, and run the smoke subset there, away from the source tree's packages.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
python=${1:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$here/.venv/bin/python" -m build --wheel --no-isolation --outdir "$work/dist" "$here" >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip --disable-pip-version-check --quiet install -c "$here/constraints.txt" "$work"/dist/*.whl pytest hypothesis iced-x86
cp -r "$here/tests" "$here/bench" "$here/workloads" "$here/docs" "$here/README.md" "$here/pyproject.toml" "$work/"
cd "$work"
"$work/venv/bin/python" -c 'import engine, arch_x86, pathlib; assert "site-packages" in engine.__file__, engine.__file__'
"$work/venv/bin/optprobe" --help >/dev/null
# What the wheel promises without the source tree: the demo with its image, and the Python interface.
mkdir "$work/empty"
cd "$work/empty"
"$work/venv/bin/optprobe" demo >demo.txt || { cat demo.txt; exit 1; }
grep -q "all as it should be" demo.txt || { cat demo.txt; exit 1; }
"$work/venv/bin/python" -c 'import optprobe; assert "site-packages" in optprobe.__file__; optprobe.Machine(optprobe.load_asm("f: ret", "f.s")).close()'
test "$("$work/venv/bin/optprobe" --version)" = "optprobe $("$work/venv/bin/python" -c 'import optprobe; print(optprobe.__version__)')"
cd "$work"
"$work/venv/bin/python" -m pytest -q -m smoke -p no:cacheprovider tests
