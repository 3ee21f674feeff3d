//! What has no bound, or looks again and again: channels without a limit, polling, global metrics.

use super::source::{Source, Token, starts_with};
use super::{Finding, holds_everywhere, lines_found};

/// Tokio's channels without a limit.
const UNBOUNDED: &[&str] = &["unbounded_channel", "UnboundedSender", "UnboundedReceiver"];

/// Ways to look now and then. The daemon needs none; what is due has a time, and the rest wakes.
const POLLING: &[&str] =
    &["interval", "interval_at", "recv_timeout", "park_timeout", "park_timeout_ms"];

/// What is no part of the daemon and goes by the second: measuring, and the pace of the demonstration.
const PACED: &[&str] = &["src/cli/bench/", "src/cli/demo"];

/// What of prometheus works on the registry of the whole process.
const GLOBAL: &[&str] = &["default_registry", "gather", "register", "unregister"];

fn unbounded_channels(file: &Source) -> Vec<Finding> {
    let complaint = "a channel without a limit; use one with a named constant";
    let names_std = file.positions(&["std", ":", ":", "sync", ":", ":"]).into_iter().any(|index| {
        let rest = &file.tokens[index + 6..];
        let end = rest.first().and_then(Token::closed_at).map_or(1, |end| end - index - 6);
        rest[..end].iter().any(|token| token.text == "mpsc")
    });
    program_words(file, complaint, |word, _| {
        UNBOUNDED.contains(&word) || (names_std && word == "channel")
    })
}

fn polling(file: &Source) -> Vec<Finding> {
    let complaint = "looks now and then; wait for the event, or for the time at which it is due";
    let is_paced = PACED.iter().any(|place| file.path.starts_with(place));
    program_words(file, complaint, |word, _| POLLING.contains(&word) && !is_paced)
}

fn global_metrics(file: &Source) -> Vec<Finding> {
    let complaint = "the registry of the whole process; the daemon has one of its own";
    program_words(file, complaint, |word, index| {
        let after = |path: &[&str]| {
            index >= path.len() && starts_with(&file.tokens[index - path.len()..], path)
        };
        let is_macro = file.tokens.get(index + 1).is_some_and(|token| token.text == "!");
        word == "default_registry"
            || (word.starts_with("register_") && is_macro)
            || (GLOBAL.contains(&word) && after(&["prometheus", ":", ":"]))
    })
}

/// The words of the program, outside its tests, of which `is_wrong` says so.
fn program_words(
    file: &Source,
    complaint: &str,
    is_wrong: impl Fn(&str, usize) -> bool,
) -> Vec<Finding> {
    let words = file.tokens.iter().enumerate().filter(|(_, token)| token.is_word());
    let program = words.filter(|(index, _)| file.is_program() && !file.is_test_at(*index));
    let wrong = program.filter(|(index, token)| is_wrong(&token.text, *index));
    wrong.map(|(_, token)| Finding::new(&file.path, token.line, complaint)).collect()
}

#[test]
fn every_channel_has_a_limit() {
    holds_everywhere(unbounded_channels);
}

#[test]
fn nothing_polls() {
    holds_everywhere(polling);
}

#[test]
fn metrics_are_not_global() {
    holds_everywhere(global_metrics);
}

#[test]
fn unbounded_channels_are_found() {
    let tokio = "use tokio::sync::mpsc;\nuse std::sync::{Arc, Mutex};\n\
                 fn f() { mpsc::channel(8) }\nfn g() { mpsc::unbounded_channel() }\n\
                 struct S(mpsc::UnboundedSender<u8>);\n\
                 #[cfg(test)]\nmod tests { fn h() { unbounded_channel() } }\n";
    assert_eq!(lines_found(unbounded_channels, "src/x.rs", tokio), [4, 5]);
    for import in ["use std::sync::mpsc;", "use std::sync::{Arc, mpsc};"] {
        let text = format!("{import}\nfn f() {{ mpsc::channel() }}\nfn g() {{ sync_channel(1) }}");
        assert_eq!(lines_found(unbounded_channels, "src/x.rs", &text), [2], "{import}");
        assert_eq!(lines_found(unbounded_channels, "tests/it/x.rs", &text), [0_usize; 0]);
    }
    let in_full = "fn f() { std::sync::mpsc::channel() }";
    assert_eq!(lines_found(unbounded_channels, "src/x.rs", in_full), [1]);
}

#[test]
fn polling_is_found() {
    let text = "fn f() { tokio::time::interval(SECOND) }\nfn g() { h.recv_timeout(d) }\n\
                fn i() { std::thread::park_timeout(d) }\n// interval\nfn j() { k(\"interval\") }\n\
                #[cfg(test)]\nmod tests { fn l() { interval(d) } }\n";
    assert_eq!(lines_found(polling, "src/x.rs", text), [1, 2, 3]);
}

#[test]
fn global_metrics_are_found() {
    let text = "fn f() { prometheus::gather() }\nfn g() { register_int_counter!(\"a\", \"b\") }\n\
                fn h() { prometheus::default_registry() }\nfn i() { prometheus::register(j) }\n\
                fn k() { registry.gather(); registry.register(l); register_it(m) }\n";
    assert_eq!(lines_found(global_metrics, "src/metrics.rs", text), [1, 2, 3, 4]);
}
