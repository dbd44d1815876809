//! The URL of a store: endpoints, prefix, user and certificates.

use std::env;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use url::{Host, Url};
use zeroize::Zeroizing;

use crate::store::remote::password::{Environment, FILE_VARIABLE, Password, VARIABLE};
use crate::store::remote::{ConnectError, Identity, client_config};

/// The port of a member, if the URL names none.
const DEFAULT_PORT: u16 = 2379;

/// The options of a URL, for errors.
const OPTIONS: &str = "allow_http, ca, cert and key";

/// The form of a URL, for errors.
const FORM: &str = "etcd://HOST:PORT[,HOST:PORT…]/PREFIX";

/// What an error shows instead of a URL without a right form.
const NO_FORM: &str = "URL of etcd";

/// Why a URL with an @ behind its hosts is refused.
const LATE_AT: &str = "it has an @ behind the first / or ? or #; in a user, a password or a prefix write %40 \
                       for @, %2F for /, %3F for ? and %23 for #";

/// A parsed URL.
pub(super) struct Address {
    /// The URL without secrets.
    pub(super) shown: String,
    /// The root of each member, in the order of the URL; one at least.
    pub(super) endpoints: Vec<Url>,
    /// What all keys begin with, without a slash at its end.
    pub(super) prefix: String,
    pub(super) user: Option<User>,
    is_encrypted: bool,
    files: Files,
}

/// A user of etcd.
#[derive(Debug)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) password: Password,
}

#[derive(Default)]
struct Files {
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl Address {
    pub(super) fn parse(url: &str) -> Result<Self, ConnectError> {
        Self::parse_with(url, &|name| env::var_os(name))
    }

    fn parse_with(url: &str, environment: Environment<'_>) -> Result<Self, ConnectError> {
        let parts = Parts::split(url).map_err(|reason| wrong(url, reason))?;
        let endpoints = parts.endpoints().map_err(|reason| wrong(url, reason))?;
        let prefix = parts.prefix().map_err(|reason| wrong(url, reason))?;
        let options = Options::parse(parts.query).map_err(|reason| wrong(url, reason))?;
        let names_files =
            options.files.ca.is_some() || options.files.certificate.is_some() || options.files.key.is_some();
        if names_files && !parts.is_encrypted {
            return Err(wrong(url, "ca, cert and key are for TLS; write etcds:// instead of etcd://"));
        }
        if options.files.certificate.is_some() != options.files.key.is_some() {
            return Err(wrong(url, "cert and key belong together; name the file of each"));
        }
        let is_exposed =
            |endpoint: &&Url| !parts.is_encrypted && !options.allow_http && !is_loopback(endpoint);
        if let Some(endpoint) = endpoints.iter().find(is_exposed) {
            let host = endpoint.host_str().unwrap_or_default();
            return Err(wrong(
                url,
                format!(
                    "{host} is another machine, and etcd:// sends hashes of tokens and the password as plain \
                     text; write etcds://, or add allow_http=true on a network that nothing else can read"
                ),
            ));
        }
        let shown = format!("{}://{}/{prefix}", parts.scheme(), parts.hosts);
        let user = parts.user(environment).map_err(|fault| match fault {
            UserFault::Url(reason) => wrong(url, reason),
            UserFault::Environment(reason) => ConnectError::Setup { address: shown.clone(), reason },
        })?;
        Ok(Self { shown, endpoints, prefix, user, is_encrypted: parts.is_encrypted, files: options.files })
    }

    /// Reads the certificates. A client without TLS trusts none, and leaves the files of the system
    /// alone.
    pub(super) fn client_config(&self) -> Result<ClientConfig, ConnectError> {
        let failed = |reason| ConnectError::Setup { address: self.shown.clone(), reason };
        if !self.is_encrypted {
            let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(|error| failed(error.to_string()))?;
            return Ok(config.with_root_certificates(RootCertStore::empty()).with_no_client_auth());
        }
        let Files { ca, certificate, key } = &self.files;
        let identity = certificate.as_deref().zip(key.as_deref());
        let identity = identity.map(|(certificate, key)| Identity { certificate, key });
        client_config(ca.as_deref(), identity).map_err(failed)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Address").field(&self.shown).finish()
    }
}

fn wrong(url: &str, reason: impl Into<String>) -> ConnectError {
    ConnectError::Url { url: without_secrets(url), reason: reason.into() }
}

/// Returns the URL for an error, without its user, password and query. Only the form shows where a
/// password is, so a URL of another form is not shown.
fn without_secrets(url: &str) -> String {
    let Some((scheme @ ("etcd" | "etcds"), rest)) = url.split_once("://") else {
        return NO_FORM.to_owned();
    };
    if has_late_at(rest) {
        return format!("{scheme}://…");
    }
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let rest = rest.rsplit_once('@').map_or(rest, |(_, hosts)| hosts);
    format!("{scheme}://{rest}")
}

/// Returns whether an @ stands behind the hosts: a password before it may have a / itself, whose
/// rest would be taken for the prefix.
fn has_late_at(rest: &str) -> bool {
    rest.find(['/', '?', '#']).and_then(|end| rest.get(end..)).is_some_and(|behind| behind.contains('@'))
}

fn is_loopback(endpoint: &Url) -> bool {
    match endpoint.host() {
        Some(Host::Ipv4(ip)) => IpAddr::from(ip).is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::from(ip).to_canonical().is_loopback(),
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        None => false,
    }
}

/// The parts of a URL. The crate `url` knows one host with one port, so the list is split here.
struct Parts<'a> {
    is_encrypted: bool,
    user: Option<&'a str>,
    hosts: &'a str,
    path: &'a str,
    query: &'a str,
}

