#!/usr/bin/env bash
# dvc 3.67.1: a relative remote URL that is set through the Python API (`Repo.config.edit`) is taken as
# seen from the process's current folder, and rewritten in .dvc/config as seen from there. The file's
# own relative URLs, and the documentation of `dvc remote`, count from the folder of the config file.
#
# Behaviour: the same two lines, on the same repository, write another URL for every current folder;
# called from the folder above the repository, "../store" lies two folders above .dvc's parent.
# Seen:
#   from repository/.dvc: ../store
#   from repository: ../../store
#   from .: ../../../store
# Source: DVC's documentation of `dvc config` and `dvc remote add` ("relative to the location of the
# config file"); dvc/config.py, where paths are made relative when a level is saved.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet dvc==3.67.1
mkdir -p "$folder/above/repository"
export DVC_NO_ANALYTICS=1 DVC_SITE_CACHE_DIR="$folder/site"
cat >"$folder/set.py" <<'PYTHON'
import os
import sys

from dvc.repo import Repo

root, seen = sys.argv[1], []
Repo.init(root, no_scm=True).close()
for current in (f"{root}/.dvc", root, os.path.dirname(root)):
    os.chdir(current)
    with Repo(root) as repo, repo.config.edit("repo") as config:
        config["remote"]["store"] = {"url": "../store"}
    with open(f"{root}/.dvc/config", encoding="utf-8") as file:
        seen.append(next(line for line in file if "url" in line).split("=")[1].strip())
    print(f"from {os.path.relpath(current, os.path.dirname(root))}: {seen[-1]}")
sys.exit(seen != ["../store", "../../store", "../../../store"])
PYTHON
"$folder/venv/bin/python" "$folder/set.py" "$folder/above/repository"
