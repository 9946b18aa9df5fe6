# Everything an operator or contributor runs. `make help` lists it.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

CARGO   ?= cargo
PREFIX  ?= /usr/local
DESTDIR ?=

bindir         = $(DESTDIR)$(PREFIX)/bin
sharedir       = $(DESTDIR)$(PREFIX)/share
libdir         = $(DESTDIR)$(if $(filter /usr,$(PREFIX)),/usr/lib,$(PREFIX)/lib)
# systemd, sysusers and tmpfiles look below /usr/local/lib as well as below /usr/lib.
unitdir        = $(libdir)/systemd/system
sysconfdir     = $(DESTDIR)/etc/lifeboat
scripts        = scripts/setup scripts/dist scripts/advisories scripts/coverage scripts/fuzz scripts/msrv .ci/run
# Where cargo leaves what it builds. Tests and demo are told, so that they do not build the programs
# again.
built          = $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
# What is installed and packed: release, or dev for a look at packages without a long build.
PROFILE        ?= release
programs       = $(built)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))

.PHONY: help setup demo test lint check book bench coverage fuzz torture soak install dist install-test

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 22

setup: ## install what building, testing and the demo need (idempotent; asks apt and PyPI only for what is missing)
	@scripts/setup

demo: setup ## lose a region, restore from the other, prove it equal: on real servers, report in target/demo/report.json
	$(CARGO) build --locked --workspace --bins
	LIFEBOAT_BIN_DIR='$(built)/debug' '$(built)/debug/demo'

test: lint ## format, lints, the book and all tests, those in documentation too, and three minutes of soak beside them
	scripts/msrv
	$(CARGO) build --locked --workspace --bins --tests
	@scripts/setup --book
	LIFEBOAT_BIN_DIR='$(built)/debug' python3 -B scripts/book
	LIFEBOAT_BIN_DIR='$(built)/debug' CARGO='$(CARGO)' python3 -B scripts/suite

lint: setup check ## format, lints, checks of the repository and of what it depends on
	$(CARGO) fmt --all --check
	shellcheck $(scripts)
	.tools/bin/hadolint packaging/Containerfile
	.tools/bin/cargo-deny --locked check bans licenses sources
	scripts/advisories
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --workspace --no-deps

check: ## checks of the repository alone: circles, commits, documents, links, metrics, names, prose; some, with CHECKS="names prose"
	python3 -B -m unittest discover --quiet scripts/check
	python3 -B -m unittest discover --quiet scripts/book
	python3 -B scripts/check $(CHECKS)

book: setup ## tutorial, how-to, reference and explanation in target/book/index.html; commands as the programs tell them, every link checked
	@scripts/setup --book
	$(CARGO) build --locked --workspace --bins
	LIFEBOAT_BIN_DIR='$(built)/debug' python3 -B scripts/book

coverage: ## which share of the lines the tests reach; a figure, no gate
	@scripts/setup --coverage
	scripts/coverage

fuzz: setup ## every fuzz target for a minute, fails at a finding; SECONDS=60, TARGETS="varint"
	scripts/fuzz $(or $(SECONDS),60) $(TARGETS)

torture: setup ## the model for STEPS=20000, CRASHES=300 killed programs, every kind of fault at every call; SEED=1; one line of sums
	$(CARGO) build --locked --workspace --bins
	LIFEBOAT_BIN_DIR='$(built)/debug' CARGO='$(CARGO)' LIFEBOAT_EVERY_FAULT=1 \
		LIFEBOAT_MODEL_STEPS=$(or $(STEPS),20000) LIFEBOAT_MODEL_SEED=$(or $(SEED),1) \
		LIFEBOAT_CRASHES=$(or $(CRASHES),300) LIFEBOAT_CRASH_SEED=$(or $(SEED),1) python3 -B scripts/torture

soak: setup ## twelve datasets, each backed up every minute, for MINUTES=20, while stores, daemon, disk and clock are disturbed; SEED=; one line of sums
	$(CARGO) build --locked --workspace --bins
	LIFEBOAT_BIN_DIR='$(built)/debug' '$(built)/debug/soak' $(or $(MINUTES),20) $(SEED)

