//! What an X.509 certificate states: its names, its time and its role.
//!
//! The verifier of the clients (webpki) answers each question here, so that this agrees with what
//! clients decide. Knows no files and no sockets.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use thiserror::Error;
use webpki::{EndEntityCert, KeyUsage};

/// The options of openssl that make a certificate which every client accepts.
pub(crate) const OPENSSL_OPTIONS: &str =
    "-addext subjectAltName=DNS:localhost,IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE";

/// The statements of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CertificateFacts {
    /// The names in its subjectAltName: DNS names, wildcards included, and addresses.
    pub(crate) names: Vec<String>,
    /// Its first second, since 1970.
    pub(crate) not_before: u64,
    /// Its last second, since 1970.
    pub(crate) not_after: u64,
    /// Whether it may sign other certificates (CA:TRUE).
    pub(crate) is_authority: bool,
    /// Whether its purpose can be that of a server (extendedKeyUsage).
    pub(crate) is_for_servers: bool,
    /// Whether its issuer has the name of its subject.
    pub(crate) is_self_issued: bool,
}

/// A certificate that no client of rustls accepts, whatever it trusts.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum UnusableCertificate {
    /// `openssl x509 -req` makes such certificates from a request.
    #[error(
        "it is an X.509 certificate of version 1, which has no names (subjectAltName); if openssl x509 -req made it, \
         add -extfile FILE, with a line such as subjectAltName=DNS:localhost,IP:127.0.0.1"
    )]
    Version1,
    /// The content is not that of a certificate.
    #[error("it is malformed ({0})")]
    Malformed(webpki::Error),
}

/// The time of a certificate, compared with a clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Validity {
    NotYet,
    Now,
    Expired,
}

impl CertificateFacts {
    /// Reads a certificate. Does not check its signature.
    pub(crate) fn read(certificate: &CertificateDer<'_>) -> Result<Self, UnusableCertificate> {
        let certificate = EndEntityCert::try_from(certificate).map_err(|error| match error {
            webpki::Error::UnsupportedCertVersion => UnusableCertificate::Version1,
            error => UnusableCertificate::Malformed(error),
        })?;
        // Before any name, the verifier compares the time. It reports what it has compared.
        let not_before = match check_at(&certificate, 0) {
            webpki::Error::CertNotValidYet { not_before, .. } => not_before.as_secs(),
            _ => 0,
        };
        let not_after = match check_at(&certificate, u64::MAX) {
            webpki::Error::CertExpired { not_after, .. } => not_after.as_secs(),
            error => return Err(UnusableCertificate::Malformed(error)),
        };
        let objection = check_at(&certificate, not_before);
        Ok(Self {
            names: names(&certificate),
            not_before,
            not_after,
            is_authority: objection == webpki::Error::CaUsedAsEndEntity,
            // Of an authority it is not known: the verifier objects to that first.
            is_for_servers: !matches!(objection, webpki::Error::RequiredEkuNotFoundContext(_)),
            is_self_issued: certificate.issuer() == certificate.subject(),
        })
    }

    /// Compares its time with `now`, in seconds since 1970.
    pub(crate) fn validity_at(&self, now: u64) -> Validity {
        match now {
            now if now < self.not_before => Validity::NotYet,
            now if now > self.not_after => Validity::Expired,
            _ => Validity::Now,
        }
    }

    /// Returns its names as a list for a message, the first ten.
    pub(crate) fn names_as_text(&self) -> String {
        match self.names.split_at_checked(10) {
            Some((first, others)) if !others.is_empty() => {
                format!("{} and {} more", first.join(", "), others.len())
            }
            _ => self.names.join(", "),
        }
    }
}

/// Returns whether the certificate is valid for this name or address.
pub(crate) fn certifies(certificate: &CertificateDer<'_>, name: &str) -> bool {
    let certificate = EndEntityCert::try_from(certificate).ok();
    certificate
        .zip(ServerName::try_from(name).ok())
        .is_some_and(|(certificate, name)| certificate.verify_is_valid_for_subject_name(&name).is_ok())
}

/// Returns the seconds since 1970.
pub(crate) fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs())
}

