//! The URL of a store: hosts, database, user, table, encryption, and how freshness is proved.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use tokio_postgres::Config;
use tokio_postgres::config::{ChannelBinding, Host};
use tokio_postgres_rustls::MakeRustlsConnect;
use url::form_urlencoded;

use crate::store::postgres::table::Table;
use crate::store::remote::password::{Environment, Password};
use crate::store::remote::{ConnectError, Identity, client_config};

/// The variable of PostgreSQL's own clients.
const LIBPQ_PASSWORD: &str = "PGPASSWORD";

/// The port of a server, if the URL names none.
const DEFAULT_PORT: u16 = 5432;

/// The form of a URL, for errors.
const FORM: &str = "postgres://USER@HOST:PORT[,HOST:PORT…]/DATABASE";

/// The options of a URL, for errors.
const OPTIONS: &str = "channel_binding, host, port, proof, sslcert, sslkey, sslmode, sslrootcert, table and \
                       target_session_attrs";

/// A parsed URL, with the files that it names.
pub(super) struct Address {
    /// The URL without secrets.
    pub(super) shown: String,
    /// In the order of the URL; one at least.
    pub(super) servers: Vec<Server>,
    pub(super) user: String,
    pub(super) database: String,
    pub(super) password: Password,
    /// Absent where connections are not encrypted.
    pub(super) tls: Option<MakeRustlsConnect>,
    pub(super) channel_binding: ChannelBinding,
    pub(super) table: Table,
    pub(super) proof: Proof,
}

/// A server of the URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Server {
    Network { host: String, port: u16 },
    Socket { directory: PathBuf, port: u16 },
}

/// What proves that a version is the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// A read on the primary.
    Read,
    /// A commit before the read, which waits for the synchronous standbys.
    Write,
}

/// The options behind the question mark.
#[derive(Default)]
struct Options {
    hosts: Vec<String>,
    ports: Vec<u16>,
    plain: bool,
    encrypted: bool,
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    channel_binding: Option<ChannelBinding>,
    table: Option<Table>,
    proof: Option<Proof>,
}

impl Address {
    /// Parses a URL, and reads the files that it and the environment name. Calls no server.
    pub(super) fn parse(url: &str, environment: Environment<'_>) -> Result<Self, ConnectError> {
        let scheme = if url.starts_with("postgresql://") { "postgresql" } else { "postgres" };
        let wrong = |reason: String| ConnectError::Url { url: format!("{scheme}://…"), reason };
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let options = Options::parse(query).map_err(wrong)?;
        let (config, servers) = servers(base, &options).map_err(wrong)?;
        let user = config.get_user().filter(|user| !user.is_empty());
        let user = user.ok_or_else(|| wrong(format!("it names no user; write {FORM}")))?.to_owned();
        let database = config.get_dbname().unwrap_or(&user).to_owned();
        let hosts: Vec<_> = servers.iter().map(ToString::to_string).collect();
        let shown = format!("{scheme}://{user}@{}/{database}", hosts.join(","));
        let wrong = |reason: String| ConnectError::Url { url: shown.clone(), reason };
        let encrypted = options.encrypts(&servers).map_err(wrong)?;
        let failed = |reason: String| ConnectError::Setup { address: shown.clone(), reason };
        let tls = if encrypted { Some(options.tls().map_err(failed)?) } else { None };
        let password =
            Password::find(config.get_password(), Some(LIBPQ_PASSWORD), environment).map_err(failed)?;
        Ok(Self {
            servers,
            user,
            database,
            password,
            tls,
            channel_binding: options.channel_binding.unwrap_or(ChannelBinding::Prefer),
            table: options.table.unwrap_or_default(),
            proof: options.proof.unwrap_or(Proof::Read),
            shown,
        })
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Address").field(&self.shown).finish()
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Network { host, port } => write!(f, "{host}:{port}"),
            Self::Socket { directory, port } => write!(f, "{}:{port}", directory.display()),
        }
    }
}

impl Server {
    fn is_socket(&self) -> bool {
        matches!(self, Self::Socket { .. })
    }

