#!/usr/bin/env bash
# Tests the tests: applies each patch of tests/torture/breakages/ to a copy of the tree, one at a
# time, and runs the tests that it names, which must go red. They are run unpatched first, and must
# be green.
#
#   tests/torture/breakages.sh             all of them, half an hour or more
#   tests/torture/breakages.sh NAME...     these only
#
# Says of each patch whether its tests went red. Exit code 1 if one stayed green, or a patch did not
# apply or build. `./tests/run.sh tools` and `. target/tools.env` come first.
#
# Reads   CARGO_TARGET_DIR   the copy, its builds and the logs are in breakages/ below it
#         CARGO              what to build with, cargo unless set
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly patches=$PWD/tests/torture/breakages
readonly patience=300 # seconds; a test that takes longer hangs, which is red as well

mkdir -p "${CARGO_TARGET_DIR:=target}/breakages"
place=$(cd "$CARGO_TARGET_DIR/breakages" && pwd)
readonly place tree=$place/tree daemon=$place/target/debug/tallyd
export CARGO_TARGET_DIR=$place/target
export CARGO_INCREMENTAL=1
export GIT_CEILING_DIRECTORIES=$place # the copy is no part of the repository around it
mkdir -p "$tree" "$place/logs"

# Makes the copy what the tree is; what is the same keeps its time, so that it is not built again.
copy_tree() {
    local file
    git ls-files -z --cached --others --exclude-standard >"$place/files"
    while IFS= read -r -d '' file; do
        if [[ -f $file ]] && ! cmp -s "$file" "$tree/$file"; then
            mkdir -p "$tree/$(dirname "$file")"
            cp "$file" "$tree/$file"
        fi
    done <"$place/files"
    (cd "$tree" && find src tests -type f -print0) >"$place/copied"
    while IFS= read -r -d '' file; do
        [[ -f $file ]] || rm "$tree/$file"
    done <"$place/copied"
}

# The tests that a patch names, as `BINARY NAME` a line.
named_by() {
    sed -n 's/^Red: *//p' "$patches/$1.patch"
}

# Builds the test binaries and the daemon as they are, and keeps them. Tests that start the daemon
# are not built again for a patch: they find the patched one in the place of theirs.
build_unpatched() {
    local stamp log=$place/logs/unpatched.log binary executable
    stamp=$(cd "$tree" && xargs -0 sha256sum <"$place/copied" | sha256sum)
    [[ ! -e $place/stamp || $(<"$place/stamp") != "$stamp" ]] || return 0
    rm -rf "${place:?}"/{stamp,bin,green}
    mkdir "$place/bin" "$place/green"
    (cd "$tree" && "${CARGO:-cargo}" test --no-run --locked --lib --test it --test torture) \
        >"$log" 2>&1 || {
        cat "$log"
        return 1
    }
    for binary in lib it torture; do
        local source=tests/$binary/main.rs
        [[ $binary != lib ]] || source=src/lib.rs
        executable=$(sed -n "s|^ *Executable .*$source (\(.*\))\$|\1|p" "$log")
        cp "$executable" "$place/bin/$binary"
    done
    cp "$daemon" "$place/bin/tallyd"
    printf '%s\n' "$stamp" >"$place/stamp"
}

# Runs one test of a test binary: 0 green, 1 red, 3 no such test.
run_test() {
    local executable=$1 name=$2 log=$3
    (cd "$tree" && timeout --kill-after=10 "$patience" "$executable" --exact "$name") >>"$log" 2>&1 ||
        return 1
    grep -q '^test result: ok. 1 passed' "$log" || return 3
}

# Builds what a test needs of the patched copy, and runs it: 2 not built, else as above.
run_patched() {
    local binary=$1 name=$2 log=$3 executable=$place/bin/$1 what=(build --bin tallyd)
    case "$binary $name" in
        lib*) what=(test --no-run --lib) ;;
        "it store::"*) what=(test --no-run --test it) ;; # calls the store itself
        "torture power_cut::"* | "torture commands::a_leftover_"* | \
            "torture hot_spots::jobs_that_fail_together_are_"*) # so do these
            what=(test --no-run --test torture)
            ;;
    esac
    (cd "$tree" && "${CARGO:-cargo}" "${what[@]}" --locked) >"$log" 2>&1 || return 2
    [[ ${what[0]} == build ]] || executable=$(sed -n 's/^ *Executable .* (\(.*\))$/\1/p' "$log")
    run_test "$executable" "$name" "$log"
}

# Runs the tests of these patches on the copy as it is, unless they were green before.
check_unpatched() {
    local binary name log failed=0
    rm -f "$daemon"
    cp "$place/bin/tallyd" "$daemon"
    while read -r binary name; do
        log=$place/logs/unpatched-$binary-${name//:/-}.log
        [[ ! -e $place/green/$binary-$name ]] || continue
        : >"$log"
        if run_test "$place/bin/$binary" "$name" "$log" </dev/null; then
            touch "$place/green/$binary-$name"
        else
            printf '%-28s %s, unpatched: see %s\n' "NOT GREEN" "$binary $name" "$log"
            failed=1
        fi
    done < <(for patch in "$@"; do named_by "$patch"; done | sort -u)
    return "$failed"
}

# Applies one patch, runs its tests, and takes it back.
check_patch() {
    local patch=$1 file=$patches/$1.patch binary name log result failed=0
    if ! (cd "$tree" && git apply "$file"); then
        printf '%-28s DOES NOT APPLY\n' "$patch"
        return 1
    fi
    while read -r binary name; do
        log=$place/logs/$patch-$binary-${name//:/-}.log
        result=0
        run_patched "$binary" "$name" "$log" </dev/null || result=$?
        case $result in
            0) result="STAYS GREEN" ;;
            1) result="red as it must" ;;
            2) result="DOES NOT BUILD" ;;
            3) result="NO SUCH TEST" ;;
        esac
        [[ $result == red* ]] || failed=1
        printf '%-28s %-16s %s %s\n' "$patch" "$result" "$binary" "$name"
    done < <(named_by "$patch")
    (cd "$tree" && git apply --reverse "$file")
    return "$failed"
}

main() {
    local all=("$@") patch failed=()
    if ((${#all[@]} == 0)); then
        for patch in "$patches"/*.patch; do
            all+=("$(basename "$patch" .patch)")
        done
    fi
    copy_tree
    build_unpatched
    if ! check_unpatched "${all[@]}"; then
        printf 'stopped: red means nothing where unpatched is not green\n'
        return 1
    fi
    printf 'unpatched, all named tests are green\n'
    for patch in "${all[@]}"; do
        check_patch "$patch" || failed+=("$patch")
    done
    printf '%d patches; not red: %d, %s\n' "${#all[@]}" "${#failed[@]}" "${failed[*]:-none}"
    ((${#failed[@]} == 0))
}

main "$@"
