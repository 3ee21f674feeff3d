//! What web configurations say, and what is said about each mistake in one.

mod sessions;
mod slips;

use std::fs;

use super::*;

/// The bcrypt hash of `secret`, at the least cost.
const HASH: &str = "$2y$04$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi";

/// A directory with a certificate, its key, and the key of another.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let names = || vec!["localhost".to_owned()];
        let (one, other) = (
            rcgen::generate_simple_self_signed(names()).unwrap(),
            rcgen::generate_simple_self_signed(names()).unwrap(),
        );
        let place = Self { directory };
        place.write("cert.pem", &one.cert.pem());
        place.write("key.pem", &one.signing_key.serialize_pem());
        place.write("other.pem", &other.signing_key.serialize_pem());
        place.write("empty.pem", "nothing\n");
        let broken = one.cert.pem().replace("-----END CERTIFICATE-----", "");
        place.write("broken.pem", &broken);
        place
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn load(&self, text: &str) -> Result<Web, ConfigError> {
        Web::load(&self.write("web.yml", text))
    }

    /// The mistakes as they are printed, without the directory.
    fn mistakes(&self, text: &str) -> String {
        let error = self.load(text).expect_err(text).to_string();
        error.replace(&format!("{}/", self.directory.path().display()), "")
    }
}

const TLS: &str = "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n";

#[test]
fn a_whole_configuration_is_read() {
    let place = Place::new();
    let rest = format!(
        "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: cert.pem\n\
         \u{20}\u{20}client_allowed_sans: [scraper.example, 10.0.0.1, 'spiffe://a/b']\n\
         \u{20}\u{20}min_version: TLS12\n  max_version: TLS13\n  prefer_server_cipher_suites: false\n\
         \u{20}\u{20}cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]\n\
         \u{20}\u{20}curve_preferences: [X25519, CurveP256]\n\
         http_server_config:\n  http2: true\n  headers:\n    X-Frame-Options: deny\n    X-XSS-Protection: ''\n\
         basic_auth_users:\n  prometheus: {HASH}\nrate_limit:\n  interval: 100ms\n  burst: 20\n"
    );
    let web = place.load(&format!("{TLS}{rest}")).unwrap();
    let tls = web.tls.as_ref().unwrap();
    assert!(!tls.ignore_client_order);
    assert_eq!(tls.crypto_provider().kx_groups.len(), 2);
    assert_eq!(tls.crypto_provider().cipher_suites.len(), 4, "one of TLS 1.2, all of TLS 1.3");
    assert!(web.needs_certificate && web.verifies_certificates && web.knows_callers());
    assert_eq!(web.users.keys().collect::<Vec<_>>(), ["prometheus"]);
    assert_eq!(web.headers, [("X-Frame-Options", "deny".to_owned())]);
    let limit = RateLimit { every: Duration::from_millis(100), burst: 20 };
    assert_eq!(web.rate_limit, Some(limit));
    assert!(!format!("{web:?} {:?}", web.users).contains("QOau"), "no hash is shown");
}

#[test]
fn certificate_and_key_may_stand_in_the_file_itself() {
    let place = Place::new();
    let indented = |name: &str| {
        let text = fs::read_to_string(place.directory.path().join(name)).unwrap();
        text.lines().map(|line| format!("    {line}\n")).collect::<String>()
    };
    let (cert, key) = (indented("cert.pem"), indented("key.pem"));
    let web = place.load(&format!("tls_server_config:\n  cert: |\n{cert}  key: |\n{key}")).unwrap();
    assert!(web.tls.is_some() && !web.knows_callers(), "encrypted, and open to all");
    let twice = format!("{TLS}  cert: |\n{cert}");
    let told =
        "web.yml:4: tls_server_config.cert must not be there beside cert_file; keep one of them";
    assert_eq!(place.mistakes(&twice).lines().next(), Some(told));
}

