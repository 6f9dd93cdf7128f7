#!/usr/bin/env bash
# The agent beside a PyTorch for CPUs, for tests/e2e/calibrate_cpu.py.
#
#   install_torch.sh [DIRECTORY]    a virtual environment there, or in .venv-torch: 0.9 GB, about a minute
#
# Python 3.11 or newer: python3, or the one that PYTHON names. What is installed already stays as it is.
set -euo pipefail

torch=2.13.0+cpu
root=$(cd "$(dirname "$0")/../.." && pwd)
directory=${1:-$root/.venv-torch}
python=${PYTHON:-python3}
in_it=$directory/bin/python
if [[ ! -x $in_it ]]; then
  "$python" -m venv "$directory" || {
    echo "$python cannot make a virtual environment: on Debian, apt-get install python3-venv" >&2
    exit 1
  }
fi
[[ -e $directory/.torch ]] && exit 0

echo "installing PyTorch $torch into $directory …"
pip() { "$in_it" -m pip --quiet --disable-pip-version-check "$@"; }

# PyPI has torch for CUDA only; the builds for CPUs are in PyTorch's own index, and in some mirrors.
pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "torch==$torch" || {
  echo "torch $torch is not on the index in use: put the address of PyTorch's index for CPUs in TORCH_INDEX" >&2
  exit 1
}
# The extra is met by what is there already.
pip install --editable "$root[calibrate]"
touch "$directory/.torch"
