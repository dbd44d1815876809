//! Writes outputs for people, and errors with the next step.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Write as _;

use optoken_core::authority::{
    AuthenticateError, AuthorizeError, ImportOutcome, Issued, ReplaceOutcome, Staged,
};
use optoken_core::catalog::{CatalogError, OPERATOR, Source, TokenRecord};
use optoken_core::commit::CommandError;
use optoken_core::ports::Timestamp;
use optoken_core::rotation::{ExpiringHash, Rotation};
use optoken_core::transition::{AccessError, AuthError, CommandRejected, Principal, TokenKind};
use optoken_protocol::timestamp::rfc3339;
use zeroize::Zeroizing;

use crate::args::Command;
use crate::execute::{Error, Output, State};

/// The output of `--help`.
pub(crate) const HELP: &str = "\
The operator-token authority over a directory, as a command for WASI runtimes.

Usage: wasmtime run --dir DIR::/data optoken-cli.wasm [OPTIONS] COMMAND

Commands; those marked * read a token from standard input:
  create                       create the operator token, once, and print it
  create --name NAME *         create a named token, and print it; it is an admin token
                               unless it has permissions of its own
      --permission TEXT        what it may do; give the option once for each permission
      --lifetime SECONDS       expire it after this time [default: never]
  regenerate *                 replace the operator token, which is the one presented
      --overlap SECONDS        accept the previous token for this time [default: 0]
  stage *                      stage a new token, to replace the operator token later
      --sha512 HEX             stage the token with this hash, which the caller keeps
      --ttl SECONDS            expire it after this time [default: 3600]
  confirm *                    replace the operator token by the staged token, which is
                               the one presented
      --overlap SECONDS        accept the previous token for this time [default: 0]
  cancel *                     cancel the staged token
  end-overlap *                revoke the previous token
  authenticate *               print number and kind of the token
  authorize *                  print number and kind of the token, if it may send a request
                               to another service
      --method METHOD          the method, such as GET
      --host HOST              the host, in lower case and without port [default: unknown]
      --path PATH              the path, in normal form
      --query TEXT             the query string; no permission depends on it
      --target TARGET          what the request acts on: http, db:NAME:read, db:NAME:write,
                               db:NAME:create, system:NAME or administration
  describe *                   print the record of the token
  delete NAME *                delete a named token
  status                       print the operator token and its rotation
  list                         print all tokens, by their hashes
  audit                        print the newest audit records, one JSON object a line
      --after SEQUENCE         only records after this sequence number
  state                        print version, id, audit sequence and audit head of the
                               catalog
  recover                      replace a lost operator token; write permission for the
                               directory is the only credential
      --reason restore         before an older catalog is put back: the audit record names
                               a restore, at the time of the clock
  initialize                   give the catalog its id, a UUID, and print it
  check                        check that the catalog can be read
  import --name NAME *         import a token that was created elsewhere
      --permission TEXT        what it may do, as with create [default: everything]
      --description TEXT       what it is for
      --expiry MILLISECONDS    expire it at this time, in milliseconds since 1970
      --sha512 HEX             import its hash; reads no token
  hash *                       print the hash of a token that was created elsewhere
  replace                      replace the operator token by one of a configuration, unless
                               a command has replaced it before
      --current HEX            the hash of the earlier token of the configuration
      --sha512 HEX             the hash of its new token
      --overlap SECONDS        accept the earlier token for this time [default: 0]

Permissions: TYPE:NAMES:ACTIONS, at most 32 for a token. `*` stands for all.
  db:NAMES:ACTIONS       databases of InfluxDB 3; actions read, write, create
  system:NAMES:read      health, metrics, ping
  http:PATTERN:ACTIONS   [HOST]/PATH of any service, a * at its end for any text; actions
                         read, write, or methods: 'http:/orders/*:GET,POST'