#[test]
fn nothing_at_all_protects_nothing() {
    let place = Place::new();
    for text in ["", "---\n", "{}", "tls_server_config: {}", "rate_limit: {interval: 0s, burst: 1}"]
    {
        let web = place.load(text).unwrap();
        assert!(web.tls.is_none() && !web.knows_callers() && web.rate_limit.is_none(), "{text}");
    }
}

#[test]
fn only_passwords_make_callers_known_and_no_certificate_does() {
    let place = Place::new();
    for kind in [
        "NoClientCert",
        "RequestClientCert",
        "RequireClientCert",
        "RequireAnyClientCert",
        "VerifyClientCertIfGiven",
        "RequireAndVerifyClientCert",
    ] {
        let ca = if kind.contains("Verify") { "  client_ca_file: cert.pem\n" } else { "" };
        let web = place.load(&format!("{TLS}{ca}  client_auth_type: {kind}\n")).unwrap();
        assert!(!web.knows_callers(), "{kind}");
    }
    assert!(place.load(&format!("basic_auth_users: {{a: {HASH}}}")).unwrap().knows_callers());
}

/// Each text with what is told of it.
fn assert_told(cases: &[(String, &str)]) {
    let place = Place::new();
    for (text, told) in cases {
        assert_eq!(place.mistakes(text), *told, "in:\n{text}");
    }
}

/// The section with one more line, or some.
fn tls(line: &str) -> String {
    format!("{TLS}  {line}\n")
}

#[test]
fn a_wrong_version_cipher_or_key_is_told_with_its_line_and_what_would_be_right() {
    assert_told(&[
        (
            tls("min_version: TLS10"),
            "web.yml:4: tls_server_config.min_version must be TLS12 or TLS13: older versions are \
             broken, and not spoken here, got \"TLS10\"",
        ),
        (
            tls("max_version: 1.3"),
            "web.yml:4: tls_server_config.max_version must be TLS12 or TLS13, got 1.3",
        ),
        (
            tls("min_version: TLS13\n  max_version: TLS12"),
            "web.yml:5: tls_server_config.max_version must not be older than min_version",
        ),
    ]);
}

#[test]
fn what_is_wrong_about_clients_is_told_with_its_line_and_what_would_be_right() {
    assert_told(&[
        (
            tls("client_auth_type: Always"),
            "web.yml:4: tls_server_config.client_auth_type must be NoClientCert, RequestClientCert, \
             RequireAnyClientCert, VerifyClientCertIfGiven or RequireAndVerifyClientCert, got \"Always\"",
        ),
        (
            tls("client_auth_type: RequireAndVerifyClientCert"),
            "web.yml:4: tls_server_config.client_auth_type needs client_ca_file, the authorities \
             whose certificates are taken",
        ),
        (
            tls("client_ca_file: cert.pem"),
            "web.yml:4: tls_server_config.client_ca_file needs client_auth_type, such as \
             RequireAndVerifyClientCert: nobody is asked for a certificate",
        ),
        (
            tls("client_allowed_sans: [a]"),
            "web.yml:4: tls_server_config.client_allowed_sans needs client_auth_type \
             RequireAndVerifyClientCert or RequireAnyClientCert: others let clients in that have no \
             certificate",
        ),
        (
            tls("client_auth_type: RequireAnyClientCert\n  client_allowed_sans: []"),
            "web.yml:5: tls_server_config.client_allowed_sans must name some; leave it out for all",
        ),
        (
            tls(
                "client_auth_type: RequireAnyClientCert\n  client_allowed_sans:\n  - b\n  - a@b.example",
            ),
            "web.yml:7: tls_server_config.client_allowed_sans[1] must be a DNS name, an IP address \
             or a URI: mailboxes are not compared, got \"a@b.example\"",
        ),
    ]);
}

