//! The options of every command that contacts a server: which server, and with which token.

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{bail, ensure};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};

use crate::cli::bounded_read::{line_of_stdin, within};
use crate::cli::dotenv;
use crate::cli::environment::boolean;
use crate::cli::pasted;
use crate::cli::stderr::{print_stderr, warn};
use crate::cli::token_file::SavedToken;
use crate::cli::usage_error::UsageError;
use crate::client::{Client, ClientError, DEFAULT_HOST, ProxyError, ProxySource, Trust, is_this_machine};
use crate::secret::Secret;

/// The argument that reads a token or a code from standard input.
pub(crate) const STDIN: &str = "-";

/// The variable of the token.
const TOKEN_VARIABLE: &str = "INFLUXDB3_AUTH_TOKEN";

/// The variable of the recovery code.
const CODE_VARIABLE: &str = "INFLUXDB3_RECOVERY_CODE";

/// The options, and which of them a file `.env` has set.
#[derive(Debug)]
pub(crate) struct Connection {
    options: ConnectionOptions,
    /// The options from the file that decide where a token goes.
    from_file: Vec<FileOption>,
    /// What names the server.
    host_source: &'static str,
    proxy_source: ProxySource,
}

/// An option that decides where a token goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileOption {
    Host,
    Proxy,
    TlsCa,
    TlsNoVerify,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
struct ConnectionOptions {
    /// URL of the server, or unix:PATH for its recovery socket
    ///
    /// A path in the URL stands before that of every request: a proxy can have the server below it,
    /// such as at db.example/influxdb.
    #[arg(short = 'H', long, value_name = "URL", env = "INFLUXDB3_HOST_URL", default_value = DEFAULT_HOST)]
    host: String,

    /// Token to authenticate with; - reads it from standard input
    ///
    /// Other users of this machine can see an argument while the command runs. They cannot see
    /// standard input, the environment or a file.
    #[arg(long, value_name = "TOKEN", env = TOKEN_VARIABLE, hide_env_values = true)]
    token: Option<Secret>,

    /// File with the token to authenticate with
    ///
    /// It holds the token alone, or JSON as --offline writes it.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Time limit of each request, and of reading a token from a pipe
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    timeout: Duration,

    /// HTTP proxy, which may see the token: http://HOST:PORT or https://HOST:PORT
    ///
    /// A server on this machine is asked without a proxy. HTTPS_PROXY, ALL_PROXY and NO_PROXY
    /// apply to a server with https:// alone, whose verified connection the proxy only passes on.
    /// HTTP_PROXY does not apply: that proxy would see the token.
    #[expect(clippy::doc_markdown, reason = "help shows the text as it is here")]
    #[arg(long, value_name = "URL", env = "INFLUXDB3_PROXY", hide_env_values = true)]
    proxy: Option<String>,

    /// File with further trusted certificates, beside those of the system
    ///
    /// A file named .der holds one certificate in DER, any other file one or more in PEM. Each is
    /// an authority, or the certificate of the server itself.
    #[arg(long, value_name = "FILE", env = "INFLUXDB3_TLS_CA")]
    tls_ca: Option<PathBuf>,

    /// Do not check the certificate of the server
    ///
    /// An attacker on the network then gets the token. Prefer --tls-ca.
    #[arg(long, env = "INFLUXDB3_TLS_NO_VERIFY", value_parser = boolean)]
    tls_no_verify: bool,
}

impl FileOption {
    const ALL: [Self; 4] = [Self::Host, Self::Proxy, Self::TlsCa, Self::TlsNoVerify];

    /// Returns the id of the argument, its option and its variable.
    fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Host => ("host", "--host", "INFLUXDB3_HOST_URL"),
            Self::Proxy => ("proxy", "--proxy", "INFLUXDB3_PROXY"),
            Self::TlsCa => ("tls_ca", "--tls-ca", "INFLUXDB3_TLS_CA"),
            Self::TlsNoVerify => ("tls_no_verify", "--tls-no-verify", "INFLUXDB3_TLS_NO_VERIFY"),
        }
    }

    /// Returns the options that a file `.env` has set and the command line has not.
    fn from_file(matches: &ArgMatches) -> Vec<Self> {
        let mut options = Self::ALL.to_vec();
        options.retain(|option| {
            let (id, _, variable) = option.names();
            matches.value_source(id) == Some(ValueSource::EnvVariable)
                && dotenv::origin_of(variable).is_some()
        });
        options
    }
}

