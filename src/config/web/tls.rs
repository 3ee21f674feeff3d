//! The section `tls_server_config`: what connections are encrypted with, and who may connect.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, SupportedKxGroup, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{Error, RootCertStore, ServerConfig, SupportedCipherSuite};

use super::clients::{AllowedNames, Any};
use super::document::{Section, is_hash, is_pem};
use super::names::{self, ClientAuth, Version};
use super::pem;
use super::sources::Sources;

/// What is spoken under TLS; the format's `http2` is permission, no promise.
const PROTOCOL: &[u8] = b"http/1.1";

/// What makes a section one that asks for TLS.
const ASKING: [&str; 7] =
    ["cert", "cert_file", "key", "key_file", "client_ca", "client_ca_file", "client_auth_type"];

/// What a right section makes.
pub(super) struct Tls {
    pub(super) config: Arc<ServerConfig>,
    pub(super) needs_certificate: bool,
    pub(super) verifies_certificates: bool,
    pub(super) knows_names: bool,
    pub(super) key_file: Option<PathBuf>,
    pub(super) certificate_files: Vec<PathBuf>,
}

/// What was read, each in the words of rustls.
struct Settings {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    clients: Arc<dyn ClientCertVerifier>,
    provider: Arc<CryptoProvider>,
    versions: (Version, Version),
    prefers_own_order: bool,
}

/// Reads the section; none if there is something wrong, which is noted, or nothing in it.
pub(super) fn read(
    mut section: Section<'_>,
    sources: &mut Sources,
    directory: &Path,
) -> Option<Tls> {
    let is_asked_for = ASKING.iter().any(|key| section.has(key));
    let chain = content(&mut section, sources, directory, ["cert_file", "cert"], pem::certificates);
    let key = content(&mut section, sources, directory, ["key_file", "key"], pem::key);
    let roots =
        content(&mut section, sources, directory, ["client_ca_file", "client_ca"], |bytes| {
            roots(&pem::certificates(bytes)?)
        });
    let client_auth = section.text("client_auth_type", names::client_auth);
    let is_auth_right = client_auth.is_some() || !section.has("client_auth_type");
    let client_auth = client_auth.unwrap_or(ClientAuth::No);
    let allowed = section.list("client_allowed_sans", allowed_name);
    if is_auth_right {
        check_clients(&section, client_auth, &allowed);
    }
    let versions = versions(&mut section);
    let provider = provider(&mut section);
    let prefers_own_order = section.switch("prefer_server_cipher_suites").unwrap_or(true);
    for (key, text) in [("cert_file", "cert"), ("key_file", "key")] {
        if !section.has(key) && !section.has(text) {
            section.whole(&format!(
                "needs {key}, or {text}; without TLS, leave the whole section out"
            ));
        }
    }
    let knows_names = !allowed.is_empty();
    let clients = clients(client_auth, roots, allowed, &provider);
    if is_asked_for && let (Some(chain), Some(key), Some(clients)) = (chain, key, clients) {
        let settings = Settings { chain, key, clients, provider, versions, prefers_own_order };
        let built = settings.build().map_err(|error| refuse(&section, &error)).ok();
        let named = |key| section.peek(key).map(|file| directory.join(file));
        let key_file = named("key_file");
        let certificate_files = ["cert_file", "client_ca_file"].into_iter().filter_map(named);
        let certificate_files = certificate_files.collect();
        section.close();
        return Some(Tls {
            config: built.map(Arc::new)?,
            needs_certificate: client_auth.is_mandatory(),
            verifies_certificates: client_auth.verifies(),
            knows_names,
            key_file,
            certificate_files,
        });
    }
    section.close();
    None
}

