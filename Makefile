# Everything that a person types. `make help` lists it; the work is done by tests/scripts and benches.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PACK ?= starter
LIMIT ?= 60

# What can be made again lives outside the clone, so that a second clone starts warm.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/callbox
export CARGO_TARGET_DIR ?= $(CACHE)/target
export CALLBOX_MODELS ?= $(CACHE)/models
export CALLBOX_CACHE := $(CACHE)
export PATH := $(CARGO_TARGET_DIR)/release:$(CALLBOX_CACHE)/tools/bin:$(HOME)/.cargo/bin:$(PATH)

.NOTPARALLEL:
.PHONY: help demo test bench fuzz lint build engine-cuda test-gpu bench-gpu packages test-packages models setup setup-demo setup-bench setup-packages

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: setup-demo build models ## Call the example agent and ask it five questions; PACK=tiny for a quick look at the plumbing
	@tests/scripts/demo.sh $(PACK)

test: ## Every check and every test; PACK=starter for those of the large language model, too
	@tests/scripts/test.sh

bench: setup-bench build ## Every figure of SPECIFICATION.md, against its peer, into benches/results
	@benches/run.sh

fuzz: ## Fuzz every parser of bytes from outside; LIMIT=60 seconds each
	@tests/scripts/fuzz.sh $(LIMIT)

lint: ## Format, clippy, documentation and licences, without running anything
	@tests/scripts/test.sh lint

build: ## The three executables, in the one profile that is tested and shipped
	@cargo build --locked --release --workspace --bins

engine-cuda: setup-demo ## The engine for NVIDIA's cards, without one, half an hour, once; CALLBOX_CUDA_ARCHS=90 for one kind of them
	@packaging/cuda/build.sh

test-gpu: setup-demo build ## Is what the card at hand computes right? Without one: dist/callbox-gpu.tar.gz to carry to one, and status 3
	@callbox models pull kokoro-82m
	@packaging/cuda/gpu.sh test

bench-gpu: setup-demo build ## How fast is the card at hand? benches/results/CARD-bench.json; without one as test-gpu
	@callbox models pull kokoro-82m
	@packaging/cuda/gpu.sh bench

packages: setup-packages build ## The .deb and the .rpm in dist/, with their signed repositories; for cards, too, after engine-cuda
	@packaging/build.sh dist
	@packaging/cuda/package.sh dist
	@packaging/publish.sh dist

test-packages: setup-packages build ## Install, start, call, upgrade, remove the packages in machines with a real systemd
	@callbox models pull tiny
	@tests/package/test.sh

models: build ## Fetch and verify a model pack: PACK=starter or PACK=tiny
	@callbox models pull $(PACK)

setup: ## Install the system packages that building, running and testing need
	@tests/scripts/setup.sh build run test packages

setup-demo:
	@tests/scripts/setup.sh build run

setup-packages:
	@tests/scripts/setup.sh build run packages

setup-bench:
	@tests/scripts/setup.sh build run test bench
