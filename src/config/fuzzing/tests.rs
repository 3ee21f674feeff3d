//! The properties hold for the seeds, for configurations that are almost right, and for any text.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::{TOKENS, config};
use crate::fuzzing::inputs::{hold_for_any, hold_for_seeds};

const TOP: &[&str] = &[
    "listen = \"127.0.0.1:8255\"",
    "listen = \"0.0.0.0:80\"",
    "metrics_listen = \"[::1]:0\"",
    "metrics_listen = \"127.0.0.1:8255\"",
    "data = \"a \\\"b\\\"\\\\\\u0001.db\"",
    "data = ':memory:'",
    "backup_dir = '/tmp/\u{9b}31m'",
    "drain_timeout = \"86400000ms\"",
    "strict_queues = true",
    "max_queues = 1",
    "max_pairs = 0x1f",
    "max_payload = 1048577",
    "max_payload = \"16MiB\"",
    "hosts = [\"A.example.\", \"b..\", \"c\"]",
    "hosts = []",
    "log_format = \"xml\"",
    "log_level = \"trace\"",
    "insecure = true",
    "token_file = \"tokens.toml\"",
    "no\u{301} = 1",
    "\"\\u009b1\" = 1",
];

const POLICY: &[&str] = &[
    "max_attempts = 1",
    "timeout = \"0s\"",
    "lease = \"3600s\"",
    "backoff = { initial = \"1ms\", factor = 1e2, max = \"720h\", jitter = -0.0 }",
    "backoff.jitter = 1_0e-324",
    "backoff = { factor = nan }",
    "keep_completed = \"3650d\"",
    "max_completed = +0",
    "keep_dead = \"0ms\"",
    "max_dead = \"none\"",
    "max_depth = 1_000_000_000",
    "max_depth = 0",
];

const QUEUE: &[&str] = &[
    "concurrency = 10000",
    "kinds = [\"a\", \"b\"]",
    "kinds = [\"a\", \"a\"]",
    "exec = { command = [\"/bin/true\", \"\\n\"], env = { A = \"s3cr3tS3CR3T\", _b = \"'''\\\"\" } }",
    "exec = { command = [\"x\"], dir = \"\\t\", limits = { memory = 1099511627775, cpu = \"60000ms\", files = 16 } }",
    "exec = { command = [\"\"], env = { TALLYD_A = \"s3cr3tS3CR3T\", B = \"\\u0000\", c = 1 } }",
    "http = { url = \"http://u:s3cr3tS3CR3T@h/\" }",
    "http = { url = \" HTTPS://ä.example:1/?q#f \", secret = \"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\" }",
    "http = { url = \"http://[::1]\", secret = \"whsec_s3cr3tS3CR3T\", connect_timeout = \"100ms\" }",
    "http = { url = \"http://h\", headers = { Authorization = \"Bearer s3cr3tS3CR3T\", x-a = \"\" } }",
    "http = { url = \"http://h\", headers = { host = \"s3cr3tS3CR3T\", \"b c\" = \" \", X = \"1\", x = \"2\" } }",
];

const TOKEN: &[&str] = &[
    "name = \"app\"",
    "name = \"tallyd_s3cr3tS3CR3T\"",
    "sha256 = \"2BB80D537B1DA3E38BD30361AA855686BDE0EACD7162FEF6A25FE97BF527A25b\"",
    "sha256 = \"tallyd_s3cr3tS3CR3T\"",
    "roles = [\"create\", \"work\", \"work\"]",
    "roles = [\"metrics\"]",
    "roles = [\"tallyd_s3cr3tS3CR3T\"]",
    "queues = [\"a\", \"b:c\"]",
    "queues = []",
    "expires_at = 2027-12-31T23:59:60.5+14:00",
    "expires_at = \"-000001-01-01T00:00:00Z\"",
    "expires_at = 1979-05-27",
];

