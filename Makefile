# Each target does its own set-up: .venv is built when it is missing or settings.ini has changed.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo lab test readme prepare clean
demo: .venv/ready  ## the main job: a CNN teaches a ViT to read real digits
	$(BIN)/ofa-learn demo --out demo.html
lab: .venv/ready  ## open the lessons in JupyterLab
	$(BIN)/jupyter lab --notebook-dir=nbs
test: .venv/ready  ## every notebook, every test
	$(BIN)/python -m pytest
readme: .venv/ready  ## README.md from nbs/index.ipynb
	$(BIN)/python tools/readme.py
prepare: .venv/ready  ## run every lesson, keep its outputs, clean, export, README
	$(BIN)/python tools/prepare.py
clean:
	rm -rf .venv build dist *.egg-info

.venv/ready: settings.ini setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@