/// Returns a time in seconds since 1970 as text, such as `2027-02-23T21:02:54Z`.
pub(crate) fn time_as_text(seconds: u64) -> String {
    // The last second that the format can express.
    const LAST: u64 = 253_402_300_799;
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds.min(LAST))).to_string()
}

/// Returns what a verifier without any authority objects to first.
fn check_at(certificate: &EndEntityCert<'_>, seconds: u64) -> webpki::Error {
    let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let verified = certificate.verify_for_usage(&[], &[], &[], time, KeyUsage::server_auth(), None, None);
    verified.err().unwrap_or(webpki::Error::UnknownIssuer)
}

/// Returns the names of a certificate, as the verifier lists them for a name that none has.
fn names(certificate: &EndEntityCert<'_>) -> Vec<String> {
    let Ok(none) = ServerName::try_from("none.invalid") else { return Vec::new() };
    let Err(webpki::Error::CertNotValidForName(context)) =
        certificate.verify_is_valid_for_subject_name(&none)
    else {
        return Vec::new();
    };
    let name = |listed: &str| {
        if let Some(name) = listed.strip_prefix("DnsName(\"") {
            return Some(name.strip_suffix("\")")?.to_owned());
        }
        let address = listed.strip_prefix("IpAddress(")?.strip_suffix(')')?;
        Some(address.strip_prefix("0::").map_or_else(|| address.to_owned(), |rest| format!("::{rest}")))
    };
    context.presented.iter().filter_map(|listed| name(listed)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd};

    fn made(names: &[&str], change: impl Fn(&mut CertificateParams)) -> CertificateDer<'static> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn facts_are_those_of_the_certificate() {
        let certificate = made(&["localhost", "*.wild.example", "127.0.0.1", "::1"], |params| {
            params.not_before = date_time_ymd(2026, 1, 1);
            params.not_after = date_time_ymd(2027, 1, 1);
        });
        let facts = CertificateFacts::read(&certificate).unwrap();
        assert_eq!(facts.names_as_text(), "localhost, *.wild.example, 127.0.0.1, ::1");
        assert_eq!(time_as_text(facts.not_before), "2026-01-01T00:00:00Z");
        assert_eq!(time_as_text(facts.not_after), "2027-01-01T00:00:00Z");
        assert!(facts.is_self_issued && facts.is_for_servers);
        for (seconds, expected) in [
            (facts.not_before - 1, Validity::NotYet),
            (facts.not_before, Validity::Now),
            (facts.not_after, Validity::Now),
            (facts.not_after + 1, Validity::Expired),
        ] {
            assert_eq!(facts.validity_at(seconds), expected, "{seconds}");
        }
        for (name, expected) in
            [("localhost", true), ("a.wild.example", true), ("127.0.0.1", true), ("::1", true)]
                .into_iter()
                .chain([("example", false), ("127.0.0.2", false), ("", false)])
        {
            assert_eq!(certifies(&certificate, name), expected, "{name}");
        }
    }

    #[test]
    fn purpose_is_that_of_a_server() {
        for (purpose, expected) in
            [(ExtendedKeyUsagePurpose::ServerAuth, true), (ExtendedKeyUsagePurpose::ClientAuth, false)]
        {
            let certificate = made(&["a"], |params| params.extended_key_usages = vec![purpose.clone()]);
            assert_eq!(CertificateFacts::read(&certificate).unwrap().is_for_servers, expected);
        }
    }

    #[test]
    fn missing_names_and_long_lists_are_shown() {
        let authority = made(&[], |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
        assert!(CertificateFacts::read(&authority).unwrap().names.is_empty());
        let many = made(&["a"; 12], |_| ());
        assert!(CertificateFacts::read(&many).unwrap().names_as_text().ends_with("a, a and 2 more"));
        let endless = made(&["a"], |params| params.not_after = date_time_ymd(9999, 12, 31));
        assert_eq!(time_as_text(CertificateFacts::read(&endless).unwrap().not_after), "9999-12-31T00:00:00Z");
        let broken = CertificateDer::from(vec![0]);
        assert!(matches!(CertificateFacts::read(&broken), Err(UnusableCertificate::Malformed(_))));
    }
}
