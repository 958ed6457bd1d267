# SPDX-License-Identifier: Apache-2.0
# Every target makes its own virtual environment first. Variables: INVENTORY, ARGS (to ansible-playbook), NAME (of a scenario).
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup preflight lab lab-destroy unit test test-all scenario lint verify bench lock

INVENTORY ?= inventories/lab/hosts.yml
ARGS ?=
# One scenario a role group, on the shared lab hosts, in this order.
SCENARIOS ?= $(sort $(notdir $(patsubst %/molecule.yml,%,$(wildcard molecule/*/molecule.yml))))

export INVENTORY ARGS SCENARIOS
export LC_ALL := C.UTF-8
export PYTHONUTF8 := 1
export PYTHONUNBUFFERED := 1
export PATH := $(CURDIR)/.venv/bin:$(PATH)

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

setup: ## make the virtual environment (every other target does it by itself)
	@scripts/preflight python
	@scripts/setup

preflight: ## say in one error what this machine lacks for the lab, or install it where that is possible
	@scripts/preflight lab

lab: ## build the whole site on this machine and end with its verdict (INVENTORY=… for a twin of your own site)
	@scripts/preflight lab
	@scripts/setup
	@scripts/lab up

lab-destroy: setup ## take the lab's hosts, networks and state away
	@scripts/lab down

unit: setup ## the unit tests
	@scripts/test unit

test: ## unit tests, the lab from scratch or from any wreck, then its scenarios
	@scripts/preflight lab
	@scripts/setup
	@scripts/test all

test-all: ## lint, test, every scenario (hours) and the cost budget of a run that changes nothing
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory test
	@scripts/test scenarios
	@$(MAKE) --no-print-directory bench

scenario: setup ## one scenario on the running lab (those of tests/stacks need none): make scenario NAME=outage
	@scripts/test scenario "$(NAME)"

lint: setup ## everything that can be known without running it
	@scripts/lint

verify: setup ## the verdict of a running site: make verify ARGS='-e profile=full'
	@ansible-playbook -i $(INVENTORY) playbooks/verify.yml $(ARGS)

bench: setup ## what runs and verdicts cost, also on 1000 hosts, our checks and artifacts against the products' own and Ansible's tools; fails over the budgets
	@scripts/preflight stacks
	@over=; measure() { echo "== $$1"; python "$$@" || over="$$over $$1"; }; \
	measure bench/zones.py; \
	measure scripts/bench.py --inventory $(INVENTORY); \
	measure bench/health.py --inventory $(INVENTORY); \
	measure bench/verify.py --inventory $(INVENTORY); \
	measure bench/push.py --inventory $(INVENTORY); \
	if [ -n "$$HNAI_BENCH_PEER" ]; then measure bench/peer.py --inventory $(INVENTORY); else echo "peer: not measured, HNAI_BENCH_PEER names no checkout"; fi; \
	measure bench/opcua_audit.py; \
	measure bench/scale.py; \
	[ -z "$$over" ] || { echo "over a budget, or not measured:$$over" >&2; exit 1; }

lock: setup ## renew requirements*.txt and the artifact locks from the newest releases that the pins allow
	@scripts/lock
