//! Answers for programs: a result of the contract (`wit/*.wit`) as one line of JSON, in the form that
//! `tests/conformance/README.md` gives every value of it.

use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use optoken_core::authority::{AuthenticateError, ImportOutcome, Issued, Staged};
use optoken_core::catalog::{MAX_TOKENS, TokenRecord};
use optoken_core::commit::CommandError;
use optoken_core::ports::Timestamp;
use optoken_core::rotation::{self, ExpiringHash};
use optoken_core::token::Secret;
use optoken_core::transition::{self, AuthError, CommandRejected};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::answer::{Answer, Failed};

/// A result as its line, without the line's end.
pub(crate) fn line(outcome: &Result<Answer, Failed>) -> Result<Zeroizing<String>, serde_json::Error> {
    let outcome = match outcome {
        Ok(answer) => Outcome::Ok(Value::from(answer)),
        Err(failed) => Outcome::Err(Error::from(failed)),
    };
    // Wiped by the heap where it grew.
    serde_json::to_string(&outcome).map(Zeroizing::new)
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome<'a> {
    Ok(Value<'a>),
    Err(Error),
}

#[derive(Serialize)]
#[serde(untagged)]
enum Value<'a> {
    Issued(IssuedToken<'a>),
    Staged(StagedSecret<'a>),
    Info(TokenInfo<'a>),
    Import(Import<'a>),
    Principal(Principal),
    Status(Option<OperatorStatus<'a>>),
    List(Vec<TokenInfo<'a>>),
    Audit(AuditRecords<'a>),
    State(Option<CatalogState<'a>>),
    Name(&'a str),
    Nothing(()),
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct TokenInfo<'a> {
    id: u64,
    name: &'a str,
    sha512: String,
    created_at: Timestamp,
    updated_at: Option<Timestamp>,
    updated_by: Option<u64>,
    expiry: Option<Timestamp>,
}

#[derive(Serialize)]
struct IssuedToken<'a> {
    info: TokenInfo<'a>,
    secret: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct StagedSecret<'a> {
    secret: Option<&'a str>,
    sha512: String,
    expires_at: Timestamp,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum Import<'a> {
    Created(TokenInfo<'a>),
    Unchanged(TokenInfo<'a>),
    Different(TokenInfo<'a>),
}

#[derive(Serialize)]
struct Principal {
    id: u64,
    kind: TokenKind,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum TokenKind {
    Operator,
    PreviousOperator,
    NamedAdmin,
}

#[derive(Serialize)]
struct OperatorStatus<'a> {
    info: TokenInfo<'a>,
    rotation: Rotation,
}

#[derive(Serialize)]
struct AuditRecords<'a> {
    lines: &'a [String],
    retained: Option<AuditRange>,
}

#[derive(Serialize)]
struct AuditRange {
    oldest: u64,
    newest: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct CatalogState<'a> {
    version: &'a str,
    audit_sequence: u64,
    audit_head: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum Rotation {
    Idle,
    Staged(ExpiringSecret),
    Overlapping(ExpiringSecret),
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct ExpiringSecret {
    sha512: String,
    expires_at: Timestamp,
}

/// The errors of all commands, whose names agree where they meet.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum Error {
    UnknownToken,
    Unauthenticated,
    Expired(Timestamp),
    Forbidden,
    NotFound(String),
    AlreadyExists(String),
    OperatorProtected,
    Full(usize),
    Conflict(String),
    InvalidArgument(String),
    Contended,
    #[serde(rename = "unavailable")]
    Undecided,
    Unavailable(String),
    UnknownOutcome(String),
    UnreadableCatalog(String),
    NoEntropy(String),
    Other(String),
}

impl<'a> From<&'a Answer> for Value<'a> {
    fn from(answer: &'a Answer) -> Self {
        match answer {
            Answer::Issued(Issued { token, secret }) => {
                Self::Issued(IssuedToken { info: token.into(), secret: secret.expose() })
            }
            Answer::Staged(Staged { secret, hash, expires_at }) => Self::Staged(StagedSecret {
                secret: secret.as_ref().map(Secret::expose),
                sha512: hash.to_string(),
                expires_at: *expires_at,
            }),
            Answer::Confirmed(token) | Answer::Deleted(token) | Answer::Described(token) => {
                Self::Info(token.into())
            }
            Answer::Import(outcome) => Self::Import(match outcome {
                ImportOutcome::Created(token) => Import::Created(token.into()),
                ImportOutcome::Unchanged(token) => Import::Unchanged(token.into()),
                ImportOutcome::Different(token) => Import::Different(token.into()),
            }),
            Answer::Principal(transition::Principal { id, kind }) => Self::Principal(Principal {
                id: *id,
                kind: match kind {
                    transition::TokenKind::Operator => TokenKind::Operator,
                    transition::TokenKind::PreviousOperator => TokenKind::PreviousOperator,
                    transition::TokenKind::NamedAdmin => TokenKind::NamedAdmin,
                },
            }),
            Answer::Status(status) => {
                Self::Status(status.as_ref().map(|(operator, rotation)| OperatorStatus {
                    info: operator.into(),
                    rotation: match rotation {
                        rotation::Rotation::Idle => Rotation::Idle,
                        rotation::Rotation::Staged(staged) => Rotation::Staged(staged.into()),
                        rotation::Rotation::Overlap(previous) => Rotation::Overlapping(previous.into()),
                    },
                }))
            }
            Answer::List(tokens) => Self::List(tokens.iter().map(Into::into).collect()),
            Answer::Audit(lines, retained) => Self::Audit(AuditRecords {
                lines,
                retained: retained.map(|(oldest, newest)| AuditRange { oldest, newest }),
            }),
            Answer::State(state) => Self::State(state.as_ref().map(|state| CatalogState {
                version: &state.version,
                audit_sequence: state.audit_sequence,
                audit_head: state.audit_head.as_deref(),
            })),
            Answer::Name(name) => Self::Name(name),
            Answer::Done(_) => Self::Nothing(()),
        }
    }
}

impl From<&ExpiringHash> for ExpiringSecret {
    fn from(ExpiringHash { hash, expires_at }: &ExpiringHash) -> Self {
        Self { sha512: hash.to_string(), expires_at: *expires_at }
    }
}

impl<'a> From<&'a TokenRecord> for TokenInfo<'a> {
    fn from(token: &'a TokenRecord) -> Self {
        Self {
            id: token.id,
            name: &token.name,
            sha512: token.hash.to_string(),
            created_at: token.created_at,
            updated_at: token.updated_at,
            updated_by: token.updated_by,
            expiry: token.expiry,
        }
    }
}

impl From<&Failed> for Error {
    fn from(failed: &Failed) -> Self {
        match failed {
            Failed::Authenticate(AuthenticateError::Refused(AuthError::Unknown)) => Self::UnknownToken,
            Failed::Authenticate(AuthenticateError::Refused(AuthError::Expired { at })) => Self::Expired(*at),
            Failed::Authenticate(AuthenticateError::Unavailable(_)) => Self::Undecided,
            Failed::Command(error) => error.into(),
        }
    }
}

impl From<&CommandError> for Error {
    fn from(error: &CommandError) -> Self {
        match error {
            CommandError::Rejected(denial) => match denial {
                CommandRejected::Unauthenticated(AuthError::Unknown) => Self::Unauthenticated,
                CommandRejected::Unauthenticated(AuthError::Expired { at }) => Self::Expired(*at),
                CommandRejected::Forbidden => Self::Forbidden,
                CommandRejected::NotFound(name) => Self::NotFound(name.clone()),
                CommandRejected::AlreadyExists(name) => Self::AlreadyExists(name.clone()),
                CommandRejected::OperatorProtected => Self::OperatorProtected,
                CommandRejected::Full => Self::Full(MAX_TOKENS),
                CommandRejected::Overlapping { .. } => Self::Conflict(denial.to_string()),
                CommandRejected::TooLong { .. }
                | CommandRejected::Name(_)
                | CommandRejected::SecretTaken(_) => Self::InvalidArgument(denial.to_string()),
                CommandRejected::SecretCollision => Self::NoEntropy(denial.to_string()),
                CommandRejected::Invariant(error) => Self::Other(error.to_string()),
            },
            CommandError::Catalog(error) => Self::UnreadableCatalog(error.to_string()),
            CommandError::Contended => Self::Contended,
            CommandError::Unavailable(why) => Self::Unavailable(why.clone()),
            CommandError::UnknownOutcome(why) => Self::UnknownOutcome(why.clone()),
            CommandError::Entropy(error) => Self::NoEntropy(error.to_string()),
            CommandError::Weak(_) | CommandError::Hash(_) => Self::InvalidArgument(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use optoken_core::authority::Authority;
    use optoken_core::ports::StoreError;
    use optoken_core::testing::MemoryPorts;
    use optoken_core::token::TokenHash;

    use super::*;
    use crate::answer::carry_out;
    use crate::args;
    use crate::text;

    /// Ports with a clock that starts at the epoch and advances by a second at each call.
    fn ticking() -> MemoryPorts {
        MemoryPorts { tick: 1000, ..MemoryPorts::default() }
    }

    /// Plays command lines, each as a run of its own on one store.
    struct Runs(MemoryPorts);

    impl Runs {
        fn outcome(&mut self, line: &str, token: &str) -> Result<Answer, Failed> {
            let invocation = args::parse(line.split_whitespace().map(String::from)).unwrap();
            let mut authority = Authority::new(&mut self.0);
            let outcome = carry_out(&mut authority, &invocation.command, token, &invocation.origin);
            outcome.map(Option::unwrap)
        }

        fn line(&mut self, line: &str, token: &str) -> String {
            super::line(&self.outcome(line, token)).unwrap().to_string()
        }
    }

    /// The secret that is made of the random byte of this number, many times.
    fn secret(random: u8) -> String {
        let mut ports = MemoryPorts { random: random - 1, ..MemoryPorts::default() };
        Secret::mint(&mut ports).unwrap().expose().to_owned()
    }

    fn hash(secret: &str) -> String {
        TokenHash::of(secret).to_string()
    }

    fn info(secret: &str, rest: &str) -> String {
        let (before, after) = rest.split_once(" / ").unwrap();
        format!(r#"{{{before},"sha512":"{}",{after}}}"#, hash(secret))
    }

    #[test]
    fn every_answer_has_the_names_of_the_contract() {
        let mut runs = Runs(ticking());
        let (one, two, three, four) = (secret(1), secret(2), secret(3), secret(4));
        let made =
            r#""id":0,"name":"_admin" / "created-at":1000,"updated-at":null,"updated-by":null,"expiry":null"#;
        let named =
            r#""id":1,"name":"ci" / "created-at":4000,"updated-at":null,"updated-by":null,"expiry":64000"#;
        let again =
            r#""id":0,"name":"_admin" / "created-at":1000,"updated-at":2000,"updated-by":0,"expiry":null"#;
        let x = "a".repeat(128);
        let preset = format!(
            r#"{{"id":2,"name":"x","sha512":"{x}","created-at":6000,"updated-at":null,"updated-by":null,"expiry":9}}"#
        );
        assert_eq!(runs.line("status", ""), r#"{"ok":null}"#);
        assert_eq!(runs.line("list", ""), r#"{"ok":[]}"#);
        assert_eq!(runs.line("audit", ""), r#"{"ok":[]}"#);
        assert_eq!(runs.line("check", ""), r#"{"ok":null}"#);
        let issued =
            |token: &str, rest| format!(r#"{{"ok":{{"info":{},"secret":"{token}"}}}}"#, info(token, rest));
        assert_eq!(runs.line("create", ""), issued(&one, made));
        assert_eq!(runs.line("authenticate", &one), r#"{"ok":{"id":0,"kind":"operator"}}"#);
        assert_eq!(runs.line("regenerate --overlap 60", &one), issued(&two, again));
        assert_eq!(runs.line("authenticate", &one), r#"{"ok":{"id":0,"kind":"replaced-operator"}}"#);
        assert_eq!(runs.line("create --name ci --lifetime 60", &two), issued(&three, named));
        assert_eq!(runs.line("authenticate", &three), r#"{"ok":{"id":1,"kind":"named-admin"}}"#);
        let line = format!("preset --name x --sha512 {x} --expiry 9");
        assert_eq!(runs.line(&line, ""), format!(r#"{{"ok":{{"created":{preset}}}}}"#));
        assert_eq!(runs.line(&line, ""), format!(r#"{{"ok":{{"unchanged":{preset}}}}}"#));
        let line = format!("preset --name x --sha512 {}", x.replace('a', "b"));
        assert_eq!(runs.line(&line, ""), format!(r#"{{"ok":{{"different":{preset}}}}}"#));
        assert_eq!(
            runs.line("status", ""),
            format!(
                r#"{{"ok":{{"info":{},"rotation":{{"overlapping":{{"sha512":"{}","until":62000}}}}}}}}"#,
                info(&two, again),
                hash(&one)
            )
        );
        assert_eq!(runs.line("end-overlap", &two), r#"{"ok":null}"#);
        let now = runs.0.now / 1000;
        assert_eq!(
            runs.line("stage --ttl 50", &two),
            format!(
                r#"{{"ok":{{"secret":"{four}","sha512":"{}","expires-at":{}}}}}"#,
                hash(&four),
                (now + 51) * 1000
            )
        );
        let staged = format!(r#"{{"staged":{{"sha512":"{}","until":{}}}}}"#, hash(&four), (now + 51) * 1000);
        assert!(runs.line("status", "").ends_with(&format!(r#""rotation":{staged}}}}}"#)));
        assert!(runs.line("confirm", &four).starts_with(r#"{"ok":{"id":0,"name":"_admin","sha512":"#));
        let line = format!("stage --sha512 {}", x.replace('a', "c"));
        assert!(runs.line(&line, &four).starts_with(r#"{"ok":{"secret":null,"sha512":"ccc"#));
        assert_eq!(runs.line("cancel", &four), r#"{"ok":null}"#);
        assert!(runs.line("status", "").ends_with(r#""rotation":"settled"}}"#));
        assert_eq!(runs.line("delete ci", &four), format!(r#"{{"ok":{}}}"#, info(&three, named)));
        assert_eq!(runs.line("list", "").matches("\"sha512\"").count(), 2);
        assert!(runs.line("audit", "").starts_with(r#"{"ok":["{\"sequence\":1,"#));
        assert!(runs.line("recover", "").starts_with(r#"{"ok":{"info":{"id":0,"#));
        let name = runs.line("initialize", "");
        assert_eq!((name.len(), &name[..7]), (8 + 36 + 1, r#"{"ok":""#));
    }

    #[test]
    fn every_error_has_the_name_of_the_contract_and_is_told_to_people_with_what_to_do() {
        let mut runs = Runs(ticking());
        let (operator, named) = (secret(1), secret(2));
        assert_eq!(runs.line("regenerate", ""), r#"{"err":"unauthenticated"}"#);
        assert_eq!(runs.line("recover", ""), r#"{"err":{"not-found":"_admin"}}"#);
        let mut runs = Runs(ticking());
        runs.outcome("create", "").unwrap();
        runs.outcome("create --name ci", &operator).unwrap();
        runs.outcome("create --name old --lifetime 0", &operator).unwrap();
        let old = secret(3);
        for (line, token, expected) in [
            ("authenticate", "apiv3_x", r#"{"err":"unknown-token"}"#),
            ("authenticate", old.as_str(), r#"{"err":{"expired":3000}}"#),
            ("delete ci", &old, r#"{"err":{"expired":3000}}"#),
            ("regenerate", &named, r#"{"err":"forbidden"}"#),
            ("delete x", &operator, r#"{"err":{"not-found":"x"}}"#),
            ("create", "", r#"{"err":{"already-exists":"_admin"}}"#),
            ("create --name ci", &operator, r#"{"err":{"already-exists":"ci"}}"#),
            ("delete _admin", &operator, r#"{"err":"operator-protected"}"#),
            (
                "regenerate --overlap 2592001",
                &operator,
                r#"{"err":{"invalid-argument":"at most 2592000 seconds are possible"}}"#,
            ),
            ("preset --name weak", "apiv3_aaaa", r#"{"err":{"invalid-argument":"the token is too weak"#),
            ("stage --sha512 x", &operator, r#"{"err":{"invalid-argument":"#),
        ] {
            assert!(runs.line(line, token).starts_with(expected), "{line}: {}", runs.line(line, token));
        }
        let told = |runs: &mut Runs, line: &str, token| {
            let command = args::parse(line.split_whitespace().map(String::from)).unwrap().command;
            text::failure(&runs.outcome(line, token).unwrap_err(), &command, "/data")
        };
        assert!(told(&mut runs, "authenticate", "x").contains("optoken-cli recover"));
        assert!(told(&mut runs, "create", "").contains("optoken-cli regenerate"));
        assert!(told(&mut runs, "regenerate", &named).contains("Present the operator token itself"));

        runs.outcome("regenerate --overlap 60", &operator).unwrap();
        let current = runs.0.random;
        let operator = secret(current);
        assert!(
            runs.line("stage", &operator).starts_with(r#"{"err":{"conflict":"the token that was replaced"#)
        );
        assert!(told(&mut runs, "stage", &operator).contains("optoken-cli end-overlap"));
        runs.0.entropy_exhausted = true;
        assert_eq!(runs.line("recover", ""), r#"{"err":{"no-entropy":"no randomness: exhausted"}}"#);
        runs.0.entropy_exhausted = false;
        runs.0.random = current - 1;
        assert!(runs.line("recover", "").starts_with(r#"{"err":{"no-entropy":"the new secret is not new"#));
        runs.0.store_error = Some(StoreError::Unavailable("no disk".into()));
        assert_eq!(runs.line("recover", ""), r#"{"err":{"unavailable":"no disk"}}"#);
        assert_eq!(runs.line("authenticate", &operator), r#"{"err":"unavailable"}"#);
        assert!(told(&mut runs, "authenticate", &operator).contains("no disk\nNothing was changed."));
        runs.0.store_error = Some(StoreError::UnknownOutcome("no answer".into()));
        assert_eq!(runs.line("recover", ""), r#"{"err":{"unknown-outcome":"no answer"}}"#);
        let named = "create --name new";
        for (line, next) in [
            ("recover", "Run it again"),
            ("regenerate", "its new token is lost; then: optoken-cli recover"),
            (named, "then: optoken-cli delete NAME, and create it again."),
            ("stage", "Nothing is lost. Run it again"),
            ("delete ci", "Run it again. If there is no such token by then, the change was made."),
            ("initialize", "Run it again: it succeeds"),
        ] {
            assert!(told(&mut runs, line, &operator).contains(next), "{line}");
        }
        runs.0.store_error = None;
        runs.0.stored.as_mut().unwrap().document = "damaged".into();
        assert!(runs.line("check", "").starts_with(r#"{"err":{"unreadable-catalog":"#));
        assert!(told(&mut runs, "check", "").contains("the newest file in /data/catalog back from a backup"));
    }

    #[test]
    fn a_new_token_is_told_to_people_as_in_the_readme() {
        let mut runs = Runs(ticking());
        let token = secret(1);
        let told = text::answer(&runs.outcome("create", "").unwrap());
        assert_eq!(
            told.as_str(),
            format!(
                "\nNew token created successfully!\n\nToken: {token}\nHTTP Requests Header: Authorization: Bearer {token}\n\n\
                 IMPORTANT: Store this token securely, as it will not be shown again.\n\n"
            )
        );
        let list = text::answer(&runs.outcome("list", "").unwrap());
        assert_eq!(
            list.as_str(),
            format!(
                "ID  NAME    CREATED               UPDATED  EXPIRY  SHA512\n\
                 0   _admin  1970-01-01T00:00:01Z  never    never   {}\n",
                hash(&token)
            )
        );
    }
}
