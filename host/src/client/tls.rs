//! Which servers the client trusts, and why a TLS connection fails.
//!
//! A command has TLS 1.3 only (docs/compatibility.md 4). The server as a client of its upstream has
//! 1.2, too. Each client has its own configuration; nothing is set for the whole process. A server
//! is trusted if an authority has signed its certificate, or if the user gives exactly this
//! certificate with an option, as curl and openssl do.

use std::error::Error;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme, SupportedProtocolVersion, version,
};
use thiserror::Error;

use crate::certificate::{
    CertificateFacts, OPENSSL_OPTIONS, UnusableCertificate, Validity, certifies, seconds_now, time_as_text,
};

/// The most bytes of a file of certificates. All certificates of a system have less than one MiB.
const MAX_CA_BYTES: u64 = 4 << 20;

/// Which client it is, and so by which option the user gives certificates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum ClientRole {
    /// A command of the command line: `--tls-ca`.
    #[default]
    Command,
    /// The server, which passes requests on: `--upstream-ca`.
    Proxy,
}

impl ClientRole {
    const fn ca_option(self) -> &'static str {
        match self {
            Self::Command => "--tls-ca",
            Self::Proxy => "--upstream-ca",
        }
    }

    const fn ca_variable(self) -> &'static str {
        match self {
            Self::Command => "INFLUXDB3_TLS_CA",
            Self::Proxy => "INFLUXDB3_UPSTREAM_CA",
        }
    }

    fn versions(self) -> Vec<&'static SupportedProtocolVersion> {
        match self {
            Self::Command => vec![&version::TLS13],
            Self::Proxy => vec![&version::TLS13, &version::TLS12],
        }
    }
}

/// What a server must prove.
#[derive(Debug, Default)]
pub(crate) struct Trust {
    pub(crate) role: ClientRole,
    /// A file of certificates that are trusted beside those of the system: one in DER if its name
    /// ends in `.der`, any number in PEM otherwise.
    pub(crate) ca: Option<PathBuf>,
    /// Accepts every certificate.
    pub(crate) no_verify: bool,
}