bench: ## speed, memory and size beside peers, into target/bench/; all cases, or CASES="first unchanged"; SIZE= and PG_MIB= in MiB, GIB=, ROUNDS=; BEFORE=DIR beside older programs alone
	@scripts/setup --bench
	$(CARGO) build --locked --release --workspace --bins
	LIFEBOAT_BIN_DIR='$(built)/release' $(if $(BEFORE),LIFEBOAT_BENCH_BEFORE='$(BEFORE)') python3 -B scripts/bench $(if $(SIZE),--mib $(SIZE)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
		$(if $(GIB),--gib $(GIB)) $(if $(PG_MIB),--pg-mib $(PG_MIB)) $(if $(CASES),--case $(CASES))

dist: ## .deb, .rpm, lists of what is linked in, and checksums, into target/dist; the same bytes each time
	@scripts/setup --dist
	scripts/dist

install-test: ## as root, with what make dist packed: lint the packages, install, upgrade and purge them, and the first ten minutes, in fresh Debian 12 and 13
	@scripts/setup --dist
	lintian --fail-on error,warning target/dist/*.deb
	$(CARGO) test --locked --workspace --test install -- --ignored --nocapture --test-threads=1

install: ## install programs, manuals, units and examples; DESTDIR= and PREFIX= as usual
	$(CARGO) build --locked --profile $(PROFILE) $(if $(filter dev,$(PROFILE)),--workspace --bins,--package lifeboat --package lifeboatd --package lifeboat-worker)
	install -d '$(bindir)' '$(unitdir)' '$(libdir)/sysusers.d' '$(libdir)/tmpfiles.d' '$(sysconfdir)' '$(sharedir)/man' \
		'$(sharedir)/bash-completion/completions' '$(sharedir)/zsh/site-functions' '$(sharedir)/fish/vendor_completions.d' '$(sharedir)/lifeboat/s3'
	install -m 0755 '$(programs)/lifeboat' '$(programs)/lifeboatd' '$(programs)/lifeboat-worker' '$(bindir)'
	'$(programs)/lifeboat' man '$(sharedir)/man'
	'$(programs)/lifeboatd' man '$(sharedir)/man'
	install -m 0644 packaging/lifeboat-worker.1 '$(sharedir)/man/man1'
	'$(programs)/lifeboat' completions bash > '$(sharedir)/bash-completion/completions/lifeboat'
	'$(programs)/lifeboat' completions zsh > '$(sharedir)/zsh/site-functions/_lifeboat'
	'$(programs)/lifeboat' completions fish > '$(sharedir)/fish/vendor_completions.d/lifeboat.fish'
	rm -f '$(unitdir)/lifeboat-drill@.timer' # of older versions; lifeboat-drill.timer takes its place
	for unit in lifeboatd.service lifeboat-drill@.service lifeboat-drill.service lifeboat-drill.timer lifeboat-warden.service lifeboat-warden.timer lifeboat-witness.service lifeboat-witness.timer lifeboat-worker.socket lifeboat-worker@.service; do \
		sed 's|/usr/local/bin|$(PREFIX)/bin|' "systemd/$$unit" | install -m 0644 /dev/stdin "$(unitdir)/$$unit"; \
	done
	install -m 0644 systemd/sysusers.conf '$(libdir)/sysusers.d/lifeboat.conf'
	install -m 0644 systemd/tmpfiles.conf '$(libdir)/tmpfiles.d/lifeboat.conf'
	install -m 0644 config/lifeboat.toml '$(sysconfdir)/lifeboat.toml.example'
	install -m 0644 config/minimal.toml config/drill-host.toml config/warden.toml '$(sharedir)/lifeboat'
	install -m 0644 config/prometheus-rules.yml config/grafana-dashboard.json config/drill-report.schema.json '$(sharedir)/lifeboat'
	install -m 0644 config/s3/*.json '$(sharedir)/lifeboat/s3'
	@echo 'Next, on the machine itself: systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload; then README.md'
