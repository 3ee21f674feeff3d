//! What `[[tokens]]` may say, and what is said about mistakes.

use std::fs;

use super::*;
use crate::config::{Config, Overrides};

const HASH: &str =
    "sha256 = \"2BB80D537B1DA3E38BD30361AA855686BDE0EACD7162FEF6A25FE97BF527A25b\"\n";

fn load(text: &str, tokens: Option<&str>) -> Result<Config, String> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tallyd.toml");
    let token_file = directory.path().join("tokens.toml");
    let named = match tokens {
        Some(tokens) => {
            fs::write(&token_file, tokens).unwrap();
            format!("token_file = {:?}\n{text}", token_file.display())
        }
        None => text.to_owned(),
    };
    fs::write(&file, named).unwrap();
    Config::load(Some(&file), &Overrides::default())
        .map_err(|error| error.to_string().replace(&format!("{}/", directory.path().display()), ""))
}

fn table(name: &str, more: &str) -> String {
    format!("[[tokens]]\nname = \"{name}\"\n{more}")
}

#[test]
fn a_block_is_read_back_as_it_was_written() {
    let token = Token {
        name: "app".into(),
        sha256: Hash(std::array::from_fn(|index| index as u8)),
        roles: [Role::Create, Role::Work].into(),
        queues: Some(["a".into(), "b:c".into()].into()),
        expires_at: "2027-12-31T00:00:00Z".parse().ok(),
    };
    let config = load(&block(&token), None).unwrap();
    assert_eq!(config.tokens.configured, std::slice::from_ref(&token));
    let plain = Token { queues: None, expires_at: None, ..token };
    assert_eq!(load(&block(&plain), None).unwrap().tokens.configured, [plain]);
}

#[test]
fn a_time_may_be_text_and_needs_an_offset() {
    let expiring = |time: &str| {
        let text = table("app", &format!("{HASH}roles = [\"work\"]\nexpires_at = {time}\n"));
        load(&text, None).map(|config| config.tokens.configured[0].expires_at.unwrap().to_string())
    };
    for time in ["2027-01-01T00:00:00Z", "2027-01-01T01:00:00+01:00", "\"2027-01-01T00:00:00Z\""] {
        assert_eq!(expiring(time).as_deref(), Ok("2027-01-01T00:00:00Z"), "{time}");
    }
    for time in ["2027-01-01", "2027-01-01T00:00:00", "\"tomorrow\"", "7"] {
        let said = expiring(time).unwrap_err();
        assert!(
            said.contains("tallyd.toml:5: tokens[0].expires_at must be a time with an offset"),
            "{said}"
        );
    }
}

#[test]
fn a_file_adds_its_tokens_to_those_of_the_configuration() {
    let own = table("app", &format!("{HASH}roles = [\"work\"]\n"));
    let other = table("other", &format!("{}roles = [\"admin\"]\n", HASH.replace("2BB8", "0BB8")));
    let config = load(&own, Some(&other)).unwrap();
    let names: Vec<_> = config.tokens.all().map(|token| token.name.as_str()).collect();
    assert_eq!(names, ["app", "other"]);
    for (tokens, said) in [
        (own.as_str(), "tokens.toml:2: tokens[0].name \"app\" is there twice"),
        (
            &other.replace("0BB8", "2BB8"),
            "tokens.toml:3: tokens[0].sha256 is that of \"app\" as well",
        ),
        ("", "tokens.toml must have [[tokens]]"),
        ("tokens = []", "tokens.toml:1: tokens must have some"),
        ("listen = \"127.0.0.1:1\"", "unknown key listen; valid here are tokens"),
        ("[[tokens]", "tokens.toml:1: "),
    ] {
        let error = load(&own, Some(tokens)).unwrap_err();
        assert!(error.contains(said), "{said}: {error}");
    }
}

