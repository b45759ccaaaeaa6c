#!/usr/bin/env bash
# Installs what `make bench ROWS=rivals` compares us with, in two Python environments below target/. Nobody needs them to
# build or test. The versions are pinned: later ones of ingestr and sling fetch a program when they first run.
set -euo pipefail
cd "$(dirname "$0")/../.."
python3 -m venv target/rivals
target/rivals/bin/pip install --quiet 'dlt[postgres]==1.31.0' 'meltanolabs-target-postgres==0.8.1' matplotlib
# Only for the SQL that it ships.
target/rivals/bin/pip install --quiet --no-deps 'pgmq==1.1.4'
python3 -m venv target/rivals-ingestr
target/rivals-ingestr/bin/pip install --quiet 'ingestr==0.15.9' 'sling==1.3.5'