#[test]
fn an_unknown_curve_or_key_is_told_with_the_known_ones() {
    assert_told(&[
        (
            tls("curve_preferences: [CurveP521]"),
            "web.yml:4: tls_server_config.curve_preferences[0] must be X25519, CurveP256 or \
             CurveP384, got \"CurveP521\"",
        ),
        (
            tls("prefer_server_cipher_suites: often"),
            "web.yml:4: tls_server_config.prefer_server_cipher_suites must be true or false, got \"often\"",
        ),
        (
            tls("ciphers: []"),
            "web.yml:4: unknown key tls_server_config.ciphers; valid here are cert_file, cert, \
             key_file, key, client_ca_file, client_ca, client_auth_type, client_allowed_sans, \
             min_version, max_version, cipher_suites, curve_preferences, prefer_server_cipher_suites",
        ),
    ]);
}

#[test]
fn a_file_that_is_not_what_it_must_be_is_told_with_the_key_that_names_it() {
    assert_told(&[
        (
            TLS.replace("key.pem", "other.pem"),
            "web.yml:3: tls_server_config.key_file must be the key of the certificate, and is that of another",
        ),
        (
            TLS.replace("key.pem", "empty.pem"),
            "web.yml:3: tls_server_config.key_file must have a private key that is not encrypted: no \
             such -----BEGIN PRIVATE KEY----- is in it",
        ),
        (
            TLS.replace("cert.pem", "broken.pem"),
            "web.yml:2: tls_server_config.cert_file must have certificates in PEM: its -----END line is missing",
        ),
        (
            TLS.replace("cert.pem", "none.pem"),
            "web.yml:2: tls_server_config.cert_file names none.pem, which cannot be read: No such \
             file or directory (os error 2)",
        ),
        (
            "tls_server_config:\n  cert_file: cert.pem\n".to_owned(),
            "web.yml:1: tls_server_config needs key_file, or key; without TLS, leave the whole section out",
        ),
        (
            "tls_server_config: on".to_owned(),
            "web.yml:1: tls_server_config must have keys of its own, got true",
        ),
    ]);
}

#[test]
fn a_wrong_header_user_or_limit_is_told_and_no_password_is_shown() {
    assert_told(&[
        (
            "http_server_config:\n  headers:\n    X-Powered-By: me".to_owned(),
            "web.yml:3: http_server_config.headers.X-Powered-By is no header that can be set here, \
             which are Content-Security-Policy, Strict-Transport-Security, X-Content-Type-Options, \
             X-Frame-Options, X-XSS-Protection",
        ),
        (
            "http_server_config: {headers: {X-Frame-Options: DENY}}".to_owned(),
            "web.yml:1: http_server_config.headers.X-Frame-Options must be deny or sameorigin, got \"DENY\"",
        ),
        (
            "basic_auth_users:\n  a: secret".to_owned(),
            "web.yml:2: basic_auth_users.a must be the bcrypt hash of a password, as `htpasswd -nBC \
             10 NAME` prints behind the name",
        ),
        (
            format!("basic_auth_users:\n  a: {}", HASH.replace("$04$", "$18$")),
            "web.yml:2: basic_auth_users.a must be a bcrypt hash of a cost of 4 to 15, got 18",
        ),
        (
            format!("basic_auth_users:\n  'a:b': {HASH}"),
            "web.yml:2: basic_auth_users.\"a:\" is no name of a user: it must be 1 to 128 bytes without colons",
        ),
        (
            "rate_limit:\n  interval: 1m30s\n  burst: 0".to_owned(),
            "web.yml:2: rate_limit.interval must be a duration of one number and one unit, such as \
             100ms or 1s, of at most 1h, got \"1m30s\"\n\
             web.yml:3: rate_limit.burst must be 1 to 1000000, got 0",
        ),
        (
            "tls: {}\n".to_owned(),
            "web.yml:1: unknown key tls; valid here are tls_server_config, http_server_config, \
             basic_auth_users, rate_limit",
        ),
        (
            "- a\n".to_owned(),
            "web.yml:1: the file must have keys, such as tls_server_config:, got a list",
        ),
    ]);
}