    /// Whether no other machine sees what is sent to it.
    fn is_local(&self) -> bool {
        match self {
            Self::Network { host, .. } => {
                let ip = host.parse().map(|ip: IpAddr| ip.to_canonical().is_loopback());
                ip.unwrap_or_else(|_| host.eq_ignore_ascii_case("localhost"))
            }
            Self::Socket { .. } => true,
        }
    }
}

/// Returns the parts before the options. No reason holds a part of the URL that may be a password.
fn servers(base: &str, options: &Options) -> Result<(Config, Vec<Server>), String> {
    if base.contains('#') {
        return Err("it has a fragment; write %23 for a # in a password".to_owned());
    }
    let encode = "in a password, percent-encode every character but letters and digits";
    let config: Config = base.parse().map_err(|_| format!("it is not of the form {FORM}; {encode}"))?;
    let named: Vec<Host> = config.get_hosts().to_vec();
    let (hosts, ports) = match (named.is_empty(), options.hosts.is_empty()) {
        (false, true) => (named, config.get_ports().to_vec()),
        (true, false) => {
            let host = |host: &String| match host.strip_prefix('/') {
                Some(_) => Host::Unix(PathBuf::from(host)),
                None => Host::Tcp(host.clone()),
            };
            (options.hosts.iter().map(host).collect(), Vec::new())
        }
        (true, true) => {
            return Err(format!("it names no host; write {FORM}, or host=DIRECTORY for a Unix socket"));
        }
        (false, false) => return Err("it names hosts before and in the options; name them once".to_owned()),
    };
    let ports = if options.ports.is_empty() { ports } else { options.ports.clone() };
    if ports.len() > 1 && ports.len() != hosts.len() {
        return Err("the number of ports is not that of the hosts".to_owned());
    }
    let server = |(index, host): (usize, Host)| {
        let port = ports.get(index).or(ports.first()).copied().unwrap_or(DEFAULT_PORT);
        match host {
            Host::Tcp(host) if host.is_empty() || host.contains(['@', '/', ':', ' ']) && !is_ip(&host) => {
                Err(format!("a host is empty or has a character that no host has; {encode}"))
            }
            Host::Tcp(host) => Ok(Server::Network { host, port }),
            Host::Unix(directory) => Ok(Server::Socket { directory, port }),
        }
    };
    let servers: Vec<_> = hosts.into_iter().enumerate().map(server).collect::<Result<_, _>>()?;
    Ok((config, servers))
}

fn is_ip(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok()
}