/// What `parse` makes of the file that the first key names, or of the text of the second.
fn content<T>(
    section: &mut Section<'_>,
    sources: &mut Sources,
    directory: &Path,
    keys: [&'static str; 2],
    parse: impl FnOnce(&[u8]) -> Result<T, String>,
) -> Option<T> {
    let file = section.text(keys[0], |text| {
        let is_other = |text: &str| text.contains('\0') || is_pem(text) || is_hash(text);
        let is_path = |text: &&str| !text.is_empty() && !is_other(text);
        text.filter(is_path).map(|text| directory.join(text)).ok_or_else(|| {
            format!("must be the path of a file; what is in one belongs to {}", keys[1])
        })
    });
    let text = section.text(keys[1], |text| {
        text.map(str::to_owned).ok_or_else(|| "must be text in PEM".to_owned())
    });
    let (key, found) = match (file, text) {
        (Some(_), Some(_)) => {
            let wrong = format!("must not be there beside {}; keep one of them", keys[0]);
            section.object(keys[1], &wrong);
            return None;
        }
        (Some(file), None) => {
            let unreadable =
                |error| format!("names {}, which cannot be read: {error}", file.display());
            (keys[0], sources.read(&file).map_err(unreadable))
        }
        (None, Some(text)) => (keys[1], Ok(text.into_bytes())),
        (None, None) => return None,
    };
    let parsed = found.and_then(|bytes| parse(&bytes));
    parsed.map_err(|wrong| section.object(key, &wrong)).ok()
}

fn roots(certificates: &[CertificateDer<'static>]) -> Result<Arc<RootCertStore>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        let added = roots.add(certificate.clone());
        added.map_err(|error| format!("must have certificates of authorities: {error}"))?;
    }
    Ok(Arc::new(roots))
}

/// A name that clients' certificates are looked through for.
fn allowed_name(text: Option<&str>) -> Result<String, String> {
    let is_mailbox = |text: &str| text.contains('@') && !text.contains(':');
    match text {
        Some(text) if is_mailbox(text) => {
            Err("must be a DNS name, an IP address or a URI: mailboxes are not compared".to_owned())
        }
        Some(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err("must be a DNS name, an IP address or a URI".to_owned()),
    }
}

/// What is said of clients must fit together.
fn check_clients(section: &Section<'_>, client_auth: ClientAuth, allowed: &[String]) {
    let authorities = ["client_ca_file", "client_ca"];
    if client_auth == ClientAuth::No {
        let wrong = "needs client_auth_type, such as RequireAndVerifyClientCert: nobody is asked for a certificate";
        authorities.iter().for_each(|key| section.object(key, wrong));
    }
    if client_auth.verifies() && !authorities.iter().any(|key| section.has(key)) {
        let wrong = "needs client_ca_file, the authorities whose certificates are taken";
        section.object("client_auth_type", wrong);
    }
    if !client_auth.is_mandatory() {
        let wrong = "needs client_auth_type RequireAndVerifyClientCert or RequireAnyClientCert: others let \
             clients in that have no certificate";
        section.object("client_allowed_sans", wrong);
    } else if allowed.is_empty() {
        section.object("client_allowed_sans", "must name some; leave it out for all");
    }
}

fn versions(section: &mut Section<'_>) -> (Version, Version) {
    let least = section.text("min_version", names::tls_version).unwrap_or(Version::Tls12);
    let most = section.text("max_version", names::tls_version).unwrap_or(Version::Tls13);
    if least > most {
        section.object("max_version", "must not be older than min_version");
        return (least, least);
    }
    (least, most)
}

/// The ciphers and curves that are left; those of the section if it names some.
fn provider(section: &mut Section<'_>) -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    let suites: Vec<SupportedCipherSuite> = section.list("cipher_suites", names::suite);
    if !suites.is_empty() {
        let older = suites.into_iter().filter(|suite| suite.tls13().is_none());
        provider.cipher_suites = names::suites_of_tls13().chain(older).collect();
    }
    let curves: Vec<&'static dyn SupportedKxGroup> =
        section.list("curve_preferences", names::curve);
    if !curves.is_empty() {
        provider.kx_groups = curves;
    }
    Arc::new(provider)
}

fn clients(
    client_auth: ClientAuth,
    roots: Option<Arc<RootCertStore>>,
    names: Vec<String>,
    provider: &Arc<CryptoProvider>,
) -> Option<Arc<dyn ClientCertVerifier>> {
    let inner: Arc<dyn ClientCertVerifier> = if client_auth == ClientAuth::No {
        WebPkiClientVerifier::no_client_auth()
    } else if client_auth.verifies() {
        let builder = WebPkiClientVerifier::builder_with_provider(roots?, provider.clone());
        let mandatory = client_auth.is_mandatory();
        let builder = if mandatory { builder } else { builder.allow_unauthenticated() };
        builder.build().ok()?
    } else {
        let algorithms = provider.signature_verification_algorithms;
        Arc::new(Any { algorithms, is_mandatory: client_auth.is_mandatory() })
    };
    if names.is_empty() { Some(inner) } else { Some(Arc::new(AllowedNames { inner, names })) }
}

/// Notes why what was read cannot be used.
fn refuse(section: &Section<'_>, error: &Error) {
    if matches!(error, Error::InconsistentKeys(_)) {
        let wrong = "must be the key of the certificate, and is that of another";
        ["key_file", "key"].iter().for_each(|key| section.object(key, wrong));
    } else {
        section.whole(&format!("cannot be used as it is: {error}"));
    }
}

impl Settings {
    fn build(self) -> Result<ServerConfig, Error> {
        let (least, most) = self.versions;
        let all = [Version::Tls13, Version::Tls12].into_iter();
        let versions: Vec<_> =
            all.filter(|version| (least..=most).contains(version)).map(Version::protocol).collect();
        let asks_clients = self.clients.offer_client_auth();
        let mut config = ServerConfig::builder_with_provider(self.provider)
            .with_protocol_versions(&versions)?
            .with_client_cert_verifier(self.clients)
            .with_single_cert(self.chain, self.key)?;
        config.ignore_client_order = self.prefers_own_order;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        if asks_clients {
            // A session that is resumed is not verified: its certificate may be over by then, or its
            // authority trusted no more.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(config)
    }
}
