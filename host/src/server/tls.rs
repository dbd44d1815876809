//! The server side of TLS: a certificate chain and its key, read from files
//! (docs/compatibility.md 5.1).
//!
//! Knows no sockets. Cryptography comes from ring and is passed explicitly: nothing is installed
//! for the whole process.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{InconsistentKeys, ServerConfig, SupportedProtocolVersion};
use thiserror::Error;
use webpki::EndEntityCert;
use zeroize::Zeroizing;

use crate::private_file::Mode;
use crate::private_file::ownership::trust_file_at;

/// The size limit of a file with certificates or a key, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// The oldest version of TLS that a client may speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MinimumVersion {
    /// TLS 1.2 (RFC 5246). Clients that support 1.3 use it.
    Tls12,
    /// TLS 1.3 (RFC 8446).
    Tls13,
}

impl MinimumVersion {
    fn versions(self) -> Vec<&'static SupportedProtocolVersion> {
        match self {
            Self::Tls12 => vec![&TLS13, &TLS12],
            Self::Tls13 => vec![&TLS13],
        }
    }
}

/// The TLS configuration of a server.
#[derive(Debug, Clone)]
pub(crate) struct ServerTls {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) names: CertificateNames,
    certificate: CertificateDer<'static>,
}

/// The DNS names in the certificate of a server, without wildcards. A server of another name cannot
/// present that certificate to a client that verifies it.
pub(crate) type CertificateNames = Arc<[String]>;

impl ServerTls {
    /// Returns whether the certificate is valid for this name or address.
    pub(crate) fn certifies(&self, name: &str) -> bool {
        let certificate = EndEntityCert::try_from(&self.certificate);
        let name = ServerName::try_from(name);
        certificate
            .ok()
            .zip(name.ok())
            .is_some_and(|(certificate, name)| certificate.verify_is_valid_for_subject_name(&name).is_ok())
    }
}

impl FromStr for MinimumVersion {
    type Err = &'static str;

    fn from_str(version: &str) -> Result<Self, Self::Err> {
        match version {
            "tls-1.2" => Ok(Self::Tls12),
            "tls-1.3" => Ok(Self::Tls13),
            _ => Err("Valid minimum version strings are tls-1.2 and tls-1.3"),
        }
    }
}

/// The certificate or the key cannot be used.
#[derive(Debug, Error)]
pub(crate) enum TlsError {
    /// The file cannot be read.
    #[error("cannot read the TLS {what} {}", file.display())]
    Read { what: &'static str, file: PathBuf, source: io::Error },
    /// The file has another format.
    #[error(
        "the TLS {what} {0} is not a PEM file, which has lines such as -----BEGIN CERTIFICATE-----; convert one that is DER with: \
         openssl {command} -inform DER -in {0} -out NEW_FILE",
        file.display()
    )]
    NotPem { what: &'static str, command: &'static str, file: PathBuf },
    /// A section of the file is damaged.
    #[error("the TLS {what} {} is a damaged PEM file; was it copied whole?", file.display())]
    Damaged { what: &'static str, file: PathBuf },
    /// The file has no such section; perhaps the two files are swapped.
    #[error("there is no {what} in {}; is it the right file?", file.display())]
    NoSection { what: &'static str, file: PathBuf },
    /// The key is encrypted, and a server cannot ask for a password.
    #[error("the TLS key {0} is encrypted; decrypt it with: openssl pkey -in {0} -out NEW_FILE", file.display())]
    Encrypted { file: PathBuf },
    /// Key and certificate belong to different pairs.
    #[error(
        "the TLS key {} does not belong to the first certificate in {}; the certificate of this server comes first, those that signed it \
         after it",
        key.display(),
        certificates.display()
    )]
    KeyMismatch { key: PathBuf, certificates: PathBuf },
    /// The algorithm of the key is not supported.
    #[error(
        "the TLS key {} with the certificate {} cannot be used; a key is RSA with 2048 bits or more, ECDSA P-256 or P-384, or Ed25519",
        key.display(),
        certificates.display()
    )]
    Unusable { key: PathBuf, certificates: PathBuf, source: rustls::Error },
    /// Unreachable with the versions and the provider that [`load`] requests.
    #[error("the requested versions of TLS are not available")]
    Versions(#[source] rustls::Error),
}

/// Reads the certificate chain and its key, both PEM, for clients that support at least `minimum`.
/// Offers HTTP/2 before HTTP/1.1. Logs a warning if every user can read the key.
pub(crate) fn load(certificates: &Path, key: &Path, minimum: MinimumVersion) -> Result<ServerTls, TlsError> {
    let chain = read_chain(certificates)?;
    let no_section = || TlsError::NoSection { what: "certificate", file: certificates.to_owned() };
    let certificate = chain.first().cloned().ok_or_else(no_section)?;
    let private = read_key(key)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&minimum.versions())
        .map_err(TlsError::Versions)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| {
            let (key, certificates) = (key.to_owned(), certificates.to_owned());
            match error {
                rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                    TlsError::KeyMismatch { key, certificates }
                }
                source => TlsError::Unusable { key, certificates, source },
            }
        })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(ServerTls { config: Arc::new(config), names: dns_names(&certificate), certificate })
}

/// Returns the DNS names of a certificate. A wildcard is left out: it is valid for many servers.
fn dns_names(certificate: &CertificateDer<'_>) -> CertificateNames {
    let Ok(certificate) = EndEntityCert::try_from(certificate) else {
        return CertificateNames::default();
    };
    certificate.valid_dns_names().filter(|name| !name.contains('*')).map(str::to_owned).collect()
}

fn read_chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let what = "certificate";
    let mut text = Vec::new();
    trust_file_at(file)
        .map_err(io::Error::from)
        .and_then(|_| File::open(file)?.take(MAX_BYTES).read_to_end(&mut text))
        .map_err(|source| TlsError::Read { what, file: file.to_owned(), source })?;
    sections(&text, what, "x509", file)
}

fn read_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let what = "key";
    let mut text = Zeroizing::new(Vec::new());
    let mode = trust_file_at(file)
        .map_err(io::Error::from)
        .and_then(|_| File::open(file))
        .and_then(|opened| {
            (&opened).take(MAX_BYTES).read_to_end(&mut text)?;
            Ok(Mode::of(&opened.metadata()?))
        })
        .map_err(|source| TlsError::Read { what, file: file.to_owned(), source })?;
    // In the label of the section, or in a header line below it (RFC 1421).
    if text.windows(b"ENCRYPTED".len()).any(|window| window == b"ENCRYPTED") {
        return Err(TlsError::Encrypted { file: file.to_owned() });
    }
    let key = sections(&text, what, "pkey", file)?.into_iter().next();
    if mode.is_world_readable() {
        tracing::warn!(
            "every user of this machine can read the TLS key (mode {mode:o}); run: chmod o-r {}",
            file.display()
        );
    }
    key.ok_or_else(|| TlsError::NoSection { what, file: file.to_owned() })
}

/// Returns the sections of type `T` in a PEM file. `command` is the openssl command for that type.
fn sections<T: PemObject>(
    text: &[u8],
    what: &'static str,
    command: &'static str,
    file: &Path,
) -> Result<Vec<T>, TlsError> {
    let begin = b"-----BEGIN ";
    if !text.windows(begin.len()).any(|window| window == begin) {
        return Err(TlsError::NotPem { what, command, file: file.to_owned() });
    }
    // Without the message of the parser, which quotes the file.
    T::pem_slice_iter(text)
        .collect::<Result<_, pem::Error>>()
        .map_err(|_| TlsError::Damaged { what, file: file.to_owned() })
}