Options:
  --data PATH     the directory with the catalog: one that the runtime has opened, or
                  a directory below it [default: /data]
  --state PATH    the directory with the high-water mark [default: /state, if the runtime
                  has opened it, else the directory with the catalog]
  --accept-catalog-at SEQUENCE
                  accept, once, an older catalog with this audit sequence; 0 is no catalog
  --origin TEXT   the origin of the command in its audit record [default: cli]
  --json          print one line of JSON: {\"ok\":…} or {\"err\":…}, with the names and
                  values of the contract in wit/
  -h, --help      print this help
  -V, --version   print the version

Standard input holds the token and at most one newline. Arguments never hold a token:
other users of the machine can read them.

Exit status: 0 on success, 1 on any error; WASI has no other. Errors are on standard
error. With --json, errors of the contract are on standard output instead.

Durability: DIR/catalog/N.jsonl is version N of the catalog. A command syncs its version
before it answers, so a power cut does not undo it. Commands can run at the same time:
each changes the newest version, or nothing. DIR must be on a local file system with
hard links. A command that is killed leaves the old version or the new one; the next
change removes its temporary files.

Restore: the file high-water has the newest state of the catalog that was seen here. A
catalog that does not continue that state is refused: a backup that was put back, another
catalog, or none. Put the newest copy back. If the backup is meant, its old operator token
must not come back with it:
  optoken-cli --accept-catalog-at SEQUENCE recover --reason restore
The mark notes each acceptance, which counts once. A backup of DIR contains the mark, and
putting back both is not noticed. So keep the mark elsewhere: --dir STATE::/state

Limits: WASI sets no file modes and does not show them, so nothing warns. The mode of DIR
(chmod 700) and the umask (077) decide which users can read the catalog, and write it.
With a umask of 000 in a directory of mode 777, every user can. The catalog holds no
token, only SHA-512 hashes of tokens.
";

/// The output of `--version`.
pub(crate) const VERSION: &str = concat!("optoken-cli ", env!("CARGO_PKG_VERSION"), "\n");

/// Returns an output in full lines.
pub(crate) fn output(output: &Output) -> Zeroizing<String> {
    Zeroizing::new(match output {
        Output::Issued(Issued { token, secret }) => {
            let secret = secret.expose();
            let expiry = token.expiry.map(|at| format!("Expires: {}\n", rfc3339(at))).unwrap_or_default();
            let change = if token.updated_at.is_some() { "regenerated" } else { "created" };
            // The whole capacity at once: a string that grows leaves copies of the secret behind.
            let mut text = String::with_capacity(512);
            for part in [
                "\nNew token ",
                change,
                " successfully!\n\nToken: ",
                secret,
                "\nHTTP Requests Header: Authorization: Bearer ",
                secret,
                "\n",
                &expiry,
                "\nIMPORTANT: Store this token securely, as it will not be shown again.\n\n",
            ] {
                text.push_str(part);
            }
            text
        }
        Output::Staged(Staged { secret, hash, expires_at }) => {
            let expires_at = rfc3339(*expires_at);
            let mut text = String::with_capacity(1024);
            if let Some(secret) = secret {
                for part in ["\nToken: ", secret.expose(), "\n"] {
                    text.push_str(part);
                }
            } else {
                text.push_str("\nSHA-512: ");
                text.push_str(&hash.to_string());
                text.push('\n');
            }
            for part in [
                "\nThis token is not accepted yet. Store it securely, then present it to: optoken-cli confirm\nIt expires \
                 at ",
                &expires_at,
                "; until it is confirmed the operator token stays in force.\n\n",
            ] {
                text.push_str(part);
            }
            text
        }
        Output::Confirmed(token) => format!("The token is now the operator token.\n{}", details(token)),
        Output::OverlapEnded(tokens) if tokens.is_empty() => "No replaced token is accepted.\n".into(),
        Output::OverlapEnded(tokens) => format!(
            "No replaced token is accepted. These tokens were made with it and are accepted; if it had leaked, delete them \
             with: optoken-cli delete NAME\n{}",
            table(tokens)
        ),
        Output::Deleted(token) => format!("The token is refused from now on.\n{}", details(token)),
        Output::Import(ImportOutcome::Created(token)) => {
            format!("The token was imported.\n{}", details(token))
        }
        Output::Import(ImportOutcome::Unchanged(token)) => {
            format!("The token exists already.\n{}", details(token))
        }
        Output::Import(ImportOutcome::Different(token)) => format!(
            "A token of this name exists with another secret, which stays; the imported secret is not accepted.\n{}",
            details(token)
        ),
        Output::Import(ImportOutcome::Revoked) => REVOKED.into(),
        Output::Replacement(outcome) => match outcome {
            ReplaceOutcome::Replaced => "The operator token was replaced.\n".into(),
            ReplaceOutcome::Unchanged => "The operator token is the new one already.\n".into(),
            ReplaceOutcome::Different => {
                "The operator token is neither the earlier one of the configuration nor the new one. It stays.\n".into()
            }
            ReplaceOutcome::Revoked => REVOKED.into(),
        },
        Output::Hash(sha512) => format!("{sha512}\n"),
        Output::Principal(token) => principal(*token),
        Output::Allowed(token) => format!("The token may do this. {}", principal(*token)),
        Output::Status(None) => "There is no operator token; create it with: optoken-cli create\n".into(),
        Output::Status(Some((operator, rotation))) => {
            format!("{}rotation: {}\n", details(operator), rotation_status(rotation))
        }
        Output::List(tokens) => table(tokens),
        Output::Described(token) => details(token),
        Output::State(None) => "There is no catalog.\n".into(),
        Output::State(Some(State { version, catalog_id, audit_sequence, audit_head })) => format!(
            "version: {version}\ncatalog: {}\naudit sequence: {audit_sequence}\naudit head: {}\n",
            catalog_id.as_deref().unwrap_or("none"),
            audit_head.as_deref().unwrap_or("none")
        ),
        Output::Audit(lines, _) => lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect(),
        Output::CatalogId(id) => format!("{id}\n"),
        Output::Done(text) => format!("{text}\n"),
    })
}

/// Returns an error and the next step, in full lines.
pub(crate) fn failure(error: &Error, command: &Command, data: &str) -> String {
    let next = match error {
        Error::Authenticate(AuthenticateError::Refused(_))
        | Error::Authorize(AuthorizeError::Refused(AccessError::Unauthenticated(_))) => NEW_TOKEN.into(),
        Error::Authorize(AuthorizeError::Refused(AccessError::Forbidden)) => {
            "Print its permissions with: optoken-cli describe".into()
        }
        Error::Authenticate(AuthenticateError::Unavailable(error))
        | Error::Authorize(AuthorizeError::Unavailable(error))
        | Error::Command(error) => next_step(error, command, data),
    };
    let next = if next.is_empty() { next } else { format!("{next}\n") };
    format!("Error: {error}\n{next}")
}

const REVOKED: &str = "This token was accepted before and then revoked. It is not accepted. Use a new one.\n";

const NEW_TOKEN: &str =
    "Present an accepted token on standard input. A lost operator token is replaced by: optoken-cli recover";

/// Returns the state after a command whose output could not be written, and the next step, in one
/// line. It is empty for commands that change nothing.
pub(crate) const fn output_failed_hint(command: &Command) -> &'static str {
    match command {
        Command::CreateOperator | Command::Regenerate { .. } | Command::Recover { .. } => {
            "The token was created and is lost. Replace it with: optoken-cli recover\n"
        }
        Command::CreateNamed { .. } => {
            "The token was created and is lost, and its name is in use. First: optoken-cli delete NAME, then create it \
             again\n"
        }
        Command::Stage { .. } => {
            "The token was staged. Staging again is safe: the operator token stays as it is, and the new staged token replaces \
             this one.\n"
        }
        Command::Confirm { .. } => {
            "The change was made: the token that was presented is the operator token.\n"
        }
        Command::Delete { .. } => "The change was made: the token is refused.\n",
        Command::Cancel => "The change was made: no token is staged.\n",
        Command::EndOverlap => "The change was made: no previous token is accepted.\n",
        Command::Initialize | Command::Import { .. } | Command::Replace { .. } => {
            "The command was carried out. Running it again is safe, and prints the result.\n"
        }
        Command::Authenticate
        | Command::Authorize(_)
        | Command::Hash
        | Command::Describe
        | Command::Status
        | Command::List
        | Command::Audit { .. }
        | Command::State
        | Command::Check
        | Command::Help
        | Command::Version => "",
    }
}

