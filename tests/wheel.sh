#!/usr/bin/env bash
# Install the wheel without TensorFlow, as on executors, outside the checkout, and score the Titanic there.
# Usage: tests/wheel.sh MODEL, with the model of conf/titanic.yaml that `make demo` has trained.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
model=$(realpath "$1")
uv=$(realpath "$(command -v "${UV:-uv}")")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cd "$root"
"$uv" build --quiet --wheel --out-dir "$work" .
wheel=("$work"/*.whl)
# uv.lock limits the versions only: a release of today must not break the test of this commit.
"$uv" export --quiet --frozen --no-dev --extra spark --no-emit-project --no-hashes --output-file "$work/versions.txt"
"$uv" venv --quiet --python .venv/bin/python "$work/venv"
"$uv" pip install --quiet --python "$work/venv" --constraint "$work/versions.txt" "${wheel[0]}[spark]"

# The files of nfm/, templates included, and no others.
list='import sys, zipfile; print(*zipfile.ZipFile(sys.argv[1]).namelist(), sep="\n")'
diff <(git ls-files nfm | sort) <("$work/venv/bin/python" -c "$list" "${wheel[0]}" | grep -v '\.dist-info/' | sort)

# From here on, nothing of the checkout is used but its table, its configuration and the model.
cd "$work"
unset PYTHONPATH SPARK_CONF_DIR PYSPARK_PYTHON
export PATH="$work/venv/bin:$PATH"

# TensorFlow must be absent.
python -c 'import importlib.util, sys; sys.exit(any(map(importlib.util.find_spec, ("tensorflow", "keras"))))'

nfm --help >/dev/null
code=0
message=$(nfm train --config "$root/conf/titanic.yaml" 2>&1) || code=$?
test "$code: $message" = "2: error: training needs TensorFlow: pip install 'nfm-batch[train]'"
nfm score --config "$root/conf/titanic.yaml" \
    --set "source.path=$root/tests/data/titanic.csv" "score.model=$model" "score.output=$work/scores"

python - "$model" "$root/tests/data/titanic.csv" "$work/scores" "$model/../scores" <<'END'
import sys

import nfm
import pyarrow.csv as pc
import pyarrow.parquet as pq

model, table, *outputs = sys.argv[1:]
passengers = pc.read_csv(table, convert_options=pc.ConvertOptions(strings_can_be_null=True))
scores = nfm.load_model(model).score(passengers).to_pylist()
expected = dict(zip(passengers["PassengerId"].to_pylist(), scores, strict=True))
for output in outputs:
    published = pq.read_table(output)
    found = dict(zip(published["PassengerId"].to_pylist(), published["score"].to_pylist(), strict=True))
    assert found == expected, f"{output} differs from the scores that nfm.load_model computes"
print(f"{len(expected)} scores: equal in this process, from `nfm score`, and from the checkout's job.")
END
