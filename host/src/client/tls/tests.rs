use std::fs;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConnection, ServerConfig, ServerConnection};

use super::*;

/// A server that presents a certificate, whether it has its key or not.
#[derive(Debug)]
struct Presents(Arc<CertifiedKey>);

impl ResolvesServerCert for Presents {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

fn certificate(names: &[&str], is_ca: bool) -> (rcgen::Certificate, KeyPair) {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    if is_ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap(), key)
}

/// Connects a client that is given `ca` to a server in memory. Returns the reason of a failure.
fn connect(ca: &str, presented: &CertificateDer<'static>, key: &KeyPair, name: &str) -> Option<String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    fs::write(&path, ca).unwrap();
    let trust = Trust { ca: Some(path), ..Trust::default() };
    // Without the certificates of the system.
    let config = Arc::new(trust.client_config(false).unwrap());
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(config, name).unwrap();
    let provider = Arc::new(ring::default_provider());
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let key = provider.key_provider.load_private_key(key).unwrap();
    let presents = Presents(Arc::new(CertifiedKey::new(vec![presented.clone()], key)));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(presents));
    let mut server = ServerConnection::new(Arc::new(config)).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut sent = Vec::new();
        client.write_tls(&mut sent).unwrap();
        server.read_tls(&mut &*sent).unwrap();
        let _ = server.process_new_packets();
        let mut sent = Vec::new();
        server.write_tls(&mut sent).unwrap();
        client.read_tls(&mut &*sent).unwrap();
        if let Err(error) = client.process_new_packets() {
            let Some(TlsFailure::Untrusted { reason, .. }) = TlsFailure::find(&error) else {
                panic!("{error}")
            };
            return Some(reason);
        }
    }
    None
}

#[test]
fn given_certificate_is_trusted_as_exactly_that() {
    let (own, key) = certificate(&["localhost", "127.0.0.1"], true);
    // Same names and same form, with another key.
    let (other, other_key) = certificate(&["localhost", "127.0.0.1"], true);
    let both = other.pem() + &own.pem();
    for (ca, presented, key, name, refused) in [
        (&own.pem(), &own, &key, "localhost", None),
        (&own.pem(), &own, &key, "127.0.0.1", None),
        (&both, &own, &key, "localhost", None),
        (
            &own.pem(),
            &own,
            &key,
            "db.example",
            Some("is not valid for name \"db.example\"; it names localhost, 127"),
        ),
        (&own.pem(), &other, &other_key, "localhost", Some("it is that of an authority")),
        (&other.pem(), &own, &key, "localhost", Some("it is that of an authority")),
        // The certificate is public. Its key is not.
        (&own.pem(), &own, &other_key, "localhost", Some("the server has not proved that it has the key")),
    ] {
        let reason = connect(ca, presented.der(), key, name);
        match (&reason, refused) {
            (None, None) => {}
            (Some(reason), Some(expected)) => assert!(reason.contains(expected), "{reason}"),
            _ => panic!("{name}: {reason:?} instead of {refused:?}"),
        }
    }
}

#[test]
fn given_certificate_that_is_no_authority_signs_no_other() {
    let (given, given_key) = certificate(&["other.example"], false);
    let mut expired = CertificateParams::default();
    expired.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    expired.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let expired_key = KeyPair::generate().unwrap();
    let expired = expired.self_signed(&expired_key).unwrap();
    for (issuer, issuer_key, params) in [
        (&given, &given_key, CertificateParams::new(vec!["other.example".to_owned()]).unwrap()),
        (&expired, &expired_key, CertificateParams::default()),
    ] {
        let issued_by = rcgen::Issuer::from_params(&params, issuer_key);
        let key = KeyPair::generate().unwrap();
        let signed = CertificateParams::new(vec!["localhost".to_owned()])
            .unwrap()
            .signed_by(&key, &issued_by)
            .unwrap();
        let reason = connect(&issuer.pem(), signed.der(), &key, "localhost");
        assert!(reason.unwrap().contains("not one that is trusted here"));
    }
}

#[test]
fn authority_signs_servers_but_no_other_purpose() {
    let (authority, authority_key) = certificate(&[], true);
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = rcgen::Issuer::from_params(&params, &authority_key);
    for (purpose, refused) in [
        (ExtendedKeyUsagePurpose::ServerAuth, None),
        (ExtendedKeyUsagePurpose::ClientAuth, Some("it is not for servers (extendedKeyUsage)")),
    ] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.extended_key_usages = vec![purpose];
        let signed = params.signed_by(&key, &issuer).unwrap();
        for ca in [authority.pem(), authority.pem() + &signed.pem()] {
            let reason = connect(&ca, signed.der(), &key, "localhost");
            let reason =
                reason.as_deref().and_then(|reason| reason.strip_prefix("invalid peer certificate: "));
            assert_eq!(reason, refused);
        }
    }
}
