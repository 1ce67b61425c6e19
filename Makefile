# deskgate's chores, one command each.
#
#   make demo     two desktops in the browser, on http://localhost:30443/
#   make test     everything: unit, behaviour and end-to-end tests, and the manifests
#   make slow     tunnels in real time (five minutes of silence), and thousands more of them
#   make chaos    what is around it fails, each thing for two minutes (CHAOS=seconds)
#   make soak     two hours of 2,000 tunnels and mixed traffic (SOAK=seconds): nothing grows
#   make manifests
#                 conf/kubernetes against Kubernetes' schemas and what abcdesktop expects of its edge
#   make conformance TARGET=http://host:port KEYS=folder [PROFILE=abcdesktop-3] [PODS=a,b]
#                 what another gateway does otherwise; PODS are the addresses of two desktops
#   make lint     format, clippy, documentation, licences
#   make bench    micro-benchmarks of the hot rooms, then tunnels and HTTP against nginx and HAProxy, and
#                 the figures into docs/performance.md and docs/capacity.md
#   make bench WORK=api,tls [ROUNDS=3]
#                 only such works of HTTP; WORK=list names them
#   make fuzz     a short fuzz of everything that eats a client's bytes
#   make image    checks and builds the container image
#   make release  the release: optimised for what the benches do, without folders and times of its build in
#                 it (PROFILE=folder takes a profile that is there)
#   make sbom     what the release is made of, as CycloneDX: target/deskgate.cdx.json
#
# Missing tools are installed by scripts/setup, which needs root for Debian packages.

CARGO ?= cargo
NOVNC := target/tools/node_modules/@novnc/novnc

.PHONY: demo test slow chaos soak manifests conformance lint bench fuzz image release sbom clean

demo:
	scripts/setup build demo
	$(CARGO) run --locked -- demo --novnc $(NOVNC) --admin 127.0.0.1:9180

test: manifests
	scripts/setup build test
	$(CARGO) test --locked --no-fail-fast

slow:
	scripts/setup build test
	DESKGATE_SLOW=1 $(CARGO) test --locked --test behaviour -- tunnels:: --nocapture

CHAOS ?= 120
chaos:
	scripts/setup build test
	DESKGATE_CHAOS=$(CHAOS) $(CARGO) test --locked --test behaviour -- chaos:: --nocapture

SOAK ?= 7200
soak:
	scripts/setup build test
	DESKGATE_SOAK=$(SOAK) $(CARGO) test --locked --test behaviour -- soak:: --nocapture

manifests:
	scripts/setup manifests
	target/tools/venv/bin/python tests/manifests/check.py --self-test

conformance:
	scripts/setup build
	CONFORMANCE_TARGET=$(TARGET) CONFORMANCE_KEYS=$(KEYS) CONFORMANCE_PROFILE=$(PROFILE) \
		CONFORMANCE_PODS=$(PODS) $(CARGO) test --locked --test behaviour -- \
		conformance::another_gateway --exact --nocapture

lint:
	scripts/setup build
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --no-default-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps
	scripts/supply-chain

bench:
	scripts/setup build bench
ifndef WORK
	$(CARGO) bench --locked --bench hot_path
	$(CARGO) bench --locked --bench tunnels
endif
	$(CARGO) bench --locked --bench http -- $(addprefix --only ,$(WORK)) $(addprefix --rounds ,$(ROUNDS))
ifndef WORK
	$(CARGO) bench --locked --bench http -- --document docs
endif

fuzz:
	scripts/setup build
	scripts/fuzz

image:
	scripts/setup container
	scripts/container-check

release:
	scripts/setup build profile
ifndef PROFILE
	scripts/profile
endif
	scripts/release --profile $(or $(PROFILE),target/deskgate.profile)

sbom:
	scripts/setup build sbom
	scripts/sbom

clean:
	$(CARGO) clean