enum UserFault {
    Url(String),
    Environment(String),
}

impl<'a> Parts<'a> {
    fn split(url: &'a str) -> Result<Self, String> {
        let form = || format!("it has not the form {FORM}");
        let (scheme, rest) = url.split_once("://").ok_or_else(form)?;
        let is_encrypted = match scheme {
            "etcd" => false,
            "etcds" => true,
            _ => return Err("its scheme is neither etcd nor etcds".to_owned()),
        };
        if has_late_at(rest) {
            return Err(LATE_AT.to_owned());
        }
        if rest.contains('#') {
            return Err("it has a fragment; write %23 for the character #".to_owned());
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (Some(user), hosts),
            None => (None, authority),
        };
        Ok(Self { is_encrypted, user, hosts, path, query })
    }

    fn scheme(&self) -> &'static str {
        if self.is_encrypted { "etcds" } else { "etcd" }
    }

    fn endpoints(&self) -> Result<Vec<Url>, String> {
        let scheme = if self.is_encrypted { "https" } else { "http" };
        let endpoint = |host: &str| {
            // Its text may be a password, if the URL is wrong.
            let fault = || "a host is no HOST:PORT".to_owned();
            if host.is_empty() || host.contains(|next: char| next.is_whitespace() || next == '\\') {
                return Err(fault());
            }
            let mut endpoint = Url::parse(&format!("{scheme}://{host}/")).map_err(|_| fault())?;
            // The crate drops the port that HTTP would have, which is none of etcd.
            let names_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
            if !names_port {
                endpoint.set_port(Some(DEFAULT_PORT)).map_err(|()| fault())?;
            }
            Ok(endpoint)
        };
        self.hosts.split(',').map(endpoint).collect()
    }

    fn prefix(&self) -> Result<String, String> {
        let prefix = decoded(self.path)?;
        let prefix = prefix.trim_matches('/');
        if prefix.is_empty() {
            return Err(format!("it names no prefix of the keys; write {FORM}, such as /optoken"));
        }
        if prefix.split('/').any(|part| matches!(part, "" | "." | "..")) || prefix.contains(char::is_control)
        {
            return Err("its prefix has an empty part, a part of dots or a control character".to_owned());
        }
        Ok(prefix.to_owned())
    }

    fn user(&self, environment: Environment<'_>) -> Result<Option<User>, UserFault> {
        let Some(text) = self.user else { return Ok(None) };
        let (name, password) = match text.split_once(':') {
            Some((name, password)) => (name, Some(password)),
            None => (text, None),
        };
        let name = decoded(name).map_err(UserFault::Url)?;
        if name.is_empty() {
            return Err(UserFault::Url("it has a password without a user".to_owned()));
        }
        let of_url = password.map(|text| decoded(text).map(Zeroizing::new)).transpose();
        let of_url = of_url.map_err(UserFault::Url)?;
        let of_url = of_url.as_ref().map(|password| password.as_bytes());
        match Password::find(of_url, None, environment).map_err(UserFault::Environment)? {
            Password::None => Err(UserFault::Environment(format!(
                "the user {name} has no password; set {FILE_VARIABLE} or {VARIABLE}"
            ))),
            password => Ok(Some(User { name, password })),
        }
    }
}

