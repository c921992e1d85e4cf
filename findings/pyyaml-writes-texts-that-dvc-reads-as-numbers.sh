#!/bin/bash
# PyYAML 6.0.4 writes the text "1e5" without quotes, for its YAML 1.1 knows no number without a dot
# before the exponent (issue "Scientific notation without a dot is loaded as a string"). DVC 3.67.1
# reads params.yaml by YAML 1.2, in which it is the number 100000. So two texts, "1e5" and "10e4", are
# one value to DVC: a stage that depends on the parameter is up to date after it was changed, and
# `dvc params diff` shows nothing. Both libraries keep to the YAML that they name; a file that one
# writes and the other reads must have its texts quoted.
#
# Output seen:
#   params.yaml: label: 1e5
#   params.yaml: label: 10e4
#   changed stages by DVC: none
#   the same with quotes: make
#
# Ends with 1 when PyYAML quotes the text, or DVC sees the change.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check 'dvc==3.67.1' 'pyyaml==6.0.4'
export DVC_NO_ANALYTICS=1 DVC_SITE_CACHE_DIR="$folder/site"
git init -q repository
cd repository
git config user.name finding
git config user.email finding@localhost
../venv/bin/dvc init -q
cat > dvc.yaml <<'YAML'
stages:
  make:
    cmd: cp params.yaml made
    params: [label]
    outs: [made]
YAML
write() { ../venv/bin/python -c "import sys, yaml; open('params.yaml', 'w').write(yaml.safe_dump({'label': sys.argv[1]}, default_style=sys.argv[2] or None))" "$1" "$2"; }
changed() { ../venv/bin/dvc status --json | ../venv/bin/python -c "import json, sys; print(', '.join(json.load(sys.stdin)) or 'none')"; }
write 1e5 ""
echo "params.yaml: $(cat params.yaml)"
plain=$(cat params.yaml)
../venv/bin/dvc repro -q
write 10e4 ""
echo "params.yaml: $(cat params.yaml)"
unseen=$(changed)
echo "changed stages by DVC: $unseen"
write 1e5 '"'
../venv/bin/dvc repro -q
write 10e4 '"'
seen=$(changed)
echo "the same with quotes: $seen"
[ "$plain" = "label: 1e5" ] && [ "$unseen" = none ] && [ "$seen" = make ]
