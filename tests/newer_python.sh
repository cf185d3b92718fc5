#!/bin/sh
# Prints the newest Python of 3.12 or above that this machine has: on the path, or under pyenv.
set -eu
pyenv_root="${PYENV_ROOT:-$HOME/.pyenv}"
for version in 3.14 3.13 3.12; do
    for python in "python$version" "$pyenv_root/versions/$version".*/bin/python; do
        # pyenv's shims exist for versions that are not chosen, and then fail.
        if "$python" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$version')" 2>/dev/null; then
            command -v "$python"
            exit
        fi
    done
done
echo "make test-next needs Python 3.12 or newer, on the PATH or installed with pyenv. There is none." >&2
exit 1