#[derive(Default)]
struct Options {
    allow_http: bool,
    files: Files,
}

impl Options {
    fn parse(query: &str) -> Result<Self, String> {
        let mut options = Self::default();
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let file = match name {
                "allow_http" => {
                    options.allow_http = match value {
                        "true" => true,
                        "false" => false,
                        _ => return Err("allow_http is neither true nor false".to_owned()),
                    };
                    continue;
                }
                "ca" => &mut options.files.ca,
                "cert" => &mut options.files.certificate,
                "key" => &mut options.files.key,
                // Its text may be a part of a password.
                _ => return Err(format!("it has an unknown option; the options are {OPTIONS}")),
            };
            let value = decoded(value)?;
            if value.is_empty() {
                return Err(format!("the option {name} has no value"));
            }
            if file.replace(PathBuf::from(value)).is_some() {
                return Err(format!("the option {name} stands twice"));
            }
        }
        Ok(options)
    }
}

/// Decodes `%XX`. A plus sign stays as it is, as in a path.
fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' {
            let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
            let value = digit().zip(digit()).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
            value.ok_or("it has a % without two hexadecimal digits; write %25 for the character")?
        } else {
            byte
        });
    }
    String::from_utf8(bytes).map_err(|_| "it decodes to text that is not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn parse(url: &str) -> Result<Address, String> {
        Address::parse_with(url, &|_| None).map_err(|error| error.to_string())
    }

    #[test]
    fn url_names_endpoints_prefix_and_user() {
        let address =
            parse("etcds://ops:p%40ss:w@a.example,b.example:2390,[::1],10.0.0.1:443/team/optoken/").unwrap();
        let endpoints: Vec<_> = address.endpoints.iter().map(Url::as_str).collect();
        assert_eq!(
            endpoints,
            [
                "https://a.example:2379/",
                "https://b.example:2390/",
                "https://[::1]:2379/",
                "https://10.0.0.1/"
            ]
        );
        assert_eq!(address.prefix, "team/optoken");
        assert_eq!(address.shown, "etcds://a.example,b.example:2390,[::1],10.0.0.1:443/team/optoken");
        let user = address.user.as_ref().unwrap();
        assert_eq!((user.name.as_str(), user.password.read().unwrap().unwrap().expose()), ("ops", "p@ss:w"));
        assert!(!format!("{address:?} {user:?}").contains("p@ss"));
    }

    #[test]
    fn plain_text_is_for_this_machine() {
        for host in ["127.0.0.1:1", "[::1]:1", "localhost", "[::ffff:127.0.0.1]"] {
            parse(&format!("etcd://{host}/p")).unwrap();
        }
        for host in ["10.0.0.1", "a.example", "127.0.0.1,10.0.0.1:2379", "localhost.example"] {
            let error = parse(&format!("etcd://{host}/p")).unwrap_err();
            assert!(error.contains("etcds://") && error.contains("allow_http=true"), "{error}");
            parse(&format!("etcd://{host}/p?allow_http=true")).unwrap();
        }
    }

    #[test]
    fn wrong_url_names_part_and_form_without_password() {
        for (url, expected) in [
            ("http://u:secret@h/p", "neither etcd nor etcds"),
            ("etcd://u:secret@localhost", "names no prefix"),
            ("etcd://u:secret@localhost//", "names no prefix"),
            ("etcd://u:secret@localhost/a//b", "empty part"),
            ("etcd://u:secret@localhost/a/../b", "a part of dots"),
            ("etcd://u:secret@localhost,/p", "a host is no HOST:PORT"),
            ("etcd://u:secret@localhost:x/p", "a host is no HOST:PORT"),
            ("etcd://:secret@localhost/p", "without a user"),
            ("etcd://u:secret%4@localhost/p", "hexadecimal"),
            ("etcd://u:secret@localhost/p?colour=1", "the options are allow_http, ca, cert and key"),
            ("etcd://u:secret@localhost/p?allow_http=yes", "neither true nor false"),
            ("etcd://u:secret@localhost/p?ca=/x", "write etcds://"),
            ("etcds://u:secret@localhost/p?cert=/x", "belong together"),
            ("etcds://u:secret@localhost/p?ca=/x&ca=/y", "stands twice"),
            ("etcds://u:secret@localhost/p?ca=", "no value"),
            ("etcd://u:secret@localhost/p#f", "fragment"),
        ] {
            let error = parse(url).unwrap_err();
            assert!(error.contains(expected), "{url}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn whole_message_has_no_part_of_a_password() {
        let late = |shown: &str| format!("{shown}: {LATE_AT}");
        let unknown = format!("it has an unknown option; the options are {OPTIONS}");
        for (url, expected) in [
            ("etcds://u:12/secret@h/p", late("etcds://…")),
            ("etcd://u:sec/ret@localhost/p", late("etcd://…")),
            ("etcd://u:sec?ret@localhost/p", late("etcd://…")),
            ("etcd://u:sec#ret@localhost/p", late("etcd://…")),
            ("etcd://u:sec://ret@localhost/p", late("etcd://…")),
            ("etcds://h/p?password=sec@ret", late("etcds://…")),
            ("etcds://u:a@h/p?ca=/sec@ret", late("etcds://…")),
            ("etcds://h/p?password=secret", format!("etcds://h/p: {unknown}")),
            ("etcds://u:a@b@h/p?ca=/x&secret", format!("etcds://h/p: {unknown}")),
            (
                "etcds://h?secret",
                format!("etcds://h: it names no prefix of the keys; write {FORM}, such as /optoken"),
            ),
            (
                "etcds://h/p#secret",
                "etcds://h/p: it has a fragment; write %23 for the character #".to_owned(),
            ),
            ("etcd://u:se\\cret@h\\x/p", "etcd://h\\x/p: a host is no HOST:PORT".to_owned()),
            ("etcd:u:secret@h/p", format!("{NO_FORM}: it has not the form {FORM}")),
            ("u:secret@h://p", format!("{NO_FORM}: its scheme is neither etcd nor etcds")),
        ] {
            assert_eq!(parse(url).unwrap_err(), expected, "{url}");
        }
        let address = parse("etcds://u:sec%2Fret%40@h/p%40q").unwrap();
        assert_eq!((address.shown.as_str(), address.prefix.as_str()), ("etcds://h/p@q", "p@q"));
    }

    #[test]
    fn password_comes_from_variable_or_file() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"of the file\n").unwrap();
        let path = file.path().as_os_str().to_owned();
        let of_file = |name: &str| (name == FILE_VARIABLE).then(|| path.clone());
        let of_variable = |name: &str| (name == VARIABLE).then(|| "v".into());
        let password = |environment: Environment<'_>| {
            let address = Address::parse_with("etcd://u@localhost/p", environment);
            address.map(|address| address.user.unwrap().password.read().unwrap().unwrap().expose().to_owned())
        };
        assert_eq!(password(&of_file).unwrap(), "of the file");
        assert_eq!(password(&of_variable).unwrap(), "v");
        let error = password(&|_| None).unwrap_err().to_string();
        assert!(error.contains(FILE_VARIABLE) && error.contains("user u"), "{error}");
        let missing = |name: &str| (name == FILE_VARIABLE).then(|| "/nonexistent/password".into());
        let error = password(&missing).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/password"), "{error}");
    }

    #[test]
    fn missing_certificate_is_named() {
        let address = parse("etcds://localhost/p?ca=/nonexistent/ca.pem").unwrap();
        let error = address.client_config().unwrap_err().to_string();
        assert!(error.contains("/nonexistent/ca.pem"), "{error}");
        parse("etcd://localhost/p").unwrap().client_config().unwrap();
    }
}
