#!/usr/bin/env bash
# `make bench-arm`: says what to install when a tool is missing, else counts. $1: the Python to use.
set -euo pipefail
cd "$(dirname "$0")/../.."
source tests/arm/tools.sh
need_all
exec "$1" bench/arm/run.py