impl Options {
    fn parse(query: &str) -> Result<Self, String> {
        let mut options = Self::default();
        let mut seen = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if value.is_empty() {
                return Err(format!("the option {name} has no value"));
            }
            options.set(&name, &value)?;
            if seen.contains(&name) {
                return Err(format!("the option {name} stands twice"));
            }
            seen.push(name);
        }
        if options.certificate.is_some() != options.key.is_some() {
            return Err("sslcert and sslkey belong together; name the file of each".to_owned());
        }
        let has_files = options.ca.is_some() || options.certificate.is_some();
        if has_files && options.plain {
            return Err("sslmode=disable uses no certificates; remove it, or their files".to_owned());
        }
        options.encrypted |= has_files;
        Ok(options)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match (name, value) {
            ("host", hosts) => self.hosts = hosts.split(',').map(str::to_owned).collect(),
            ("port", ports) => {
                let ports: Result<_, _> = ports.split(',').map(str::parse).collect();
                self.ports = ports.map_err(|_| "a port is a number from 1 to 65535".to_owned())?;
            }
            // The certificate is verified, with the name of the host, in every mode.
            // As libpq, the root certificate `system` is one of the system.
            ("sslmode", "require" | "verify-ca" | "verify-full") | ("sslrootcert", "system") => {
                self.encrypted = true;
            }
            ("sslmode", "disable") => self.plain = true,
            ("sslmode", "allow" | "prefer") => {
                return Err(format!("sslmode={value} may send plain text; write sslmode=require"));
            }
            ("sslmode", _) => return Err("sslmode is disable, require, verify-ca or verify-full".to_owned()),
            ("sslrootcert", file) => self.ca = Some(PathBuf::from(file)),
            ("sslcert", file) => self.certificate = Some(PathBuf::from(file)),
            ("sslkey", file) => self.key = Some(PathBuf::from(file)),
            ("channel_binding", "disable") => self.channel_binding = Some(ChannelBinding::Disable),
            ("channel_binding", "prefer") => self.channel_binding = Some(ChannelBinding::Prefer),
            ("channel_binding", "require") => self.channel_binding = Some(ChannelBinding::Require),
            ("channel_binding", _) => {
                return Err("channel_binding is disable, prefer or require".to_owned());
            }
            ("table", name) => self.table = Some(Table::parse(name)?),
            ("proof", "read") => self.proof = Some(Proof::Read),
            ("proof", "write") => self.proof = Some(Proof::Write),
            ("proof", _) => return Err("proof is read or write".to_owned()),
            // Every connection is to the primary.
            ("target_session_attrs", "primary" | "read-write") => {}
            ("target_session_attrs", _) => {
                return Err("target_session_attrs is read-write: a standby proves nothing".to_owned());
            }
            ("password", _) => return Err("a password does not belong in an option".to_owned()),
            _ => return Err(format!("{name:?} is no option; the options are {OPTIONS}")),
        }
        Ok(())
    }

    /// Whether connections are encrypted.
    fn encrypts(&self, servers: &[Server]) -> Result<bool, String> {
        let sockets = servers.iter().filter(|server| server.is_socket()).count();
        if sockets > 0 {
            return match (sockets == servers.len(), self.encrypted) {
                (true, false) => Ok(false),
                (true, true) => {
                    Err("a Unix socket has no TLS; remove sslmode and the certificates".to_owned())
                }
                (false, _) => Err("it names sockets and hosts; name one kind".to_owned()),
            };
        }
        let remote = servers.iter().find(|server| !server.is_local());
        match remote {
            Some(server) if self.plain => Err(format!(
                "{server} is another machine, and sslmode=disable sends hashes of tokens as plain text; write \
                 sslmode=require"
            )),
            Some(_) => Ok(true),
            None => Ok(self.encrypted),
        }
    }

    fn tls(&self) -> Result<MakeRustlsConnect, String> {
        let identity = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => Some(Identity { certificate, key }),
            _ => None,
        };
        client_config(self.ca.as_deref().map(Path::new), identity).map(MakeRustlsConnect::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Address, String> {
        Address::parse(url, &|_| None).map_err(|error| error.to_string())
    }

    fn network(host: &str, port: u16) -> Server {
        Server::Network { host: host.to_owned(), port }
    }

    #[test]
    fn url_names_servers_user_and_database() {
        let address = parse("postgresql://ops:p%40ss@a.example:1,b.example,[::1]:2/tokens").unwrap();
        assert_eq!(address.servers, [network("a.example", 1), network("b.example", 5432), network("::1", 2)]);
        assert_eq!((address.user.as_str(), address.database.as_str()), ("ops", "tokens"));
        assert_eq!(address.shown, "postgresql://ops@a.example:1,b.example:5432,[::1]:2/tokens");
        assert_eq!(address.password.read().unwrap().unwrap().expose(), "p@ss");
        assert!(!format!("{address:?}").contains("p@ss"));
        assert_eq!((address.proof, address.tls.is_some()), (Proof::Read, true));
    }

    #[test]
    fn sockets_are_named_in_both_forms() {
        let socket = |port| Server::Socket { directory: "/run/postgresql".into(), port };
        for url in [
            "postgres://u@%2Frun%2Fpostgresql/db",
            "postgres://u@/db?host=/run/postgresql",
            "postgres://u@/db?host=%2Frun%2Fpostgresql&port=5432",
        ] {
            let address = parse(url).unwrap();
            assert_eq!(address.servers, [socket(5432)], "{url}");
            assert!(address.tls.is_none());
        }
        assert_eq!(parse("postgres://u@/db?host=/run/postgresql&port=6432").unwrap().servers, [socket(6432)]);
        let error = parse("postgres://u@%2Frun%2Fpostgresql/db?sslmode=require").unwrap_err();
        assert!(error.contains("no TLS"), "{error}");
        let error = parse("postgres://u@%2Frun%2Fpostgresql,a.example/db").unwrap_err();
        assert!(error.contains("one kind"), "{error}");
    }

    #[test]
    fn plain_text_is_for_this_machine() {
        for host in ["127.0.0.1:1", "[::1]:1", "localhost", "[::ffff:127.0.0.1]", "127.0.0.1,LOCALHOST"] {
            assert!(parse(&format!("postgres://u@{host}/d")).unwrap().tls.is_none(), "{host}");
            assert!(parse(&format!("postgres://u@{host}/d?sslmode=disable")).unwrap().tls.is_none());
            for mode in ["require", "verify-ca", "verify-full"] {
                assert!(parse(&format!("postgres://u@{host}/d?sslmode={mode}")).unwrap().tls.is_some());
            }
            assert!(parse(&format!("postgres://u@{host}/d?sslrootcert=system")).unwrap().tls.is_some());
        }
        for host in ["10.0.0.1", "a.example", "127.0.0.1,10.0.0.1:5432", "localhost.example", "[fe80::1]"] {
            assert!(parse(&format!("postgres://u@{host}/d")).unwrap().tls.is_some(), "{host}");
            let error = parse(&format!("postgres://u@{host}/d?sslmode=disable")).unwrap_err();
            assert!(error.contains("another machine") && error.contains("sslmode=require"), "{error}");
        }
        for mode in ["prefer", "allow"] {
            let error = parse(&format!("postgres://u@localhost/d?sslmode={mode}")).unwrap_err();
            assert!(error.contains("plain text") && error.contains("sslmode=require"), "{error}");
        }
    }

    #[test]
    fn wrong_url_names_part_without_password() {
        for (url, expected) in [
            ("postgres://localhost/d", "no user"),
            ("postgres://:secret@localhost/d", "no user"),
            ("postgres://u:secret@/d", "no host"),
            ("postgres://u:secret", "percent-encode"),
            ("postgres://u:sec@ret@h/d", "percent-encode"),
            ("postgres://u:secret#@h/d", "%23"),
            ("postgres://u:secret@h:x/d", "form postgres://"),
            ("postgres://u:secret@h1,,h2/d", "host is empty"),
            ("postgres://u:secret@h/d?host=h2", "name them once"),
            ("postgres://u:secret@h1,h2/d?port=1,2,3", "number of ports"),
            ("postgres://u:secret@h/d?port=x", "1 to 65535"),
            ("postgres://u@h/d?password=secret", "does not belong in an option"),
            ("postgres://u:secret@h/d?colour=1", "the options are channel_binding, host"),
            ("postgres://u:secret@h/d?sslmode=", "no value"),
            ("postgres://u:secret@h/d?proof=write&proof=read", "stands twice"),
            ("postgres://u:secret@h/d?proof=secret", "proof is read or write"),
            ("postgres://u:secret@h/d?sslmode=secret", "sslmode is disable"),
            ("postgres://u:secret@h/d?sslcert=/x", "belong together"),
            ("postgres://u:secret@localhost/d?sslmode=disable&sslrootcert=/x", "no certificates"),
            ("postgres://u:secret@h/d?target_session_attrs=any", "a standby proves nothing"),
            ("postgres://u:secret@h/d?table=a.b.c", "table is NAME or SCHEMA.NAME"),
            ("postgres://u:secret@h/d?sslrootcert=/nonexistent/ca.pem", "/nonexistent/ca.pem"),
        ] {
            let error = parse(url).unwrap_err();
            assert!(error.contains(expected), "{url}: {error}");
            assert!(!error.contains("secret") && !error.contains("ret@"), "{error}");
        }
    }
}
