//! What of a connection another one may go on with.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConnection,
    SupportedProtocolVersion, version,
};

use super::*;

/// A client with the certificate of the place.
fn client(place: &Place, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let path = |name: &str| place.directory.path().join(name);
    let own = CertificateDer::from_pem_file(path("cert.pem")).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(own.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![own], PrivateKeyDer::from_pem_file(path("key.pem")).unwrap());
    Arc::new(config.unwrap())
}

/// How a connection came about, as the server has it.
fn shake_hands(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>) -> HandshakeKind {
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = ClientConnection::new(client.clone(), name).unwrap();
    let mut server = ServerConnection::new(server.clone()).unwrap();
    while client.wants_write() || server.wants_write() {
        let (mut there, mut back) = (Vec::new(), Vec::new());
        while client.wants_write() {
            client.write_tls(&mut there).unwrap();
        }
        server.read_tls(&mut &*there).unwrap();
        server.process_new_packets().unwrap();
        while server.wants_write() {
            server.write_tls(&mut back).unwrap();
        }
        client.read_tls(&mut &*back).unwrap();
        client.process_new_packets().unwrap();
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    server.handshake_kind().unwrap()
}

/// Else a certificate that is over by now, or whose authority is trusted no more, would let in.
#[test]
fn each_connection_of_a_client_with_a_certificate_is_verified_afresh() {
    let place = Place::new();
    let asking = |kind: &str| {
        let text = format!("{TLS}  client_ca_file: cert.pem\n  client_auth_type: {kind}\n");
        place.load(&text).unwrap().tls.unwrap()
    };
    let open = place.load(TLS).unwrap().tls.unwrap();
    for version in [&version::TLS12, &version::TLS13] {
        for kind in ["RequireAndVerifyClientCert", "VerifyClientCertIfGiven"] {
            let (server, client) = (asking(kind), client(&place, version));
            for _ in 0..3 {
                let came = shake_hands(&server, &client);
                assert_eq!(came, HandshakeKind::Full, "{kind} {version:?}");
            }
        }
        let client = client(&place, version);
        assert_eq!(shake_hands(&open, &client), HandshakeKind::Full);
        assert_eq!(shake_hands(&open, &client), HandshakeKind::Resumed, "who is not asked");
    }
}