#[test]
fn what_is_no_yaml_is_told_with_its_line_and_shows_no_secret() {
    let place = Place::new();
    let duplicate = format!("basic_auth_users:\n  a: {HASH}\n  a: {HASH}\n");
    for (text, line) in
        [("a: [", "web.yml:"), (&*duplicate, "web.yml:3: "), ("a: b\n\tc: d", "web.yml:1: ")]
    {
        let told = place.mistakes(text);
        assert!(told.starts_with(line) && told.contains("the file must be YAML: "), "{told}");
        assert!(
            !told.contains("column") && !told.contains("QOau") && told.lines().count() == 1,
            "{told}"
        );
    }
}

#[test]
fn a_file_that_would_grow_without_bound_is_refused() {
    let place = Place::new();
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let below = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{below}]\n"));
    }
    let deep = format!("a: {}{}", "[".repeat(10_000), "]".repeat(10_000));
    let wide = format!("basic_auth_users: [{}]", "a,".repeat(100_000));
    for text in [bomb, deep, wide] {
        let told = place.mistakes(&text);
        assert!(told.contains("the file must be YAML: "), "{told}");
        assert!(told.len() < 500, "{told}");
    }
}

#[test]
fn sources_change_with_each_file_that_was_read() {
    let place = Place::new();
    let file = place.write("web.yml", TLS);
    let load = || {
        let mut sources = Sources::new();
        let web = Web::load_from(&mut sources, &file);
        (sources, web)
    };
    let (sources, web) = load();
    assert!(!sources.have_changed());
    for name in ["web.yml", "cert.pem", "key.pem"] {
        let (sources, _) = load();
        let path = place.directory.path().join(name);
        let text = fs::read_to_string(&path).unwrap();
        // Another file of this name, as those make it who replace files.
        place.write("next", &text);
        fs::rename(place.directory.path().join("next"), &path).unwrap();
        assert!(sources.have_changed(), "{name}");
    }
    assert_eq!(load().1.unwrap(), web.unwrap(), "all say the same");
    let (sources, gone) = {
        fs::remove_file(place.directory.path().join("key.pem")).unwrap();
        load()
    };
    assert!(gone.is_err() && !sources.have_changed());
    place.write("key.pem", "");
    assert!(sources.have_changed(), "one that is there again");
}

#[test]
fn what_only_a_start_decides_is_found() {
    let place = Place::new();
    let users = format!("basic_auth_users: {{a: {HASH}}}\n");
    let asking = |kind: &str| {
        let ca = if kind.contains("Verify") { "  client_ca_file: cert.pem\n" } else { "" };
        format!("{TLS}{ca}  client_auth_type: {kind}\n")
    };
    let [none, any] = ["RequestClientCert", "RequireAnyClientCert"].map(asking);
    let [given, verified] = ["VerifyClientCertIfGiven", "RequireAndVerifyClientCert"].map(asking);
    let names = |text: &str| format!("{text}  client_allowed_sans: [a]\n");
    let needed = Some("whether clients need a certificate");
    let are_verified = Some("whether certificates of clients are verified");
    let allowed = Some("whether clients need a certificate with an allowed name");
    let load = |text: &str| place.load(text).unwrap();
    for (one, other, told) in [
        ("", TLS, Some("whether connections are encrypted")),
        (TLS, &*verified, needed),
        (TLS, &any, needed),
        (&none, &any, needed),
        (&given, &verified, needed),
        (&given, &any, needed),
        (&any, &verified, are_verified),
        (TLS, &given, are_verified),
        (&none, &given, are_verified),
        (&*format!("{TLS}{users}"), TLS, Some("whether there are users")),
        (&verified, &names(&verified), allowed),
        (&any, &names(&any), allowed),
        (TLS, &none, None),
        (&names(&verified), &names(&verified).replace("[a]", "[b]"), None),
        (TLS, &*format!("{TLS}  min_version: TLS13\n"), None),
    ] {
        assert_eq!(load(one).differing(&load(other)), told, "{one}\n{other}");
        assert_eq!(load(other).differing(&load(one)), told, "{one}\n{other}");
    }
}
