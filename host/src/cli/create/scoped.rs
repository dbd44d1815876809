//! `optoken create token --permission`: creates a token with permissions (docs/compatibility.md
//! 4.5).

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use clap::error::ErrorKind;

use crate::cli::connection::Connection;
use crate::cli::create::format::TokenFormat;
use crate::cli::create::offline::OfflineToken;
use crate::cli::duration::whole_seconds;
use crate::cli::output_file::{lock_directory_of, replace, resolve_output_path};
use crate::cli::permission_file::{NewEntry, with_entry};
use crate::cli::usage_error::UsageError;
use crate::client::RequestedPermission;
use crate::private_file::PRIVATE_MODE;

/// The text of all permissions.
const ALL: &str = "*:*:*";

#[derive(Debug, Args)]
pub(crate) struct Scoped {
    /// What the token may do, as TYPE:NAMES:ACTIONS; can be repeated
    ///
    /// db:NAMES:ACTIONS: databases of InfluxDB 3. NAMES is * or a list with commas, ACTIONS of
    /// read, write and create.
    ///
    /// system:NAMES:read: NAMES is * or of health, metrics and ping.
    ///
    /// http:PATTERN:ACTIONS: any other service. PATTERN is [HOST]/PATH, with * at its end for
    /// everything that begins so. ACTIONS are read (GET, HEAD, OPTIONS), write (all others), or
    /// methods.
    ///
    /// A token has at most 32 permissions, of 2048 bytes together. Quote the *, which shells
    /// replace.
    #[arg(long, value_name = "TYPE:NAMES:ACTIONS")]
    permission: Vec<RequestedPermission>,

    /// Name of the token, which no other token has
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Lifetime of the token, such as 30min, 12h, 10d or 1y [default: unlimited]
    #[arg(long, value_name = "DURATION", value_parser = whole_seconds)]
    expiry: Option<u64>,

    /// Create the token without a server, and add it to --output-file
    #[arg(long, requires = "output_file")]
    offline: bool,

    /// File for the tokens of --offline, for `serve --permission-tokens-file`
    ///
    /// A file that is there already keeps its tokens, and gets this one as well. Only the owner can
    /// read it (mode 0600). If it is a link, its target is written.
    #[arg(long, value_name = "FILE", requires = "offline")]
    output_file: Option<PathBuf>,

    /// Databases, separated by commas, that InfluxDB 3 Enterprise creates when it starts with
    /// --output-file; this server creates none
    #[arg(long, value_name = "LIST", value_delimiter = ',', requires = "offline")]
    create_databases: Vec<String>,

    /// Format of the output
    #[arg(long, value_enum, default_value_t)]
    format: TokenFormat,

    #[command(flatten)]
    connection: Connection,
}

impl Scoped {
    /// Returns whether a token with permissions is asked for.
    pub(crate) fn is_given(&self) -> bool {
        !self.permission.is_empty()
    }

    pub(crate) fn run(self) -> anyhow::Result<()> {
        let Some(name) = &self.name else {
            return Err(UsageError {
                command: &["create", "token"],
                kind: ErrorKind::MissingRequiredArgument,
                text: "--permission needs the name of the token: add --name NAME".to_owned(),
            }
            .into());
        };
        if let Some(output) = &self.output_file {
            return self.create_offline(name, output);
        }
        let token = self.connection.token(None, false)?;
        let client = self.connection.client(true)?;
        let issued = client.create_scoped(token.as_ref(), name, &self.permission, self.expiry)?;
        self.format
            .print_created(&issued)
            .context("the token was created, but cannot be written to standard output")
    }

    fn create_offline(&self, name: &str, output: &Path) -> anyhow::Result<()> {
        let output = &resolve_output_path(output)?;
        let permissions: Vec<_> = self.permission.iter().map(RequestedPermission::text).collect();
        let token = OfflineToken::generate_scoped(name, &permissions, self.expiry)?;
        // Until the file is replaced, no other run may add to it.
        let lock = lock_directory_of(&[output])?;
        let all = [ALL.to_owned()];
        let entry = NewEntry {
            token: token.secret.expose(),
            name: &token.info.name,
            permissions: token.info.permissions.as_deref().unwrap_or(&all),
            expiry_millis: token.info.expiry,
        };
        let content = with_entry(output, &entry, &self.create_databases)?;
        replace(output, &content, PRIVATE_MODE)?;
        drop(lock);
        let saved = format!("Token saved to: {}", output.display());
        self.format.print_saved_token(&saved, &token.secret)
    }
}
