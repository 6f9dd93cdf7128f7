#!/usr/bin/env bash
# Writes the locks with the uv given, or those of them that are named: versions and hashes, and no addresses.
#   lock.sh [UV [requirements.lock] [requirements-report.lock] [requirements-build.lock]]
set -euo pipefail
cd "$(dirname "$0")/../.."
uv=${1:-uv}
locks=("${@:2}")
((${#locks[@]})) || locks=(requirements.lock requirements-report.lock requirements-build.lock)

compile() {
  "$uv" pip compile "$@" --universal --python-version 3.11 --generate-hashes --upgrade \
    --no-header --no-emit-index-url --no-annotate --quiet
}

write() {
  case $1 in
    requirements.lock)
      echo "# What the image and installations on hosts are made of: each library's version and the hashes of its files."
      echo "# For Python 3.11 and newer on Linux; of pyproject.toml, by \`make lock\`."
      compile pyproject.toml
      ;;
    requirements-report.lock)
      echo "# What the monthly review takes beside requirements.lock: the extra \`report\`. By \`make lock\`."
      sed -n '/^report = \[$/,/^\]$/s/^ *"\(.*\)",$/\1/p' pyproject.toml | compile - --constraints requirements.lock
      ;;
    requirements-build.lock)
      echo "# What builds the package itself; not in the image. By \`make lock\`."
      sed -n 's/^requires = \["\(.*\)"\]$/\1/p' pyproject.toml | compile -
      ;;
    *)
      echo "$1: no lock of ours" >&2
      return 2
      ;;
  esac
}

for lock in "${locks[@]}"; do
  write "$lock" >"$lock.new"
  mv "$lock.new" "$lock"
done
