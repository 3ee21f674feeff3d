#!/usr/bin/env bash
# Runs tests of the store and of scrapes under ThreadSanitizer, which watches every access to memory.
# Advisory, and no part of tests/run.sh: the standard library that comes with the toolchain is not
# instrumented, so that orders which it makes are not always seen. What is reported falsely for
# that reason is suppressed in thread_sanitizer.supp, each with its reason.
#
# First shows that a planted race is found, then prints how many reports there are and the first
# lines of each. Exit code 1 if there is one. Needs the nightly toolchain:
#   rustup toolchain install nightly
#
# Reads   CARGO_TARGET_DIR   builds and reports are in thread_sanitizer/ below it
#         CARGO              what to build with, cargo unless set
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly triple=x86_64-unknown-linux-gnu
# Generic code of the standard library, atomics among it, is compiled here and not taken from there,
# so that it is instrumented.
readonly flags="-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer -Zshare-generics=no"
readonly suppressions=$PWD/tests/torture/thread_sanitizer.supp

# What is run: the store and scrapes within the process of the tests. The daemon itself has another
# allocator, which is not instrumented, so that memory it uses again would be reported.
readonly lib_tests=(store:: metrics:: server::scrapes server::tests)
readonly it_tests=(store::)

mkdir -p "${CARGO_TARGET_DIR:=target}/thread_sanitizer"
place=$(cd "$CARGO_TARGET_DIR/thread_sanitizer" && pwd)
readonly place
export CARGO_TARGET_DIR=$place
export CARGO_PROFILE_DEV_DEBUG=line-tables-only
export TALLYD_TEST_SCALE=${TALLYD_TEST_SCALE:-0.05} # each access costs ten times what it does else

# Two threads that write to the same place: what is looked for must be found where it is.
check_planted_race() {
    cat >"$place/race.rs" <<'RUST'
static mut COUNT: u64 = 0;
fn main() {
    let count = || (0..1_000).for_each(|_| unsafe { COUNT += 1 });
    let other = std::thread::spawn(count);
    count();
    other.join().unwrap();
}
RUST
    # shellcheck disable=SC2086 # several words
    rustc +nightly --edition 2021 $flags -o "$place/race" "$place/race.rs"
    if TSAN_OPTIONS="suppressions=$suppressions" "$place/race" 2>"$place/race.log"; then
        printf 'the planted race was not found\n'
        return 1
    fi
    grep -q 'WARNING: ThreadSanitizer: data race' "$place/race.log"
    printf 'the planted race was found\n'
}

# Runs the tests of one binary whose names begin so; the reports go to files.
run() {
    local executable=$1
    shift
    # Those of loom know one thread only; the recount takes steps of some milliseconds, which are many
    # more here.
    "$executable" --test-threads 2 --skip interleavings --skip a_recount_allows "$@" || {
        printf 'red: %s\n' "$executable"
        red=1
    }
}

main() {
    local red=0
    check_planted_race
    RUSTFLAGS=$flags "${CARGO:-cargo}" +nightly test --no-run --locked --target "$triple" \
        --lib --test it 2>&1 | tee "$place/build.log"
    executable() {
        sed -n "s|^ *Executable .*$1 (\(.*\))\$|\1|p" "$place/build.log"
    }
    rm -f "$place"/report.*
    export TSAN_OPTIONS="suppressions=$suppressions log_path=$place/report exitcode=0 history_size=7 \
print_suppressions=1"
    run "$(executable src/lib.rs)" "${lib_tests[@]}"
    run "$(executable tests/it/main.rs)" "${it_tests[@]}"
    local reports
    reports=$(cat "$place"/report.* | grep -c 'WARNING: ThreadSanitizer' || true)
    printf '%s reports that are not suppressed, in %s\n' "$reports" "$place/report.*"
    grep -h '^SUMMARY' "$place"/report.* | sort | uniq -c | sort -rn || true
    printf 'suppressed:\n'
    grep -hE '^[0-9]+ race' "$place"/report.* || true
    ((reports == 0 && red == 0))
}

main "$@"