#[test]
fn another_file_can_be_named_beside_the_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let [file, tokens] = ["tallyd.toml", "tokens.toml"].map(|name| directory.path().join(name));
    fs::write(&file, "token_file = \"nowhere\"").unwrap();
    fs::write(&tokens, table("app", &format!("{HASH}roles = [\"work\"]\n"))).unwrap();
    let overrides = Overrides { token_file: Some(tokens), ..Overrides::default() };
    assert_eq!(Config::load(Some(&file), &overrides).unwrap().tokens.from_file.len(), 1);
    let error = Config::load(Some(&file), &Overrides::default()).unwrap_err();
    assert_eq!(error.to_string(), "cannot read nowhere");
}

#[test]
fn a_mistake_is_told_with_its_line_and_what_would_be_right() {
    let whole = format!("{HASH}roles = [\"work\"]\n");
    for (text, said) in [
        ("[[tokens]]\n".to_owned(), "tallyd.toml:1: tokens[0] needs name; `tallyd token new NAME`"),
        (table("app", HASH), "tallyd.toml:1: tokens[0] needs roles"),
        (table("app", "roles = [\"work\"]"), "tallyd.toml:1: tokens[0] needs sha256"),
        (table("a b", &whole), "tallyd.toml:2: tokens[0].name must be 1 to 128 of the characters"),
        (
            table("app", &whole.replace("work", "worker")),
            "tokens[0].roles[0] must be metrics, create, exec, work or admin, got \"worker\"",
        ),
        (table("app", &whole.replace("\"work\"", "")), "tokens[0].roles must name some of metrics"),
        (
            table("app", &format!("{whole}queues = []")),
            "tokens[0].queues must name some; leave it out",
        ),
        (
            table("app", &format!("{}queues = [\"a\"]", whole.replace("work", "metrics"))),
            "tokens[0].queues does not limit the role metrics",
        ),
        (
            table("app", &whole.replace("2BB", "xBB")),
            "tokens[0].sha256 must be the SHA-256 of a token in 64",
        ),
        (table("app", &whole.replace("2BB", "+BB")), "tokens[0].sha256 must be the SHA-256"),
        (
            table("app", &format!("{whole}token = \"s3cret\"")),
            "unknown key tokens[0].token; valid here are name, sha256, roles, queues, expires_at",
        ),
        ("tokens = 5".to_owned(), "tokens must be tables, each under [[tokens]], got an integer"),
        ("tokens = [\"tallyd_s3cret\"]".to_owned(), "tokens[0] must be a table, got a string"),
        (table("tallyd_s3cret!", &whole), "tokens[0].name must be 1 to 128 of the characters"),
        ("tokens = []".to_owned(), "tokens must have some; without any, leave it out"),
        (format!("{0}{0}", table("app", &whole)), "tokens[1].name \"app\" is there twice"),
    ] {
        let error = load(&text, None).unwrap_err();
        assert!(error.contains(said), "{said}: {error}");
        assert!(!error.contains("2BB8") && !error.contains("s3cret"), "shown: {error}");
    }
}

#[test]
fn with_tokens_the_server_may_be_reached_from_elsewhere() {
    let open = "listen = \"0.0.0.0:8255\"\n";
    let said = load(open, None).unwrap_err();
    assert!(said.contains("there are no tokens to know callers by"), "{said}");
    let own = table("app", &format!("{HASH}roles = [\"work\"]\n"));
    assert!(load(&format!("{open}{own}"), None).is_ok());
    assert!(load(open, Some(&own)).is_ok());
    let wrong = load(open, Some("")).unwrap_err();
    assert!(!wrong.contains("loopback"), "one mistake at a time: {wrong}");
}

#[test]
fn what_is_printed_tells_no_hash() {
    let config = load(&table("app", &format!("{HASH}roles = [\"work\"]\n")), None).unwrap();
    let text = config.to_toml().unwrap();
    assert!(
        text.contains("[[tokens]]\nname = \"app\"\nsha256 = \"***\"\nroles = [\"work\"]\n"),
        "{text}"
    );
}
