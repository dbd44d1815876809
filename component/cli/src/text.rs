//! Answers for people, and what to do next where there is none.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt::Write as _;

use optoken_core::authority::{AuthenticateError, ImportOutcome, Issued, Staged};
use optoken_core::catalog::{CatalogError, OPERATOR, TokenRecord};
use optoken_core::commit::CommandError;
use optoken_core::ports::Timestamp;
use optoken_core::rotation::{ExpiringHash, Rotation};
use optoken_core::transition::{AuthError, CommandRejected, Principal, TokenKind};
use optoken_protocol::timestamp::rfc3339;
use zeroize::Zeroizing;

use crate::answer::{Answer, Failed, State};
use crate::args::Command;

/// What `--help` tells.
pub(crate) const HELP: &str = "\
The operator-token authority over a directory, for any WASI runtime.

Usage: wasmtime run --dir DIR::/data optoken-cli.wasm [OPTIONS] COMMAND

Commands, those marked * with a token on standard input:
  create                       make the operator token, once; it is shown once
  create --name NAME *         make a named admin token
      --lifetime SECONDS       that is refused after so many seconds
  regenerate *                 replace the operator token, which is the one presented
      --overlap SECONDS        and accept the old one for so many seconds more
  stage *                      let a new token wait to replace the operator token
      --sha512 HEX             the one with this hash, which somebody else keeps
      --ttl SECONDS            for so many seconds [default: 3600]
  confirm *                    let the waiting token, which is the one presented, take over
      --overlap SECONDS        and accept the old one for so many seconds more
  cancel *                     give the waiting token up
  end-overlap *                stop accepting the token that was replaced
  authenticate *               print number and kind of the token
  describe *                   print the record of the token
  delete NAME *                take a named admin token out
  status                       tell how the operator token stands
  list                         tell of all tokens; none of their secrets is kept
  audit                        print the newest records of changes, a line of JSON each
      --after SEQUENCE         those after this sequence number
  state                        print version, audit sequence and audit head of the catalog
  recover                      replace a lost operator token; whoever may write to the
                               directory may do this
  initialize                   give the catalog its name, a UUID, and tell it
  check                        read the catalog and say whether it is whole
  import --name NAME *         import a token that was made elsewhere
      --expiry MILLISECONDS    that is refused from then on, counted from 1970
      --sha512 HEX             without the token itself, by its hash

