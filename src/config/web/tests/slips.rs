//! Slips of the hand that would take a protection away, or show a secret.

use super::*;

/// Such a key has lost all its items to comments, say; what it was to protect would be open.
#[test]
fn a_key_without_a_value_is_refused() {
    let place = Place::new();
    let verified = format!(
        "{TLS}  client_ca_file: cert.pem\n  client_auth_type: RequireAndVerifyClientCert\n"
    );
    let told = |key: &str| format!("{key} must have a value, got nothing; else leave it out");
    for key in ["tls_server_config", "basic_auth_users", "http_server_config", "rate_limit"] {
        for nothing in ["", " ~", " null", "\n  # prometheus: all commented out"] {
            let text = format!("{key}:{nothing}\n");
            assert_eq!(place.mistakes(&text), format!("web.yml:1: {}", told(key)), "{text}");
        }
    }
    for key in ["client_allowed_sans", "min_version", "cipher_suites", "curve_preferences"] {
        let text = format!("{verified}  {key}:\n    # - scraper.example\n");
        let expected = format!("web.yml:6: {}", told(&format!("tls_server_config.{key}")));
        assert_eq!(place.mistakes(&text), expected, "{text}");
    }
    for key in ["client_ca_file", "client_ca", "client_auth_type"] {
        let text = format!("{TLS}  {key}:\n");
        let expected = format!("web.yml:4: {}", told(&format!("tls_server_config.{key}")));
        assert_eq!(place.mistakes(&text), expected, "{text}");
    }
    let expected = format!("web.yml:2: {}", told("http_server_config.headers"));
    assert_eq!(place.mistakes("http_server_config:\n  headers:\n"), expected);
}

#[test]
fn a_user_without_a_space_behind_the_colon_is_told_without_the_password() {
    let place = Place::new();
    let keys = "basic_auth_users must have keys of its own, got a string";
    for secret in [HASH, "tops3cret"] {
        for (text, told) in [
            (format!("basic_auth_users:\n  prometheus:{secret}\n"), keys),
            (format!("basic_auth_users: 'prometheus:{secret}'\n"), keys),
            (format!("basic_auth_users:\n  ada:{secret}\n  bob:{secret}\n"), keys),
            (format!("basic_auth_users: {{prometheus:{secret}}}\n"), "is no name of a user"),
            (
                format!("basic_auth_users:\n  ada: {HASH}\n  bob:{secret}\n"),
                "web.yml:3: the file must be YAML",
            ),
            (format!("basic_auth_users:\n  bob:{secret}\n  ada: {HASH}\n"), "web.yml:"),
            (format!("basic_auth_users:\n- prometheus:{secret}\n"), "own, got a list"),
            (
                format!("basic_auth_users: {{ada:{secret}, ada:{secret}}}\n"),
                "web.yml:1: the file must be YAML: a key is there twice; keep one",
            ),
            (format!("prometheus:{secret}\n"), "such as tls_server_config:, got a string"),
            (format!("{{prometheus:{secret}}}\n"), "unknown key \"prometheus:\""),
        ] {
            let mistakes = place.mistakes(&text);
            assert!(mistakes.contains(told), "{mistakes}");
            assert!(!mistakes.contains("tops3") && !mistakes.contains("QOau"), "{mistakes}");
        }
    }
}

#[test]
fn a_key_in_the_place_of_its_path_is_refused_and_not_shown() {
    let place = Place::new();
    let file = place.directory.path().join("key.pem");
    let pem = fs::read_to_string(file).unwrap();
    let secret = pem.lines().nth(1).unwrap();
    let indented: String = pem.lines().map(|line| format!("    {line}\n")).collect();
    let (short, folded) = (format!("-----BEGIN {}", &secret[..20]), pem.replace('\n', " "));
    for value in [format!("|\n{indented}"), format!("'{folded}'"), short] {
        for (key, other) in
            [("key_file", "key"), ("cert_file", "cert"), ("client_ca_file", "client_ca")]
        {
            let mistakes = place.mistakes(&format!("tls_server_config:\n  {key}: {value}\n"));
            let told = format!(
                "tls_server_config.{key} must be the path of a file; what is in one belongs to {other}, got a string"
            );
            assert!(mistakes.contains(&told), "{mistakes}");
            assert!(!mistakes.contains(&secret[..20]), "{mistakes}");
        }
    }
}

