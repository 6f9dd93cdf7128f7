#!/usr/bin/env bash
# The real tools that the tests use: what is missing is installed from Debian's or Ubuntu's packages.
# Without root or apt it names what is missing and fails.
set -euo pipefail

declare -A package=(
  [promtool]=prometheus [prometheus]=prometheus
  [victoria-metrics]=victoria-metrics [vmalert]=victoria-metrics
  [prometheus-node-exporter]=prometheus-node-exporter [openssl]=openssl
  [prometheus-alertmanager]=prometheus-alertmanager [amtool]=prometheus-alertmanager
  [node]=nodejs [npm]=npm
  [chromium]=chromium [cc]=gcc [systemd-analyze]=systemd
)
missing=()
for tool in "${!package[@]}"; do
  command -v "$tool" >/dev/null || missing+=("$tool")
done
((${#missing[@]})) || exit 0

mapfile -t wanted < <(for tool in "${missing[@]}"; do echo "${package[$tool]}"; done | sort -u)
if ! command -v apt-get >/dev/null || [[ $(id -u) != 0 ]]; then
  echo "the tests need: ${missing[*]}; install them (Debian: apt-get install ${wanted[*]}), then try again" >&2
  exit 1
fi
echo "installing ${wanted[*]} …"
export DEBIAN_FRONTEND=noninteractive
# No daemon must start by itself: the tests start their own.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy"
  trap 'rm -f "$policy"' EXIT
fi
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${wanted[@]}" libc6-dev >/dev/null
for tool in "${missing[@]}"; do
  command -v "$tool" >/dev/null || { echo "$tool is still missing after installing ${package[$tool]}" >&2; exit 1; }
done
