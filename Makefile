# demo: a private node with pods on it, shown and undone (KEEP=1 leaves it until Enter). test: everything, as root.
# bench: the agent beside bare CRI calls (KUBELET="path and flags" measures another kubelet too; QUICK=1 measures less;
# PROBES=seconds measures probes for so long instead).
# soak: an hour of faults on real containers out of a seed (SOAK_SECONDS, SOAK_SEED); make test has 45 seconds of it.
# check: format, lints, documentation. audit: licences, bans and sources of the dependencies.
# fuzz: the manifest reader against libFuzzer for TIME seconds, from the goldens on. Needs no nightly.
# dist: the static binary with checksums, bill of materials and an archive for install.sh, in target/dist. deb: that as a package.
# test-vm: the package on an emulated Debian 12 with systemd. test-vm-all: on Debian 13 and testing too, of which the last
# is looked at and decides nothing. VM_ONLY=word,word takes the scenarios with one of the words in their name.
# differential: our reader against another, AGAINST="command" (tests/src/bin/differential.rs says what it must speak).
.PHONY: demo test test-vm test-vm-all vm-prepared soak bench check audit fuzz differential dist deb build install-test-packages
VM = program=$$(tests/program tier4_vm) && cd tests && $$program --ignored --nocapture --test-threads=1
demo: dist ; cargo run -q -p tests --bin demo -- $(if $(KEEP),--keep)
test: build dist ; tests/run
test-vm: vm-prepared ; $(VM) debian_12
test-vm-all: vm-prepared ; ($(VM) debian_1) && { ($(VM) debian_testing) || echo "Debian testing failed: see target/vm/debian-testing-console.log; it gates nothing" ; }
vm-prepared: deb build ; tests/install.sh vm
soak: build ; SOAK_SECONDS=$${SOAK_SECONDS:-3600} cargo test -p tests --test tier3_faults a_seeded_schedule -- --nocapture
bench: dist ; cargo run -q -p tests --bin bench -- $(if $(PROBES),--probes $(PROBES),$(if $(QUICK),--quick))
check: install-test-packages ; cargo fmt --all --check && cargo clippy --workspace --all-targets --locked -- -D warnings && RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --no-deps --locked
fuzz: ; static-pods/fuzz/run $(or $(TIME),300)
differential: ; cargo run -q -p tests --bin differential -- $(if $(COUNT),--count $(COUNT)) $(if $(SEED),--seed $(SEED)) --against "$(AGAINST)"
dist: install-test-packages ; systemd/package/dist
deb: dist ; systemd/package/deb
# All targets: what the tests are built with is then built once.
build: install-test-packages ; cargo build --workspace --all-targets --locked
audit: ; command -v cargo-deny >/dev/null || cargo install cargo-deny --locked ; cargo deny check bans licenses sources
install-test-packages: ; tests/install.sh