/// The trusted certificates cannot be loaded.
#[derive(Debug, Error)]
pub(crate) enum TrustError {
    /// The file cannot be read.
    #[error("{option}: cannot read {path}")]
    Read { option: &'static str, path: PathBuf, source: io::Error },
    /// The file is larger than any file of certificates.
    #[error("{option}: {path} is larger than 4 MiB; give a file of certificates")]
    TooLarge { option: &'static str, path: PathBuf },
    /// The file holds no certificate that can be used.
    #[error("{option}: {path} holds no certificate{why}; a file named .der is DER, any other is PEM")]
    NoCertificate { option: &'static str, path: PathBuf, why: String },
    /// The TLS library refuses the configuration.
    #[error("cannot set up TLS")]
    Setup(#[from] rustls::Error),
}

impl Trust {
    /// Returns the configuration of a client. Loads the certificates of the system only for
    /// `https`.
    pub(crate) fn client_config(&self, https: bool) -> Result<ClientConfig, TrustError> {
        let mut roots = RootCertStore::empty();
        let given = match &self.ca {
            Some(path) => add_extra(&mut roots, path, self.role.ca_option())?,
            None => Vec::new(),
        };
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&self.role.versions())?;
        if self.no_verify {
            let verifier = Arc::new(NoVerification(provider));
            return Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth());
        }
        if https {
            // A certificate that cannot be read is not trusted; the failure of the connection names
            // it.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        // Without any authority there is no verifier: no certificate can be verified.
        let authorities = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let verifier = Arc::new(Verification {
            role: self.role,
            authorities: authorities.build().ok(),
            given,
            provider,
        });
        Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
    }
}

/// Adds the authorities of a file, and returns all its certificates.
fn add_extra(
    roots: &mut RootCertStore,
    path: &Path,
    option: &'static str,
) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let none = |why: Option<String>| TrustError::NoCertificate {
        option,
        path: path.to_owned(),
        why: why.map(|why| format!(" that can be used ({why})")).unwrap_or_default(),
    };
    let read = |source| TrustError::Read { option, path: path.to_owned(), source };
    let mut content = Vec::new();
    let file = File::open(path).map_err(read)?;
    file.take(MAX_CA_BYTES + 1).read_to_end(&mut content).map_err(read)?;
    if content.len() as u64 > MAX_CA_BYTES {
        return Err(TrustError::TooLarge { option, path: path.to_owned() });
    }
    let certificates: Vec<_> = if path.extension().is_some_and(|extension| extension == "der") {
        vec![CertificateDer::from(content)]
    } else {
        CertificateDer::pem_slice_iter(&content)
            .collect::<Result<_, pem::Error>>()
            .map_err(|error| none(Some(error.to_string())))?
    };
    if certificates.is_empty() {
        return Err(none(None));
    }
    for certificate in &certificates {
        match CertificateFacts::read(certificate) {
            // The verifier compares neither of an issuer that is trusted.
            Ok(facts) if facts.is_authority && facts.validity_at(seconds_now()) == Validity::Now => {
                roots.add(certificate.clone()).map_err(|error| none(Some(error.to_string())))?;
            }
            // Trusted as exactly this certificate, and as no issuer.
            Ok(_) | Err(UnusableCertificate::Version1) => {}
            Err(error @ UnusableCertificate::Malformed(_)) => return Err(none(Some(error.to_string()))),
        }
    }
    Ok(certificates)
}

/// Why a certificate is refused, and what mends that.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("invalid peer certificate: {reason}")]
struct Refusal {
    reason: String,
    hint: String,
}

impl Refusal {
    fn new(reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { reason: reason.into(), hint: hint.into() }
    }
}

/// Why a TLS connection failed, with a hint for the user.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TlsFailure {
    /// The peer did not prove that it is the server.
    Untrusted { reason: String, hint: String },
    /// The peer speaks another protocol, or another version of TLS.
    OtherProtocol(&'static str),
}

impl TlsFailure {
    /// Searches the causes of a failed connection for one that concerns TLS.
    pub(crate) fn find(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(error) = error.downcast_ref() {
                return Self::from_rustls(error);
            }
            next = error.source();
            if let Some(io) = error.downcast_ref::<io::Error>() {
                // Before the handshake is complete, a peer that does not speak TLS closes so.
                if matches!(io.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) {
                    return Some(Self::OtherProtocol(PLAIN_HTTP_HINT));
                }
                // An I/O error does not count what it wraps as its source.
                next = io.get_ref().map(|wrapped| wrapped as &(dyn Error + 'static)).or(next);
            }
        }
        None
    }

    fn from_rustls(error: &rustls::Error) -> Option<Self> {
        use rustls::Error::{AlertReceived, InvalidCertificate, InvalidMessage, PeerIncompatible};
        match error {
            InvalidCertificate(CertificateError::Other(OtherError(cause))) => {
                let refusal = cause.downcast_ref::<Refusal>()?;
                Some(Self::Untrusted { reason: refusal.to_string(), hint: refusal.hint.clone() })
            }
            // The signature of the handshake.
            InvalidCertificate(error) => Some(Self::Untrusted {
                reason: format!("the server has not proved that it has the key of its certificate ({error})"),
                hint: "Another server may be in its place. Check the address and the certificate.".to_owned(),
            }),
            InvalidMessage(_) => Some(Self::OtherProtocol(PLAIN_HTTP_HINT)),
            PeerIncompatible(_)
            | AlertReceived(AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure) => {
                Some(Self::OtherProtocol("Does the server allow TLS 1.3? This program requires it."))
            }
            _ => None,
        }
    }
}

const PLAIN_HTTP_HINT: &str = "If the server speaks plain HTTP, its URL begins with http://.";

/// Verifies the certificate of a server, and names the cause if it is refused.
#[derive(Debug)]
struct Verification {
    role: ClientRole,
    /// Those of the system and of the given file.
    authorities: Option<Arc<WebPkiServerVerifier>>,
    /// The certificates of the given file. Each is also trusted as that of a server.
    given: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verification {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = match &self.authorities {
            Some(authorities) => {
                authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            None => Err(CertificateError::UnknownIssuer.into()),
        };
        let Err(error) = verified else { return verified };
        match self.refuse(&error, end_entity, server_name, now) {
            None => Ok(ServerCertVerified::assertion()),
            Some(refusal) => {
                Err(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal)))))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Why no authority confirms a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unconfirmed {
    /// It is the certificate of an authority, presented as that of a server.
    IsAuthority,
    UnknownIssuer,
    /// The issuer has the name of a trusted authority, and is another one.
    SameName,
    /// The algorithm of its signature is not supported.
    Algorithm,
}

impl Unconfirmed {
    fn find(error: &rustls::Error) -> Option<Self> {
        use CertificateError::{
            BadSignature, Other, UnknownIssuer, UnsupportedSignatureAlgorithmContext,
            UnsupportedSignatureAlgorithmForPublicKeyContext,
        };
        let rustls::Error::InvalidCertificate(error) = error else { return None };
        match error {
            UnknownIssuer => Some(Self::UnknownIssuer),
            // The signature of the certificate. That of the handshake is verified elsewhere.
            BadSignature | UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => Some(Self::SameName),
            UnsupportedSignatureAlgorithmContext { .. } => Some(Self::Algorithm),
            Other(OtherError(cause)) => {
                let is_authority = matches!(cause.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity));
                is_authority.then_some(Self::IsAuthority)
            }
            _ => None,
        }
    }
}

impl Verification {
    /// Decides on a certificate that the authorities do not confirm, for this reason. Returns
    /// `None` for one that is trusted nevertheless: its name and time are right, it is for
    /// servers, and it is exactly one of those that the user gave.
    fn refuse(
        &self,
        error: &rustls::Error,
        certificate: &CertificateDer<'_>,
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Option<Refusal> {
        let facts = match CertificateFacts::read(certificate) {
            Ok(facts) => facts,
            Err(UnusableCertificate::Version1) => {
                return Some(Refusal::new(
                    "it is of version 1, which has no names (subjectAltName)",
                    format!(
                        "{REMAKE} If openssl x509 -req made it, add -extfile with a file that holds:\n  \
                         subjectAltName=DNS:localhost,IP:127.0.0.1"
                    ),
                ));
            }
            Err(malformed) => return Some(Refusal::new(malformed.to_string(), REMAKE)),
        };
        let refusal = refuse_facts(&facts, certificate, server_name, now.as_secs());
        if refusal.is_some() {
            return refusal;
        }
        let Some(unconfirmed) = Unconfirmed::find(error) else {
            return Some(Refusal::new(
                error.to_string().trim_start_matches("invalid peer certificate: ").to_owned(),
                "Check the certificate of the server and those of its issuers, with:\n  openssl x509 -noout -text -in FILE",
            ));
        };
        if self.given.iter().any(|given| given == certificate) {
            return None;
        }
        Some(self.refuse_unconfirmed(unconfirmed, &facts))
    }

    fn refuse_unconfirmed(&self, unconfirmed: Unconfirmed, facts: &CertificateFacts) -> Refusal {
        let renewed = if self.given.is_empty() {
            ""
        } else {
            " The file that was given has neither; was the certificate renewed?"
        };
        let (option, variable) = (self.role.ca_option(), self.role.ca_variable());
        let reason = match unconfirmed {
            Unconfirmed::IsAuthority => {
                return Refusal::new(
                    "it is that of an authority (CA:TRUE), and not one that is trusted here",
                    format!(
                        "If the server is yours, give exactly this certificate with {option} FILE or {variable}.{renewed} \
                         To make one that is none, add with openssl req -x509:\n  {OPENSSL_OPTIONS}"
                    ),
                );
            }
            Unconfirmed::SameName => {
                "its issuer has the name of an authority that is trusted here, and another key"
            }
            Unconfirmed::Algorithm => "its issuer signed it with an algorithm that is not supported",
            Unconfirmed::UnknownIssuer if facts.is_self_issued => {
                "it is signed by itself, and is not one that is trusted here"
            }
            Unconfirmed::UnknownIssuer => "its issuer is unknown (UnknownIssuer)",
        };
        Refusal::new(
            reason,
            format!(
                "If the server is yours, give the certificate of the authority that signed its certificate, or this \
                 certificate itself, with {option} FILE or {variable}.{renewed}"
            ),
        )
    }
}

/// Decides on what a certificate states. The time comes first, because a renewal mends it,
/// whatever else is wrong.
fn refuse_facts(
    facts: &CertificateFacts,
    certificate: &CertificateDer<'_>,
    server_name: &ServerName<'_>,
    now: u64,
) -> Option<Refusal> {
    match facts.validity_at(now) {
        Validity::Now => {}
        Validity::Expired => {
            return Some(Refusal::new(
                format!("it expired at {}", time_as_text(facts.not_after)),
                "Renew the certificate of the server, or set the clock of this machine.",
            ));
        }
        Validity::NotYet => {
            return Some(Refusal::new(
                format!("it is not valid before {}", time_as_text(facts.not_before)),
                "Set the clock of this machine, or that of the machine on which the certificate was made.",
            ));
        }
    }
    if facts.names.is_empty() {
        return Some(Refusal::new(
            "it has no names (subjectAltName); a common name (CN) alone does not count",
            format!("{REMAKE} With openssl req -x509, add:\n  {OPENSSL_OPTIONS}"),
        ));
    }
    if !certifies(certificate, &server_name.to_str()) {
        return Some(Refusal::new(
            format!(
                "it is not valid for name {:?}; it names {}",
                server_name.to_str(),
                facts.names_as_text()
            ),
            "Give --host the name that the certificate was made for, or make a certificate for this name.",
        ));
    }
    if !facts.is_for_servers {
        return Some(Refusal::new(
            "it is not for servers (extendedKeyUsage)",
            format!("{REMAKE} Add extendedKeyUsage=serverAuth, or leave that extension out."),
        ));
    }
    None
}

const REMAKE: &str = "Make another certificate for the server.";

/// Accepts every certificate, for `--tls-no-verify`.
#[derive(Debug)]
struct NoVerification(Arc<CryptoProvider>);

impl ServerCertVerifier for NoVerification {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