impl FromArgMatches for Connection {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Self::from_arg_matches_mut(&mut matches.clone())
    }

    fn from_arg_matches_mut(matches: &mut ArgMatches) -> Result<Self, clap::Error> {
        let (from_file, host_source, proxy_source) =
            (FileOption::from_file(matches), host_source(matches), proxy_source(matches));
        let options = ConnectionOptions::from_arg_matches_mut(matches)?;
        Ok(Self { options, from_file, host_source, proxy_source })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.from_file = FileOption::from_file(matches);
        self.host_source = host_source(matches);
        self.proxy_source = proxy_source(matches);
        self.options.update_from_arg_matches(matches)
    }
}

impl Args for Connection {
    fn augment_args(command: Command) -> Command {
        ConnectionOptions::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        ConnectionOptions::augment_args_for_update(command)
    }
}

impl Connection {
    /// Returns the token, if there is one. An empty variable counts as none. `argument` is a token
    /// elsewhere on the command line, and takes precedence. `asks` is set if the command reads the
    /// answer to a question from standard input.
    ///
    /// Fails if the token would go to a server that a file `.env` names and that does not have it.
    pub(crate) fn token(&self, argument: Option<&Secret>, asks: bool) -> anyhow::Result<Option<Secret>> {
        // Options take precedence over the environment.
        let token = match (argument, &self.options.token_file) {
            (Some(argument), _) => Some(argument.clone()),
            (None, Some(path)) => Some(self.read_token_file(path)?),
            (None, None) => self.options.token.clone(),
        };
        let Some(token) = token.filter(|token| !token.expose().is_empty()) else { return Ok(None) };
        let token = if token.expose() == STDIN {
            ensure!(
                !asks,
                "the token is read from standard input, so no question can be answered there: add --yes"
            );
            let line = line_of_stdin(self.options.timeout, "the token on standard input")?;
            ensure!(!line.is_empty(), "there is no token on standard input");
            line.into()
        } else {
            token
        };
        let token = match pasted::token(token.expose()) {
            Ok(text) => Secret::from(text.to_owned()),
            Err(error) => bail!("the token {error}"),
        };
        self.check_destination("token", TOKEN_VARIABLE, Some(&token))?;
        Ok(Some(token))
    }

    fn read_token_file(&self, path: &Path) -> anyhow::Result<Secret> {
        let what = format!("the token in {}", path.display());
        let path = path.to_owned();
        Ok(within(self.options.timeout, &what, move || SavedToken::read(&path))?.token)
    }

    /// Returns the recovery code. Fails if it would go to a server that a file `.env` names and
    /// that does not have it.
    pub(crate) fn recovery_code(&self, given: Option<&Secret>) -> anyhow::Result<Option<Secret>> {
        let typed;
        let code = match given.map(|code| code.expose().trim()) {
            None | Some("") => return Ok(None),
            Some(STDIN) => {
                print_stderr("Enter the recovery code");
                typed = line_of_stdin(self.options.timeout, "the recovery code on standard input")?;
                &typed
            }
            Some(code) => code,
        };
        let code = match pasted::recovery_code(code) {
            Ok(text) => Secret::from(text.to_owned()),
            Err(error) => bail!("the recovery code {error}"),
        };
        self.check_destination("recovery code", CODE_VARIABLE, Some(&code))?;
        Ok(Some(code))
    }

    /// Returns the file of the token.
    pub(crate) fn token_file(&self) -> Option<&Path> {
        self.options.token_file.as_deref()
    }

