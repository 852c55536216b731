# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Builds, tests and shows memsrv. `make help` says what there is.
#
# Everything that compiles runs in a cached Debian root (qemu-test/env/in-root) that holds exactly the
# compilers of the test kernel; only where the running kernel has Rust metadata of its own does plain
# `make` build the module for that kernel, with this machine's compilers.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory --no-builtin-rules

B := build
ENV := qemu-test/env
ROOT := $(ENV)/in-root
STEP := @$(ENV)/step.sh
TRIPLE := x86_64-unknown-linux-gnu
CARGO_OUT := $(B)/cargo/$(TRIPLE)
JOBS := $(shell nproc)

# The running kernel is taken when it can be built for: Rust metadata, and rustc its own.
RUNNING := /lib/modules/$(shell uname -r)/build
running_rustc := $(shell sed -n 's/^CONFIG_RUSTC_VERSION_TEXT="\(.*\)"/\1/p' $(RUNNING)/.config 2>/dev/null)
running_ok := $(and $(wildcard $(RUNNING)/rust/libkernel.rmeta),$(wildcard $(RUNNING)/rust/libmacros.so),\
	$(if $(running_rustc),$(filter-out 0,$(shell [ "$$(rustc --version 2>/dev/null)" = '$(running_rustc)' ] && echo 1 || echo 0))))

.PHONY: all help prepare user tools test-module debug-module running-module demo test test-faults test-debug bench bench-links bench-apps bench-cost bench-server bench-keep check clean distclean refresh

all: user $(if $(running_ok),running-module,test-module) ## build/memsrv.ko, build/memsrvd, build/memsrvctl
	$(if $(running_ok),,@ln -sfn test/memsrv.ko $(B)/memsrv.ko)
	@echo "built: $(B)/memsrv.ko (for $(if $(running_ok),the running kernel,$$(cat $(B)/kernel/release))), $(B)/memsrvd, $(B)/memsrvctl"

help: ## this list
	@echo 'memsrv: another machine'"'"'s RAM as the next level of memory.'
	@echo
	@sed -n 's/^\([a-z][a-z -]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 26
	@echo
	@echo '  make test FILTER=word   only the guest scenarios whose name contains word (so does test-debug)'
	@echo '  make test-faults RESUME=1   goes on with a run that was interrupted (so does test-debug)'
	@echo '  make ... V=1            show the output of each step as it comes'
	@echo
	@echo 'What is fetched and prepared is kept in $${MEMSRV_CACHE:-~/.cache/memsrv}.'

prepare: ## host packages, build root, test kernel and guest image, into the cache
	@$(ENV)/prepare.sh all

prepare-build:
	@$(ENV)/prepare.sh kernel
.PHONY: prepare-build

refresh: ## look for a newer test kernel
	@$(ENV)/prepare.sh --refresh all

# Static programs (userspace-server/.cargo/config.toml): they run on any x86-64 Linux, initramfs included.
cargo_static = $(ROOT) env -C userspace-server \
	cargo build --locked --target $(TRIPLE)

user: prepare-build
	$(STEP) 'memsrvd and memsrvctl' -- $(cargo_static) --release -p memsrvd -p memsrvctl
	@install -m 755 $(CARGO_OUT)/release/memsrvd $(CARGO_OUT)/release/memsrvctl $(B)/

tools: prepare-build
	$(STEP) 'the test harness and its guest agent' -- $(cargo_static) --profile tools -p qemu-test -p qemu-test-agent
	@install -m 755 $(CARGO_OUT)/tools/qemu-test $(CARGO_OUT)/tools/qemu-test-agent $(B)/

# Of its own, for `make demo` shall not wait for what it draws with.
pictures: prepare-build
	$(STEP) 'qemu-test-pictures, which draws' -- $(cargo_static) --profile tools -p qemu-test-pictures
	@install -m 755 $(CARGO_OUT)/tools/qemu-test-pictures $(B)/
.PHONY: pictures

race: prepare-build
	$(STEP) 'memsrv-race, which measures servers' -- $(cargo_static) --release -p memsrv-loadgen --bin memsrv-race
	@install -m 755 $(CARGO_OUT)/release/memsrv-race $(B)/
.PHONY: race

# $(call module,TREE,DIRECTORY): kbuild out of tree, its products in build/.
module = $(MAKE_IN) -j$(JOBS) -C $(1) M=$(CURDIR) MO=$(CURDIR)/$(B)/$(2) \
	CC=$(or $(MODULE_CC),x86_64-linux-gnu-gcc-14) modules

test-module: MAKE_IN = $(ROOT) make
test-module: prepare-build
	@mkdir -p $(B)/module-test $(B)/test
	$(STEP) "memsrv.ko for $$(cat $(B)/kernel/release)" -- \
		$(call module,$$(readlink -f $(B)/kernel/build),module-test)
	@install -m 644 $(B)/module-test/memsrv.ko $(B)/test/memsrv.ko
	@$(ROOT) strip --strip-debug $(B)/test/memsrv.ko # the guest keeps it in RAM

