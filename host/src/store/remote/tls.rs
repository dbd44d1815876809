//! TLS to the engine of a store: the certificates of the system and of one file, and a client
//! certificate.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, version};

use crate::private_file::Mode;
use crate::private_file::ownership::{Readers, readers_of, trust_file_at};

/// A client certificate with its key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Identity<'a> {
    /// The file of the chain, in PEM.
    pub(crate) certificate: &'a Path,
    /// The file of the key, in PEM.
    pub(crate) key: &'a Path,
}

/// Returns the configuration of a client. It trusts the authorities of the system, or only those of
/// `ca` if that is given. An error is a text that names the file and the cause.
pub(crate) fn client_config(
    ca: Option<&Path>,
    identity: Option<Identity<'_>>,
) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| format!("{}: {error}", path.display()))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let Some(Identity { certificate, key }) = identity else { return Ok(config.with_no_client_auth()) };
    let chain = certificates(certificate)?;
    let trusted = trust_file_at(key).map_err(|error| format!("{}: {error}", key.display()))?;
    if let Some(metadata) = trusted.metadata.filter(|metadata| readers_of(metadata) == Readers::Others) {
        let mode = Mode::of(&metadata);
        return Err(format!("{0}: others can read it (mode {mode:o}); run: chmod 0600 {0}", key.display()));
    }
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| format!("{} holds no private key in PEM: {error}", key.display()))?;
    config
        .with_client_auth_cert(chain, private)
        .map_err(|error| format!("{} and {}: {error}", certificate.display(), key.display()))
}

/// Reads a file of certificates, which holds one at least.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    trust_file_at(path).map_err(|error| failed(&error))?;
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|error| failed(&error))?.collect();
    let certificates = certificates.map_err(|error| failed(&error))?;
    if certificates.is_empty() {
        return Err(failed(&"it holds no certificate in PEM"));
    }
    Ok(certificates)
}