/// Returns the next step after a change with an unknown outcome.
const fn unknown_outcome_hint(command: &Command) -> &'static str {
    match command {
        Command::CreateOperator => {
            "Run it again. If there is an operator token by then, it was created and is lost; then: optoken-cli recover"
        }
        Command::CreateNamed { .. } => {
            "Check with: optoken-cli list, whether it was created. If so, it is lost; then: optoken-cli delete NAME, and \
             create it again."
        }
        Command::Regenerate { .. } => {
            "Check with: optoken-cli authenticate, whether the token that was presented still is the operator token. If not, \
             the change was made and its new token is lost; then: optoken-cli recover"
        }
        Command::Recover { .. } => {
            "Run it again: it replaces the operator token, whether the change was made or not."
        }
        Command::Confirm { .. } => {
            "Nothing is lost. Run it again with the same token: it succeeds, whether the change was made or not."
        }
        Command::Stage { .. } => "Nothing is lost. Run it again: the operator token stays as it is.",
        Command::Delete { .. } => "Run it again. If there is no such token by then, the change was made.",
        Command::Cancel
        | Command::EndOverlap
        | Command::Initialize
        | Command::Import { .. }
        | Command::Replace { .. } => "Run it again: it succeeds, whether the change was made or not.",
        Command::Authenticate
        | Command::Authorize(_)
        | Command::Hash
        | Command::Describe
        | Command::Status
        | Command::List
        | Command::Audit { .. }
        | Command::State
        | Command::Check
        | Command::Help
        | Command::Version => "",
    }
}