Options:
  --data PATH     the directory with the catalog; one that the runtime has opened, or
                  one in it [default: /data]
  --origin TEXT   where this comes from, for the audit record [default: cli]
  --json          answer one line of JSON: {\"ok\":…} or {\"err\":…}, with the names and
                  values of the contract in wit/
  -h, --help      print this
  -V, --version   print the version

The token on standard input is all of it, without one newline at its end. It never is
an argument, which other users of the machine could see.

Exit status: 0, or 1 if anything went wrong; WASI has no other. What went wrong is on
standard error; with --json, an error of the contract is on standard output instead.

How durable it is: DIR/catalog/N.jsonl is version N of the catalog, and a command that
has answered has synced it, so a power cut does not undo it. Any number of commands can
run at once, and each change is made on the newest version or not at all. DIR must be on
a local file system with hard links. A command that is killed leaves the catalog as it
was, or changed and whole; what else it leaves is removed by the next change.

What is not possible: WASI sets no file modes, so who may read DIR is up to its own mode
(chmod 700) and the umask. The catalog holds no token, only SHA-512 hashes of tokens.
";

/// What `--version` tells.
pub(crate) const VERSION: &str = concat!("optoken-cli ", env!("CARGO_PKG_VERSION"), "\n");

/// An answer, in full lines.
pub(crate) fn answer(answer: &Answer) -> Zeroizing<String> {
    Zeroizing::new(match answer {
        Answer::Issued(Issued { token, secret }) => {
            let secret = secret.expose();
            let expiry = token.expiry.map(|at| format!("Expires: {}\n", rfc3339(at))).unwrap_or_default();
            let what = if token.updated_at.is_some() { "regenerated" } else { "created" };
            // The whole capacity at once: a string that grows leaves copies behind.
            let mut text = String::with_capacity(512);
            for part in [
                "\nNew token ",
                what,
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
        Answer::Staged(Staged { secret, hash, expires_at }) => {
            let until = rfc3339(*expires_at);
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
                "\nIt is not accepted yet. Store it securely, then give it to: optoken-cli confirm\nIt waits until ",
                &until,
                "; until then the operator token stays as it is.\n\n",
            ] {
                text.push_str(part);
            }
            text
        }
        Answer::Confirmed(token) => format!("The token is now the operator token.\n{}", details(token)),
        Answer::Deleted(token) => format!("The token is refused from now on.\n{}", details(token)),
        Answer::Import(ImportOutcome::Created(token)) => {
            format!("The token was imported.\n{}", details(token))
        }
        Answer::Import(ImportOutcome::Unchanged(token)) => {
            format!("The token is there already.\n{}", details(token))
        }
        Answer::Import(ImportOutcome::Different(token)) => format!(
            "There is a token of this name with another secret, which stays; the one given is not accepted.\n{}",
            details(token)
        ),
        Answer::Principal(principal) => whose(*principal),
        Answer::Status(None) => "There is no operator token; make it with: optoken-cli create\n".into(),
        Answer::Status(Some((operator, rotation))) => {
            format!("{}rotation: {}\n", details(operator), under_way(rotation))
        }
        Answer::List(tokens) => table(tokens),
        Answer::Described(token) => details(token),
        Answer::State(None) => "There is no catalog.\n".into(),
        Answer::State(Some(State { version, audit_sequence, audit_head })) => format!(
            "version: {version}\naudit sequence: {audit_sequence}\naudit head: {}\n",
            audit_head.as_deref().unwrap_or("none")
        ),
        Answer::Audit(lines, _) => lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect(),
        Answer::Name(name) => format!("{name}\n"),
        Answer::Done(what) => format!("{what}\n"),
    })
}

/// What went wrong, and what to do about it, in full lines.
pub(crate) fn failure(failed: &Failed, command: &Command, data: &str) -> String {
    let next = match failed {
        Failed::Authenticate(AuthenticateError::Refused(_)) => NEW_TOKEN.into(),
        Failed::Authenticate(AuthenticateError::Unavailable(error)) | Failed::Command(error) => {
            next_step(error, command, data)
        }
    };
    let next = if next.is_empty() { next } else { format!("{next}\n") };
    format!("Error: {failed}\n{next}")
}

const NEW_TOKEN: &str =
    "Present an accepted token on standard input. A lost operator token is replaced by: optoken-cli recover";

/// What it means that an answer could not be written, and what to do about it; a line, or nothing where nothing was changed.
pub(crate) const fn unshown(command: &Command) -> &'static str {
    match command {
        Command::CreateOperator | Command::Regenerate { .. } | Command::Recover => {
            "The token was made and is lost. Replace it with: optoken-cli recover\n"
        }
        Command::CreateNamed { .. } => {
            "The token was made and is lost, and its name is taken. First: optoken-cli delete NAME, then create it again\n"
        }
        Command::Stage { .. } => {
            "The token was staged. Staging again is safe: the operator token stays as it is, and the new one takes the place \
             of this one.\n"
        }
        Command::Confirm { .. } => {
            "The change was made: the token that was presented is the operator token.\n"
        }
        Command::Delete { .. } => "The change was made: the token is refused.\n",
        Command::Cancel => "The change was made: no token waits to be confirmed.\n",
        Command::EndOverlap => "The change was made: no replaced token is accepted.\n",
        Command::Initialize | Command::Import { .. } => {
            "It was carried out. Running it again is safe, and tells what it came to.\n"
        }
        Command::Authenticate
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

/// What to do where nobody knows whether a change was made.
const fn in_doubt(command: &Command) -> &'static str {
    match command {
        Command::CreateOperator => {
            "Run it again. If there is an operator token by then, it was made and is lost; then: optoken-cli recover"
        }
        Command::CreateNamed { .. } => {
            "See with: optoken-cli list, whether it was made. If so, it is lost; then: optoken-cli delete NAME, and create it \
             again."
        }
        Command::Regenerate { .. } => {
            "See with: optoken-cli authenticate, whether the token that was presented still is the operator token. If not, the \
             change was made and its new token is lost; then: optoken-cli recover"
        }
        Command::Recover => "Run it again; whatever it came to, the operator token is replaced then.",
        Command::Confirm { .. } => {
            "Nothing is lost. Run it again with the same token: it succeeds, whether the change was made or not."
        }
        Command::Stage { .. } => "Nothing is lost. Run it again: the operator token stays as it is.",
        Command::Delete { .. } => "Run it again. If there is no such token by then, the change was made.",
        Command::Cancel | Command::EndOverlap | Command::Initialize | Command::Import { .. } => {
            "Run it again: it succeeds, whether the change was made or not."
        }
        Command::Authenticate
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
        CommandError::Rejected(denial) => match denial {
            CommandRejected::Unauthenticated(AuthError::Unknown | AuthError::Expired { .. }) => {
                NEW_TOKEN.into()
            }
            CommandRejected::Forbidden => "Present the operator token itself on standard input.".into(),
            CommandRejected::NotFound(name) if name == OPERATOR => "Make it with: optoken-cli create".into(),
            CommandRejected::NotFound(_) => "See the names with: optoken-cli list".into(),
            CommandRejected::AlreadyExists(name) if name == OPERATOR => {
                "Replace it with: optoken-cli regenerate. If it is lost: optoken-cli recover".into()
            }
            CommandRejected::AlreadyExists(_) => {
                "Take another name, or first: optoken-cli delete NAME".into()
            }
            CommandRejected::OperatorProtected => "Replace it with: optoken-cli regenerate".into(),
            CommandRejected::Full => "Take some out with: optoken-cli delete NAME".into(),
            CommandRejected::Overlapping { .. } => "End it with: optoken-cli end-overlap".into(),
            CommandRejected::TooLong { .. }
            | CommandRejected::Name(_)
            | CommandRejected::SecretTaken(_)
            | CommandRejected::SecretCollision
            | CommandRejected::Invariant(_) => String::new(),
        },
        CommandError::Catalog(CatalogError::UnknownFormat { .. }) => {
            format!("Use the version of optoken-cli that wrote {data}/catalog. Nothing was changed.")
        }
        CommandError::Catalog(_) => format!(
            "Put the newest file in {data}/catalog back from a backup, or move that directory away to begin without any \
             token. Nothing was changed."
        ),
        CommandError::Contended => "Nothing was changed; try again.".into(),
        CommandError::Unavailable(_) => "Nothing was changed.".into(),
        CommandError::UnknownOutcome(_) => in_doubt(command).into(),
        CommandError::Entropy(_) | CommandError::Weak(_) | CommandError::Hash(_) => String::new(),
    }
}

fn whose(principal: Principal) -> String {
    let Principal { id, kind } = principal;
    let kind = match kind {
        TokenKind::Operator => "the operator token",
        TokenKind::PreviousOperator => "the replaced operator token, which is accepted a while longer",
        TokenKind::NamedAdmin => "a named admin token",
    };
    format!("This is {kind}, number {id}.\n")
}

fn under_way(rotation: &Rotation) -> String {
    match rotation {
        Rotation::Idle => "nothing under way".into(),
        Rotation::Staged(ExpiringHash { hash, expires_at }) => {
            format!("a token waits to be confirmed until {}\nsha512 of that: {hash}", rfc3339(*expires_at))
        }
        Rotation::Overlap(ExpiringHash { hash, expires_at }) => {
            format!("the token before is accepted until {}\nsha512 of that: {hash}", rfc3339(*expires_at))
        }
    }
}

fn details(token: &TokenRecord) -> String {
    format!(
        "id: {}\nname: {}\ncreated: {}\nupdated: {}\nexpiry: {}\nsha512: {}\n",
        token.id,
        token.name,
        rfc3339(token.created_at),
        moment(token.updated_at),
        moment(token.expiry),
        token.hash
    )
}

fn moment(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "never".into(), rfc3339)
}

/// One line a token, in columns.
fn table(tokens: &[TokenRecord]) -> String {
    const HEAD: [&str; 6] = ["ID", "NAME", "CREATED", "UPDATED", "EXPIRY", "SHA512"];
    let rows: Vec<[String; 6]> = core::iter::once(HEAD.map(Into::into))
        .chain(tokens.iter().map(|token| {
            [
                token.id.to_string(),
                token.name.clone(),
                rfc3339(token.created_at),
                moment(token.updated_at),
                moment(token.expiry),
                token.hash.to_string(),
            ]
        }))
        .collect();
    let mut widths = [0; 6];
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