/// The time that a wrong password takes would tell users of one cost from all others.
#[test]
fn users_with_hashes_of_different_costs_are_refused() {
    let place = Place::new();
    let costly = HASH.replace("$04$", "$10$");
    let text = format!("basic_auth_users:\n  ada: {HASH}\n  bob: {HASH}\n  eve: {costly}\n");
    let told = "web.yml:4: basic_auth_users.eve must be a bcrypt hash of the same cost as that of \
                \"ada\", 4, got 10: the time of an answer would tell who is a user";
    assert_eq!(place.mistakes(&text), told);
    assert!(place.load(&text.replace(&*costly, HASH)).is_ok());
}

/// Places in a file, each with a mistake, where `@` may stand by a slip of the hand.
const ANYWHERE: [&str; 25] = [
    "http_server_config:\n  headers:\n    prometheus: @\n",
    "http_server_config:\n  headers:\n    @: prometheus\n",
    "http_server_config:\n  headers:\n    X-Frame-Options: @\n",
    "http_server_config:\n  headers:\n    X-Frame-Options: [@]\n",
    "http_server_config:\n  headers: @\n",
    "http_server_config:\n  http2: @\n",
    "http_server_config:\n  prometheus: @\n",
    "http_server_config: @\n",
    "tls_server_config:\n  @: prometheus\n",
    "tls_server_config:\n  cert_file: @\n",
    "tls_server_config:\n  key: @\n",
    "tls_server_config:\n  client_auth_type: @\n",
    "tls_server_config:\n  cipher_suites: [@]\n",
    "tls_server_config:\n  min_version: {@: @}\n",
    "rate_limit:\n  interval: @\n  burst: @\n",
    "prometheus: @\n",
    "@: prometheus\n",
    "@: @\n@: @\n",
    "- @\n",
    "a: *@\n",
    "a: !@ 1\n",
    "a: !!int @\n",
    "a: !!binary @\n",
    "a: &@ *@\n",
    "%@ 1\n---\na\n",
];

/// The same below the users, where plain passwords may stand too.
const BELOW_USERS: [&str; 12] = [
    "@: prometheus",
    "@: @",
    "prometheus: [@]",
    "prometheus: {@: @}",
    "prometheus: {a: @}",
    "prometheus: '@ '",
    "prometheus: !!int @",
    "prometheus: !!binary @",
    "prometheus: !!bool @",
    "prometheus: \"@",
    "prometheus: *@",
    "prometheus: @\n  prometheus: @",
];

#[test]
fn no_mistake_shows_a_hash_wherever_it_stands_nor_what_stands_below_users() {
    let place = Place::new();
    let others = ["$2y$", "$2b$", "$2a$", "$2$"].map(|prefix| HASH.replace("$2y$", prefix));
    let cut = HASH[..30].to_owned();
    let mut told = Vec::new();
    for hash in others.iter().chain([&cut]) {
        let users = BELOW_USERS.map(|text| format!("basic_auth_users:\n  {text}\n"));
        for text in ANYWHERE.map(str::to_owned).iter().chain(&users) {
            let mistakes = place.mistakes(&text.replace('@', hash));
            assert!(mistakes.starts_with("web.yml:"), "{text}\n{mistakes}");
            if mistakes.contains("QOau") || mistakes.contains("$04$") {
                told.push(mistakes);
            }
        }
    }
    for (text, secret) in
        BELOW_USERS.iter().flat_map(|text| [(text, "tops3cret"), (text, "48151623")])
    {
        // As the name of a user it is taken for one.
        if !text.contains("@: ") {
            let mistakes =
                place.mistakes(&format!("basic_auth_users:\n  {}\n", text.replace('@', secret)));
            if mistakes.contains(secret) {
                told.push(mistakes);
            }
        }
    }
    let number = place.mistakes("basic_auth_users: 48151623\n");
    assert!(told.is_empty() && !number.contains("481"), "{number}\n{}", told.join("\n"));
}

#[test]
fn a_user_and_a_hash_that_changed_places_are_told_and_a_long_key_is_cut() {
    let place = Place::new();
    assert_eq!(
        place.mistakes(&format!("basic_auth_users:\n  ada: {HASH}\n  {HASH}: bob\n")),
        "web.yml:3: basic_auth_users.(a hash) is no name of a user: the name must stand first, and its \
         hash behind it"
    );
    let long = "é".repeat(1_000);
    let mistakes =
        place.mistakes(&format!("{long}: 1\nhttp_server_config: {{headers: {{{long}: 1}}}}\n"));
    assert!(mistakes.contains("é…\"") && mistakes.len() < 1_000, "{} bytes", mistakes.len());
}