const HEADS: &[&str] =
    &["defaults", "queues.a", "queues.default", "queues.\"a b\"", "queues.c.http"];

/// What damages TOML.
const DAMAGES: &[&str] = &[
    "\"",
    "'''",
    "=",
    "[",
    "]",
    "}",
    "\\",
    "\n",
    "#",
    "\u{9b}",
    "\0",
    "\r",
    ".",
    "1979-05-27",
    ",",
];

/// Keys, some of them twice, which are mistakes then.
fn keys(of: &'static [&'static str]) -> impl Strategy<Value = String> {
    vec(select(of), 0..4).prop_map(|mut keys| {
        keys.dedup_by_key(|key| key.split(['=', '.']).next());
        keys.join("\n") + "\n"
    })
}

fn any_tokens() -> impl Strategy<Value = String> {
    let whole = Just(format!("[[tokens]]\n{}\n{}\n{}\n", TOKEN[0], TOKEN[2], TOKEN[4]));
    let token = keys(TOKEN).prop_map(|keys| format!("[[tokens]]\n{keys}"));
    vec(prop_oneof![whole, token], 0..3).prop_map(|tokens| tokens.concat())
}

fn any_config() -> impl Strategy<Value = String> {
    let table = (select(HEADS), keys(POLICY), keys(QUEUE)).prop_map(|(head, policy, queue)| {
        let queue = if head == "defaults" { String::new() } else { queue };
        format!("[{head}]\n{policy}{queue}")
    });
    let parts = (keys(TOP), vec(table, 0..3), any_tokens(), any_tokens());
    parts.prop_map(|(top, tables, tokens, file)| {
        format!("{top}{}{tokens}{TOKENS}{file}", tables.concat())
    })
}

#[test]
fn settings_survive_being_printed_and_mistakes_are_told_without_secrets() {
    hold_for_seeds("config", config);
    hold_for_any(2_000, &any_config(), |text| config(text.as_bytes()));
    let damaged = (any_config(), any::<Index>(), select(DAMAGES));
    hold_for_any(2_000, &damaged, |(mut text, place, damage)| {
        let mut at = place.index(text.len() + 1);
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        text.insert_str(at, damage);
        config(text.as_bytes());
    });
    hold_for_any(1_000, &vec(any::<u8>(), 0..200), |bytes| config(&bytes));
}

#[test]
fn a_configuration_of_one_thing_again_and_again_holds_no_more_than_its_share() {
    let repeated = |part: &str| part.repeat(4_000);
    for text in [
        format!("a = {}", repeated("[")),
        format!("a = {}", repeated("{a=")),
        format!("{}a = 1", repeated("a.")),
        (0..200).map(|number| format!("{}a{number} = 1\n", "a.".repeat(70))).collect(),
        (0..200).map(|number| format!("a{number}.{}a = 1\n", "a.".repeat(70))).collect(),
        format!("[{}a]", repeated("a.")),
        format!("a = [{}]", repeated("1,")),
        format!("a = [{}]", repeated("{},")),
        format!("hosts = [{}]", repeated("\"\",")),
        format!("hosts = [{}]", repeated("1,")),
        format!("a = \"{}\"", repeated("\\n")),
        format!("a = {}", repeated("1")),
        format!("{} = 1", repeated("a")),
        format!("[queues.{}]\n{}", repeated("a"), "a=1\nb=1\nc=1\nd=1\ne=1\nf=1\n"),
        (0..4_000).map(|number| format!("a{number}=1\n")).collect(),
        (0..4_000).map(|number| format!("[queues.a{number}]\n")).collect(),
        repeated("[[tokens]]\n"),
        repeated("[[a]]\n"),
        repeated("\n"),
        repeated("#"),
        repeated("a = 1\n"),
    ] {
        config(text.as_bytes());
        config(format!("token_file = \"tokens.toml\"{TOKENS}{text}").as_bytes());
    }
}
