#!/usr/bin/env bash
# Writes requirements.lock and requirements-build.lock with the uv given: versions and hashes, and no addresses.
set -euo pipefail
cd "$(dirname "$0")/../.."
uv=${1:-uv}

compile() {
  "$uv" pip compile "$1" --universal --python-version 3.11 --generate-hashes --upgrade \
    --no-header --no-emit-index-url --no-annotate --quiet
}
{
  echo "# What the image and installations on hosts are made of: each library's version and the hashes of its files."
  echo "# For Python 3.11 and newer on Linux; of pyproject.toml, by \`make lock\`."
  compile pyproject.toml
} >requirements.lock.new
{
  echo "# What builds the package itself; not in the image. By \`make lock\`."
  sed -n 's/^requires = \["\(.*\)"\]$/\1/p' pyproject.toml | compile -
} >requirements-build.lock.new
mv requirements.lock.new requirements.lock
mv requirements-build.lock.new requirements-build.lock
