# make demo   the whole path on the Titanic: features, train, score
# make test   lint, types and tests
# make bench-titanic   how good the recipes are, over five splits (minutes)
# make bench-features  how fast the feature job is, beside a copy of the table and Spark ML (12 minutes)
# make bench-train     how fast the training is, beside Keras's optimizers and DeepCTR (15 minutes)
# make bench-score     how fast the score job is, beside Spark's parts; its memory; how it grows (20 minutes)
# make bench-paper     whether the paper's recipe does what the paper says (20 minutes)
# make bench-init      whether configurations of nfm init train unedited on 17 tables (20 minutes)
# make bench-flights   how good the recipe on New York's flights is, beside LightGBM (15 minutes)
# Both make what they need first: .venv from the lock file, and Java 17 where there is none.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.PHONY: demo test bench-titanic bench-features bench-train bench-paper bench-flights bench-init bench-score setup java clean

UV_VERSION := 0.13.9
CONFIG ?= conf/titanic.yaml

# JAVA_HOME's java, the PATH's, or one that stands beside an older default: the first that is 17 or newer.
FIND_JAVA = home=; \
	for java in "$${JAVA_HOME:-}/bin/java" "$$(command -v java || true)" /usr/lib/jvm/java-{17,21}-openjdk-*/bin/java; do \
		if [ -x "$$java" ] && [ "$$("$$java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p')" -ge 17 ]; then \
			home=$$(dirname "$$(dirname "$$(readlink -f "$$java")")"); break; \
		fi; \
	done
RUN = $(FIND_JAVA); export JAVA_HOME="$$home" PATH="$(CURDIR)/.venv/bin:$$PATH" SPARK_CONF_DIR="$(CURDIR)/conf" \
	PYSPARK_PYTHON="$(CURDIR)/.venv/bin/python";

demo: setup
	@$(RUN) spark-submit jobs/features.py --config $(CONFIG)
	@$(RUN) python jobs/train.py --config $(CONFIG)
	@$(RUN) spark-submit jobs/score.py --config $(CONFIG)

test: setup
	@$(RUN) ruff check . && ruff format --check . && mypy && pytest -n 2 --dist loadfile --no-loadscope-reorder

bench-titanic: setup
	@$(RUN) python tests/bench/titanic.py

bench-features: setup
	@$(RUN) PYTHONPATH="$(CURDIR)" python tests/bench/features.py

bench-train: setup
	@$(RUN) export PYTHONPATH="$(CURDIR)"; python tests/bench/steps.py; python tests/bench/pipeline.py; \
		python tests/bench/pace.py; uv=$$(command -v uv || echo build/uv/bin/uv); TF_USE_LEGACY_KERAS=1 "$$uv" run -q \
		--no-project --python .venv/bin/python --with deepctr==0.9.4 --with tf_keras --with 'tensorflow==2.21.*' \
		python tests/bench/train_deepctr.py --rows 80000

bench-score: setup
	@$(RUN) PYTHONPATH="$(CURDIR)" python tests/bench/score.py

bench-paper: setup
	@$(RUN) python tests/bench/paper.py

bench-init: setup
	@$(RUN) PYTHONPATH="$(CURDIR)" python tests/bench/init_tables.py

bench-flights: setup
	@$(RUN) PYTHONPATH="$(CURDIR)" python tests/bench/flights.py

setup: .venv/made java

.venv/made: pyproject.toml uv.lock
	@echo "Making .venv from the lock file (3.7 GB, some minutes) …"
	@uv=$$(command -v uv || true); \
	if [ -z "$$uv" ]; then \
		if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then \
			package="python3-venv"; $(INSTALL); \
		fi; \
		python3 -m venv build/uv; \
		build/uv/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION); \
		uv=build/uv/bin/uv; \
	fi; \
	quiet=--quiet; if [ -t 2 ]; then quiet=; fi; \
	"$$uv" sync --frozen --all-extras --compile-bytecode $$quiet
	@touch $@

java:
	@$(FIND_JAVA); if [ -z "$$home" ]; then package="openjdk-17-jre-headless"; $(INSTALL); fi

# Debian's package where we may install it, one line that says what to install where we may not.
INSTALL = if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing Debian's $$package …"; \
		export DEBIAN_FRONTEND=noninteractive; \
		{ apt-get update -qq && apt-get install -y -qq "$$package"; } >/dev/null; \
	else \
		echo "Please install $$package (that is its name in Debian; Spark takes Java 17 or 21), then run this again." >&2; \
		exit 1; \
	fi

clean:
	rm -rf build .venv