fn next_step(error: &CommandError, command: &Command, data: &str) -> String {
    match error {
        CommandError::Rejected(rejected) => match rejected {
            CommandRejected::Unauthenticated(AuthError::Unknown | AuthError::Expired { .. }) => {
                NEW_TOKEN.into()
            }
            CommandRejected::Forbidden => match command {
                Command::CreateNamed { .. } | Command::Delete { .. } => {
                    "Present a token with all permissions on standard input.".into()
                }
                _ => "Present the operator token itself on standard input.".into(),
            },
            CommandRejected::NotFound(name) if name == OPERATOR => {
                "Create it with: optoken-cli create".into()
            }
            CommandRejected::NotFound(_) => "Print the names with: optoken-cli list".into(),
            CommandRejected::AlreadyExists(name) if name == OPERATOR => {
                "Replace it with: optoken-cli regenerate. If it is lost: optoken-cli recover".into()
            }
            CommandRejected::AlreadyExists(_) => {
                "Choose another name, or first: optoken-cli delete NAME".into()
            }
            CommandRejected::OperatorProtected | CommandRejected::FormerUnknown => {
                "Replace it with: optoken-cli regenerate".into()
            }
            CommandRejected::Full | CommandRejected::ScopesFull => {
                "Delete some with: optoken-cli delete NAME".into()
            }
            CommandRejected::Overlapping { .. } => "End it with: optoken-cli end-overlap".into(),
            CommandRejected::TooLong { .. }
            | CommandRejected::Name(_)
            | CommandRejected::OperatorScope
            | CommandRejected::Description
            | CommandRejected::SecretTaken(_)
            | CommandRejected::SecretRevoked
            | CommandRejected::SecretCollision
            | CommandRejected::Invariant(_) => String::new(),
        },
        CommandError::Catalog(CatalogError::UnknownFormat { .. }) => {
            format!("Use the version of optoken-cli that wrote {data}/catalog. Nothing was changed.")
        }
        CommandError::Catalog(_) => {
            format!("Put the newest file in {data}/catalog back from a backup. Nothing was changed.")
        }
        CommandError::Contended => "Nothing was changed; try again.".into(),
        CommandError::Unavailable(_) => "Nothing was changed.".into(),
        CommandError::UnknownOutcome(_) => unknown_outcome_hint(command).into(),
        CommandError::Entropy(_)
        | CommandError::Weak(_)
        | CommandError::Hash(_)
        | CommandError::Permission(_) => String::new(),
    }
}