    /// Fails if a token that is saved in one of these files would go to a server that a file `.env`
    /// names.
    pub(crate) fn check_saved_token(&self, files: &[PathBuf]) -> anyhow::Result<()> {
        let Some(file) = files.iter().find(|path| path.symlink_metadata().is_ok()) else { return Ok(()) };
        self.check_destination(&format!("token in {}", file.display()), TOKEN_VARIABLE, None)
    }

    /// Fails if a file `.env` decides where a secret goes that is not in that file. A secret that
    /// is not read yet counts as one.
    fn check_destination(&self, what: &str, variable: &str, secret: Option<&Secret>) -> anyhow::Result<()> {
        let is_in_file = dotenv::origin_of(variable).is_some()
            && env::var(variable)
                .is_ok_and(|value| secret.is_some_and(|secret| pasted::is_same(&value, secret.expose())));
        let Some(option) =
            self.from_file.iter().find(|option| self.redirects(**option)).filter(|_| !is_in_file)
        else {
            return Ok(());
        };
        let (_, name, variable_of_file) = option.names();
        let file = dotenv::origin_of(variable_of_file).unwrap_or(Path::new(".env")).display();
        let (does, give) = match option {
            FileOption::Host => {
                let host = &self.options.host;
                (format!("names the server {host}"), format!("{name} {host}"))
            }
            FileOption::Proxy => ("names a proxy".to_owned(), format!("{name} URL")),
            FileOption::TlsCa => ("names trusted certificates".to_owned(), format!("{name} FILE")),
            FileOption::TlsNoVerify => ("disables verification".to_owned(), name.to_owned()),
        };
        bail!(
            "{file} {does} ({variable_of_file}), and the {what} is not from that file, so it is not sent. If the file \
             is right, add {give}, or put the {what} into the same file as {variable}"
        );
    }

    /// Returns whether this option from a file has an effect.
    fn redirects(&self, option: FileOption) -> bool {
        match option {
            FileOption::Host => true,
            FileOption::Proxy => !is_this_machine(&self.options.host),
            FileOption::TlsCa => !self.options.host.starts_with("http://"),
            FileOption::TlsNoVerify => {
                self.options.tls_no_verify && !self.options.host.starts_with("http://")
            }
        }
    }

    /// Returns a client of the server. Warns if an attacker on the network could read or take the
    /// token that requests and responses carry (`carries_token`).
    pub(crate) fn client(&self, carries_token: bool) -> anyhow::Result<Client> {
        let options = &self.options;
        let trust =
            Trust { ca: options.tls_ca.clone(), no_verify: options.tls_no_verify, ..Trust::default() };
        let proxy = options.proxy.as_deref().map(|proxy| (proxy, self.proxy_source));
        let client = Client::new(&options.host, &trust, proxy, options.timeout)
            .map_err(|error| self.usage_or_failure(error))?;
        if options.tls_no_verify {
            warn("--tls-no-verify: the server is not verified; an attacker in its place would get the token");
        }
        if carries_token && client.is_plaintext() {
            warn(
                "the token crosses the network in the clear, and an attacker there can read it; use https:// if the server \
                 supports it",
            );
        }
        Ok(client)
    }

    /// An option that is no URL is a usage error, as the parser would report it. The parser would
    /// also print the value, which can hold a credential.
    fn usage_or_failure(&self, error: ClientError) -> anyhow::Error {
        let text = match error {
            ClientError::Address(error) => format!("{}: {error}", self.host_source),
            ClientError::Proxy(error @ ProxyError::NotAUrl(_)) => error.to_string(),
            error => return error.into(),
        };
        UsageError { command: &[], kind: ErrorKind::ValueValidation, text }.into()
    }
}

/// Returns what names the server.
fn host_source(matches: &ArgMatches) -> &'static str {
    let (_, option, variable) = FileOption::Host.names();
    if matches.value_source("host") == Some(ValueSource::EnvVariable) { variable } else { option }
}

/// Returns what names the proxy, if there is one.
fn proxy_source(matches: &ArgMatches) -> ProxySource {
    match matches.value_source("proxy") {
        Some(ValueSource::EnvVariable) => ProxySource::OwnVariable,
        _ => ProxySource::Option,
    }
}