debug-module: MAKE_IN = $(ROOT) make
debug-module: MODULE_CC = clang
debug-module: prepare-build
	@$(ENV)/kernel-debug.sh
	@mkdir -p $(B)/module-debug $(B)/debug
	$(STEP) 'memsrv.ko for the debug kernel' -- \
		$(call module,$$(readlink -f $(B)/kernel-debug/build),module-debug)
	@install -m 644 $(B)/module-debug/memsrv.ko $(B)/debug/memsrv.ko
	@$(ROOT) strip --strip-debug $(B)/debug/memsrv.ko

running-module: MAKE_IN = env -u MAKEFLAGS make
running-module:
	@mkdir -p $(B)/module
	$(STEP) "memsrv.ko for the running kernel, $$(uname -r)" -- $(MAKE_IN) -j$(JOBS) -C $(RUNNING) \
		M=$(CURDIR) MO=$(CURDIR)/$(B)/module modules
	@rm -f $(B)/memsrv.ko && install -m 644 $(B)/module/memsrv.ko $(B)/memsrv.ko

guest-ready: prepare
	@$(MAKE) user tools test-module
.PHONY: guest-ready

demo: ## a guest of 256 MB runs programs of several times that on a server's RAM
	@start=$$(date +%s); $(MAKE) guest-ready; $(ENV)/as-root $(B)/qemu-test demo --since $$start

test: guest-ready ## every test; last line: N passed, N failed
	@$(ENV)/as-root $(ENV)/run-tests.sh $(FILTER)

test-faults: guest-ready ## the fault matrix: each fault at each moment in each mode; build/faults.md
	@$(ENV)/as-root $(B)/qemu-test faults $(RESUME:%=--resume) $(FILTER)

test-debug: prepare ## the guests' tests on a kernel with KASAN and lockdep: hours, and half an hour to build it
	@$(MAKE) user tools debug-module
	@$(ENV)/as-root $(ENV)/run-tests.sh --kernel debug $(RESUME:%=--resume) $(FILTER)

bench: guest-ready pictures ## how long a page takes, beside nbd, a RAM disk and a ping-pong
	@$(ENV)/as-root $(B)/qemu-test bench $(if $(QUICK),--quick)

bench-apps: guest-ready pictures ## how much longer programs take with less memory than they need, beside nbd and zram
	@$(ENV)/as-root $(B)/qemu-test bench-apps $(if $(QUICK),--quick)

bench-links: guest-ready pictures ## how long a page takes over narrow links, beside nbd
	@$(ENV)/as-root $(B)/qemu-test bench-links $(if $(QUICK),--quick)

bench-cost: guest-ready ## instructions for a page, held to Documentation/benchmarks/cost.json
	@$(ENV)/as-root $(B)/qemu-test bench-cost

bench-server: prepare ## the server beside nbdkit, redis and a bare echo server; with QUICK=1 a part of it
	@$(MAKE) user tools race pictures
	@$(ENV)/as-root $(B)/qemu-test bench-server $(if $(QUICK),--quick)

bench-keep: tools pictures ## the last full runs of bench, bench-links, bench-apps and bench-server, with pictures and machine, into Documentation/benchmarks/run
	@$(B)/qemu-test bench-keep

check: MAKE_IN = $(ROOT) make
check: prepare-build ## the cheap gates: formatting, lints, documentation
	$(STEP) 'rustfmt --check' -- $(ROOT) env -C userspace-server cargo fmt --all --check
	$(STEP) 'rustfmt --check of the module' -- $(ROOT) rustfmt --edition 2021 --check drivers/memsrv/memsrv_main.rs
	@mkdir -p $(B)/module-clippy
	$(STEP) "clippy of the module, with the kernel's lints" -- $(call module,$$(readlink -f $(B)/kernel/build),module-clippy) \
		CLIPPY=1 KRUSTFLAGS=-Dwarnings
	$(STEP) 'clippy' -- $(ROOT) env -C userspace-server cargo clippy --locked --workspace --all-targets -- -D warnings
	$(STEP) 'rustdoc' -- $(ROOT) env -C userspace-server RUSTDOCFLAGS='-D warnings' \
		cargo doc --locked --workspace --no-deps --document-private-items

clean: ## what was built, not the cache
	rm -rf $(B)

distclean: clean ## the cache too
	@cache="$${MEMSRV_CACHE:-$${XDG_CACHE_HOME:-$$HOME/.cache}/memsrv}"; echo "rm -rf $$cache"; \
		$(ENV)/as-root rm -rf --one-file-system "$$cache"