fn principal(Principal { id, kind }: Principal) -> String {
    let kind = match kind {
        TokenKind::Operator => "the operator token",
        TokenKind::PreviousOperator => {
            "the previous operator token, which is accepted until its overlap ends"
        }
        TokenKind::NamedAdmin => "a named admin token",
        TokenKind::Scoped => "a token with permissions of its own",
    };
    format!("This is {kind}, number {id}.\n")
}

fn rotation_status(rotation: &Rotation) -> String {
    match rotation {
        Rotation::Idle => "idle".into(),
        Rotation::Staged(ExpiringHash { hash, expires_at }) => {
            format!("a token is staged until {}\nsha512 of the staged token: {hash}", rfc3339(*expires_at))
        }
        Rotation::Overlap(ExpiringHash { hash, expires_at }) => {
            format!(
                "the previous token is accepted until {}\nsha512 of the previous token: {hash}",
                rfc3339(*expires_at)
            )
        }
    }
}

fn details(token: &TokenRecord) -> String {
    format!(
        "id: {}\nname: {}\nsource: {}\ncreated: {}\nupdated: {}\nexpiry: {}\nsha512: {}\npermissions: {}\n\
         description: {}\n",
        token.id,
        token.name,
        source(token),
        rfc3339(token.created_at),
        timestamp_or_never(token.updated_at),
        timestamp_or_never(token.expiry),
        token.hash,
        permissions(token),
        token.description.as_deref().unwrap_or("none")
    )
}

/// Returns the permissions with spaces between them: none of them holds a space.
fn permissions(token: &TokenRecord) -> String {
    token.permissions.as_ref().map_or_else(|| "all".into(), ToString::to_string)
}

const fn source(token: &TokenRecord) -> &'static str {
    match token.source {
        Source::Command => "command",
        Source::Import => "imported",
        Source::PreviousSecret => "previous-secret",
    }
}

fn timestamp_or_never(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "never".into(), rfc3339)
}

/// Returns one line a token, in columns.
fn table(tokens: &[TokenRecord]) -> String {
    const HEAD: [&str; 8] = ["ID", "NAME", "SOURCE", "CREATED", "UPDATED", "EXPIRY", "SHA512", "PERMISSIONS"];
    let rows: Vec<[String; 8]> = core::iter::once(HEAD.map(Into::into))
        .chain(tokens.iter().map(|token| {
            [
                token.id.to_string(),
                token.name.clone(),
                source(token).into(),
                rfc3339(token.created_at),
                timestamp_or_never(token.updated_at),
                timestamp_or_never(token.expiry),
                token.hash.to_string(),
                permissions(token),
            ]
        }))
        .collect();
    let mut widths = [0; 8];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in &rows {
        let mut gap = 0;
        for (cell, width) in row.iter().zip(widths) {
            // Writing to a string cannot fail.
            let _ = write!(text, "{:gap$}{cell}", "");
            gap = width + 2 - cell.chars().count();
        }
        text.push('\n');
    }
    text
}
