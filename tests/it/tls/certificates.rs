//! Who may connect: versions of TLS, and the certificates of clients.

use super::{Authority, SECTION, client, code, path, prepare, put, start, tallyd};
use crate::fixture::Daemon;
use crate::tools::said;

/// The section with this policy for clients.
fn asking(policy: &str, more: &str) -> String {
    let ca = if policy.contains("Verify") { "  client_ca_file: ca.pem\n" } else { "" };
    format!("{SECTION}  client_auth_type: {policy}\n{ca}{more}")
}

/// Whether a client without a certificate, one of another authority, and one of ours are served.
async fn served(daemon: &Daemon, ours: &Authority, names: &[&str]) -> [bool; 3] {
    let (strange, own) = (Authority::new("strangers").issue(names), ours.issue(names));
    let mut served = [false; 3];
    for (index, shown) in [None, Some(&strange), Some(&own)].into_iter().enumerate() {
        served[index] = code(&client(ours, shown), daemon, "/v1/queues").await == Some(200);
    }
    served
}

#[tokio::test]
async fn each_policy_lets_those_in_that_its_name_says() {
    let ours = Authority::new("tests");
    for (policy, expected) in [
        ("NoClientCert", [true, true, true]),
        ("RequestClientCert", [true, true, true]),
        ("RequireAnyClientCert", [false, true, true]),
        ("VerifyClientCertIfGiven", [true, false, true]),
        ("RequireAndVerifyClientCert", [false, false, true]),
    ] {
        let daemon = start("", &asking(policy, ""), &ours);
        assert_eq!(served(&daemon, &ours, &["scraper.example"]).await, expected, "{policy}");
    }
}

#[tokio::test]
async fn only_certificates_with_an_allowed_name_are_taken() {
    let ours = Authority::new("tests");
    let names = "  client_allowed_sans: [scraper.example, 10.1.2.3, 'spiffe://example/scraper']\n";
    for policy in ["RequireAndVerifyClientCert", "RequireAnyClientCert"] {
        let daemon = start("", &asking(policy, names), &ours);
        let are_strangers = policy == "RequireAnyClientCert";
        for name in ["scraper.example", "10.1.2.3", "spiffe://example/scraper"] {
            let expected = [false, are_strangers, true];
            assert_eq!(served(&daemon, &ours, &["other.example", name]).await, expected, "{name}");
        }
        for name in ["sub.scraper.example", "*.example", "10.1.2.4", "spiffe://example/scraper/2"] {
            assert_eq!(served(&daemon, &ours, &[name]).await, [false; 3], "{policy}: {name}");
        }
    }
}

#[tokio::test]
async fn the_command_line_shows_its_certificate() {
    let ours = Authority::new("tests");
    let daemon = start("", &asking("RequireAndVerifyClientCert", ""), &ours);
    let own = ours.issue(&["admin.example"]);
    let both = format!("{}{}", own.certificate, own.key);
    std::fs::write(daemon.path("admin.pem"), both).expect("it can be written");
    let (server, ca, own) = (daemon.url(""), path(&daemon, "ca.pem"), path(&daemon, "admin.pem"));
    let list = ["queues", "list", "--server", &server, "--ca-file", &ca];
    let listed = tallyd(&[&list[..], &["--client-cert-file", &own]].concat());
    assert!(listed.status.success(), "{}", said(&listed));
    let refused = tallyd(&list);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
}

#[test]
fn the_command_line_says_what_is_wrong_with_the_certificate_of_a_server() {
    let ours = Authority::new("tests");
    let names = ["localhost", "127.0.0.1"];
    for (own, told) in [
        (ours.issue_until(&names, 2020), "its certificate has expired"),
        (
            ours.issue(&["other.example"]),
            "its certificate is not for 127.0.0.1, but for other names",
        ),
        (
            Authority::new("strangers").issue(&names),
            "its certificate is of no authority that is trusted here; --ca-file names others",
        ),
    ] {
        let mut daemon = prepare("", SECTION, &ours);
        put(&daemon, &own);
        daemon.restart();
        let (server, ca) = (daemon.url(""), path(&daemon, "ca.pem"));
        let refused = tallyd(&["queues", "list", "--server", &server, "--ca-file", &ca]);
        assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
        let told = format!("cannot trust {server}: {told}\n");
        assert!(said(&refused).ends_with(&told), "{}", said(&refused));
    }
}

#[tokio::test]
async fn versions_that_are_too_old_or_too_new_are_refused() {
    use reqwest::tls::Version;
    let ours = Authority::new("tests");
    let of = |version| {
        let roots = reqwest::Certificate::from_pem(ours.pem().as_bytes()).expect("it is PEM");
        let client = reqwest::Client::builder().tls_certs_only([roots]);
        client.min_tls_version(version).max_tls_version(version).build().expect("it can be built")
    };
    for (limits, expected) in [
        ("", [Some(200), Some(200)]),
        ("  min_version: TLS13\n", [None, Some(200)]),
        ("  max_version: TLS12\n", [Some(200), None]),
        ("  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]\n", [None, Some(200)]),
    ] {
        let mut daemon = prepare("", &format!("{SECTION}{limits}"), &ours);
        daemon.restart();
        let codes = [Version::TLS_1_2, Version::TLS_1_3].map(of);
        for (client, expected) in codes.iter().zip(expected) {
            assert_eq!(code(client, &daemon, "/-/ready").await, expected, "{limits}");
        }
    }
}
