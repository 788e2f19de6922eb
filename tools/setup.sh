#!/bin/sh
# Makes or refreshes the virtual environment $VENV with interpreter $PYTHON from requirements.txt.
set -eu

fail() {
    echo "setup: $1" >&2
    exit 2
}

command -v "$PYTHON" >/dev/null 2>&1 || fail "$PYTHON: no such interpreter; make setup PYTHON=/path/to/python3.11"
version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || fail "$PYTHON does not run"
case "$version" in
3.11 | 3.12 | 3.13) ;;
*) fail "$PYTHON is Python $version; Python 3.11 to 3.13 is needed: make setup PYTHON=python3.11" ;;
esac
case "$(uname -s)" in
Linux | Darwin) ;;
*) fail "$(uname -s) is not supported; Linux is, and macOS without GPU" ;;
esac

# torch brings its GPU libraries along on Linux, which nothing here needs to run.
need=8
[ "$(uname -s)" = Linux ] || need=3
if [ ! -f "$VENV/ready" ]; then
    free=$(df -Pk . | awk 'NR == 2 { print int($4 / 1048576) }')
    [ "$free" -ge "$need" ] || fail "$need GB of disk are needed here, $free GB are free"
fi

if command -v uv >/dev/null 2>&1; then
    echo "setup: Python $version into $VENV with uv, about $need GB of packages (torch brings GPU libraries)"
    [ -x "$VENV/bin/python" ] || uv venv --quiet --seed --python "$PYTHON" "$VENV"
    uv pip install --python "$VENV/bin/python" -r requirements.txt
else
    echo "setup: Python $version into $VENV with pip, about $need GB of packages (torch brings GPU libraries): 4 to 15 minutes"
    [ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
    {
        "$VENV/bin/python" -m pip install --disable-pip-version-check --progress-bar off \
            -r requirements.txt || echo FAILED
    } | awk '
        /^Collecting/ { print "  " $2; fflush() }
        /^Installing/ { print "  installing"; fflush() }
        /^FAILED/ { failed = 1 }
        END { exit failed }' || fail "pip ended with an error, see above; the same command goes on"
fi
echo "setup: done; commands find $VENV by themselves, or: . $VENV/bin/activate"
