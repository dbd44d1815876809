use super::*;
use crate::audit::AuditChain;

mod revocation;
mod scope;

const NOW: Timestamp = 1_700_000_000_000;

fn hash(text: &str) -> TokenHash {
    TokenHash::of(text)
}

/// Returns the catalog after a command, and the affected token.
fn change(
    catalog: &Catalog,
    command: &Command<'_>,
    origin: &str,
    now: Timestamp,
) -> Result<(Catalog, TokenRecord), CommandRejected> {
    match apply(catalog.clone(), command, origin, now)? {
        Transition::Changed { catalog, token } => Ok((catalog, token.unwrap())),
        Transition::Unchanged(..) => panic!("nothing was changed"),
    }
}

/// An operator whose secret is "first" and a named admin whose secret is "ci".
fn catalog() -> Catalog {
    let (catalog, _) =
        change(&Catalog::default(), &Command::CreateOperator { new: hash("first") }, "test", NOW).unwrap();
    with_admin(&catalog, None)
}

fn with_admin(catalog: &Catalog, expiry: Option<Timestamp>) -> Catalog {
    let admin = TokenRecord {
        id: catalog.next_id(),
        name: "ci".into(),
        hash: hash("ci"),
        created_at: NOW,
        updated_at: None,
        updated_by: None,
        expiry,
        source: Source::Command,
        permissions: None,
        description: None,
    };
    catalog.clone().with_new(admin, catalog.audit().clone()).unwrap()
}

fn authenticated(catalog: &Catalog, text: &str) -> Result<Principal, AuthError> {
    authenticate(catalog, &hash(text), || NOW)
}

#[test]
fn first_token_is_number_0_and_the_operator() {
    let (catalog, token) =
        change(&Catalog::default(), &Command::CreateOperator { new: hash("first") }, "test", NOW).unwrap();
    assert_eq!((token.id, token.name.as_str(), token.expiry), (0, "_admin", None));
    assert_eq!((token.created_at, token.updated_at, token.updated_by), (NOW, None, None));
    assert_eq!(authenticated(&catalog, "first"), Ok(Principal { id: 0, kind: TokenKind::Operator }));
    let result = change(&catalog, &Command::CreateOperator { new: hash("second") }, "test", NOW);
    assert_eq!(result.unwrap_err(), CommandRejected::AlreadyExists("_admin".into()));
}

#[test]
fn regenerate_replaces_the_secret_alone() {
    let before = catalog();
    for (command, actor) in [
        (
            Command::Regenerate { credential: hash("first"), new: hash("second"), overlap_seconds: 0 },
            Actor::Token(0),
        ),
        (Command::Recover { new: hash("second") }, Actor::Recovery),
    ] {
        let (after, token) = change(&before, &command, "here", NOW + 1).unwrap();
        let expected = TokenRecord {
            hash: hash("second"),
            updated_at: Some(NOW + 1),
            updated_by: Some(0),
            ..before.operator().unwrap().clone()
        };
        assert_eq!(token, expected);
        assert_eq!(authenticated(&after, "first"), Err(AuthError::Unknown));
        assert_eq!(authenticated(&after, "second"), Ok(Principal { id: 0, kind: TokenKind::Operator }));
        assert_eq!(authenticated(&after, "ci"), Ok(Principal { id: 1, kind: TokenKind::NamedAdmin }));
        let [.., newest] = &after.audit().records()[..] else { panic!("no record") };
        assert_eq!((newest.sequence, newest.actor, newest.origin.as_str()), (2, actor, "here"));
        assert_eq!(Catalog::decode(&after.encode()).as_ref(), Ok(&after));
    }
}

#[test]
fn regenerate_requires_the_operator_token() {
    let catalog = catalog();
    let regenerate = |text| {
        change(
            &catalog,
            &Command::Regenerate { credential: hash(text), new: hash("second"), overlap_seconds: 0 },
            "test",
            NOW,
        )
        .map(|_| ())
    };
    assert_eq!(regenerate("ci"), Err(CommandRejected::Forbidden));
    assert_eq!(regenerate(""), Err(CommandRejected::Unauthenticated(AuthError::Unknown)));
    assert_eq!(regenerate("First"), Err(CommandRejected::Unauthenticated(AuthError::Unknown)));
    assert_eq!(regenerate("first"), Ok(()));
}

#[test]
fn recover_without_an_operator_is_not_found() {
    let result = change(&Catalog::default(), &Command::Recover { new: hash("x") }, "test", NOW);
    assert_eq!(result.unwrap_err(), CommandRejected::NotFound("_admin".into()));
    let orphan = with_admin(&Catalog::default(), None);
    for command in [
        Command::Recover { new: hash("x") },
        Command::Regenerate { credential: hash("ci"), new: hash("x"), overlap_seconds: 0 },
        Command::Stage { credential: hash("ci"), new: hash("x"), ttl_seconds: 60 },
    ] {
        let result = change(&orphan, &command, "test", NOW);
        assert_eq!(result.unwrap_err(), CommandRejected::NotFound("_admin".into()), "{command:?}");
    }
}

#[test]
fn token_is_refused_from_its_expiry_on() {
    for (expiry, expected) in [
        (NOW - 1, Err(AuthError::Expired { at: NOW - 1 })),
        (NOW, Err(AuthError::Expired { at: NOW })),
        (NOW + 1, Ok(Principal { id: 0, kind: TokenKind::NamedAdmin })),
    ] {
        assert_eq!(authenticated(&with_admin(&Catalog::default(), Some(expiry)), "ci"), expected);
    }
}

#[test]
fn clock_is_not_read_for_tokens_without_expiry() {
    let clock = || -> Timestamp { panic!("the clock was read") };
    assert!(authenticate(&catalog(), &hash("first"), clock).is_ok());
    assert!(authenticate(&catalog(), &hash("unknown"), clock).is_err());
}

#[test]
fn audit_chain_starts_with_the_first_token() {
    assert_eq!(Catalog::default().audit(), &AuditChain::default());
    let (catalog, _) =
        change(&Catalog::default(), &Command::CreateOperator { new: hash("first") }, "here", NOW).unwrap();
    let [record] = &catalog.audit().records()[..] else { panic!("not one record") };
    assert_eq!((record.sequence, record.at), (1, NOW));
    assert_eq!(record.subject, Some(Subject { id: 0, name: "_admin".into(), permissions: None }));
    assert_eq!((record.action, record.actor), (Action::CreateOperator, Actor::Bootstrap));
}

fn create_named(credential: &str, name: &'static str, lifetime_seconds: Option<u64>) -> Command<'static> {
    Command::CreateNamed {
        credential: hash(credential),
        name,
        lifetime_seconds,
        permissions: None,
        new: hash(name),
    }
}

#[test]
fn accepted_token_creates_and_deletes_named_tokens() {
    let catalog = catalog();
    for credential in ["first", "ci"] {
        let (with, token) = change(&catalog, &create_named(credential, "new", None), "here", NOW).unwrap();
        assert_eq!((token.id, token.name.as_str(), token.expiry), (2, "new", None));
        assert_eq!(authenticated(&with, "new"), Ok(Principal { id: 2, kind: TokenKind::NamedAdmin }));
        let delete = Command::Delete { credential: hash(credential), name: "new" };
        let (without, deleted_token) = change(&with, &delete, "here", NOW).unwrap();
        assert_eq!(deleted_token, token);
        assert_eq!(authenticated(&without, "new"), Err(AuthError::Unknown));
        assert_eq!(authenticated(&without, "first"), Ok(Principal { id: 0, kind: TokenKind::Operator }));
        // The name is free again, the number is not.
        let (again, token) = change(&without, &create_named("ci", "new", None), "here", NOW).unwrap();
        assert_eq!((token.id, again.tokens().len()), (3, 3));
        let [.., created, deleted, newest] = &again.audit().records()[..] else { panic!("too few records") };
        assert_eq!(created.action, Action::CreateNamed);
        assert_eq!((deleted.action, &deleted.subject), (Action::Delete, &Some(subject(&deleted_token))));
        assert_eq!(newest.actor, Actor::Token(1));
        assert_eq!(Catalog::decode(&again.encode()), Ok(again));
    }
}

#[test]
fn token_may_delete_itself() {
    let delete = Command::Delete { credential: hash("ci"), name: "ci" };
    let (without, _) = change(&catalog(), &delete, "here", NOW).unwrap();
    assert_eq!(authenticated(&without, "ci"), Err(AuthError::Unknown));
}

#[test]
fn rejections_have_the_right_reason() {
    let catalog = catalog();
    let named = |credential, name| apply(catalog.clone(), &create_named(credential, name, None), "test", NOW);
    let delete = |credential, name| {
        apply(catalog.clone(), &Command::Delete { credential: hash(credential), name }, "test", NOW)
    };
    for (result, expected) in [
        (named("unknown", "new"), AuthError::Unknown.into()),
        // Only an accepted credential reveals which names exist.
        (named("unknown", "ci"), AuthError::Unknown.into()),
        (named("first", "ci"), CommandRejected::AlreadyExists("ci".into())),
        (named("first", "_admin"), CommandRejected::AlreadyExists("_admin".into())),
        (named("first", ""), NameError::Empty.into()),
        (named("first", "_Admin"), NameError::LooksLikeOperator.into()),
        (delete("unknown", "ci"), AuthError::Unknown.into()),
        (delete("unknown", "_admin"), AuthError::Unknown.into()),
        (delete("first", "_admin"), CommandRejected::OperatorProtected),
        (delete("ci", "_admin"), CommandRejected::OperatorProtected),
        (delete("first", "CI"), CommandRejected::NotFound("CI".into())),
        (delete("first", ""), CommandRejected::NotFound(String::new())),
    ] {
        assert_eq!(result, Err(expected));
    }
}

#[test]
fn lifetime_saturates_at_the_last_expiry() {
    for (lifetime, expiry) in [
        (None, None),
        (Some(0), Some(NOW)),
        (Some(1), Some(NOW + 1000)),
        (Some(u64::MAX / 1000), Some(MAX_EXPIRY)),
        (Some(u64::MAX), Some(MAX_EXPIRY)),
    ] {
        let (catalog, token) =
            change(&catalog(), &create_named("first", "new", lifetime), "test", NOW).unwrap();
        assert_eq!(token.expiry, expiry);
        assert_eq!(authenticated(&catalog, "new").is_ok(), lifetime != Some(0));
    }
}

#[test]
fn full_catalog_rejects_creation_and_allows_deletion() {
    let audit = AuditChain::default();
    let first = catalog();
    let full = (2..MAX_TOKENS as u64).fold(first.tokens().to_vec(), |mut tokens, id| {
        let name = format!("t{id}");
        tokens.push(TokenRecord { id, hash: hash(&name), name, ..tokens[1].clone() });
        tokens
    });
    let full = Catalog::of(MAX_TOKENS as u64, full, audit).unwrap();
    let result = apply(full.clone(), &create_named("first", "one more", None), "test", NOW);
    assert_eq!(result, Err(CommandRejected::Full));
    let delete = Command::Delete { credential: hash("first"), name: "t77" };
    let (less, _) = change(&full, &delete, "test", NOW).unwrap();
    assert!(change(&less, &create_named("first", "one more", None), "test", NOW).is_ok());
    let regenerate =
        Command::Regenerate { credential: hash("first"), new: hash("second"), overlap_seconds: 0 };
    assert!(change(&full, &regenerate, "test", NOW).is_ok());
}

#[test]
fn import_adds_a_token_once_and_changes_none() {
    let import = |catalog: &Catalog, name, text| {
        apply(
            catalog.clone(),
            &Command::Import {
                name,
                expiry: Some(u64::MAX),
                permissions: None,
                description: None,
                new: hash(text),
            },
            "test",
            NOW,
        )
    };
    let Ok(Transition::Changed { catalog, token: Some(token) }) = import(&Catalog::default(), "_admin", "p")
    else {
        panic!("not imported")
    };
    assert_eq!((token.id, token.expiry), (0, Some(MAX_EXPIRY)));
    assert_eq!(authenticated(&catalog, "p"), Ok(Principal { id: 0, kind: TokenKind::Operator }));
    let record = &catalog.audit().records()[0];
    assert_eq!((record.action, record.actor), (Action::Import, Actor::Provision));
    for text in ["p", "another"] {
        assert_eq!(
            import(&catalog, "_admin", text),
            Ok(Transition::Unchanged(catalog.clone(), Some(token.clone())))
        );
    }
    assert_eq!(import(&catalog, "ci", "p"), Err(CommandRejected::SecretTaken("_admin".into())));
    assert_eq!(import(&catalog, "_ADMIN", "q"), Err(NameError::LooksLikeOperator.into()));
}

#[test]
fn catalog_id_is_given_once() {
    let name = |catalog: &Catalog, id| apply(catalog.clone(), &Command::Initialize { id }, "test", NOW);
    let Ok(Transition::Changed { catalog, token: None }) = name(&catalog(), "one") else {
        panic!("not named")
    };
    assert_eq!((catalog.id(), catalog.tokens().len()), (Some("one"), 2));
    assert_eq!(name(&catalog, "two"), Ok(Transition::Unchanged(catalog.clone(), None)));
}

#[test]
fn named_admin_may_create_a_missing_operator() {
    let orphan = with_admin(&Catalog::default(), None);
    let (catalog, token) = change(&orphan, &create_named("ci", "_admin", None), "test", NOW).unwrap();
    assert!(token.is_operator());
    let record = &catalog.audit().records()[0];
    assert_eq!((record.action, record.actor), (Action::CreateOperator, Actor::Token(0)));
}

fn stage(credential: &str, new: &str) -> Command<'static> {
    Command::Stage { credential: hash(credential), new: hash(new), ttl_seconds: 60 }
}

fn confirming(credential: &str) -> Command<'static> {
    Command::Confirm { credential: hash(credential), overlap_seconds: 0 }
}

#[test]
fn staged_secret_is_accepted_by_confirm_alone() {
    let (staged, token) = change(&catalog(), &stage("first", "second"), "here", NOW).unwrap();
    assert_eq!(token.hash, hash("first"));
    assert_eq!(authenticated(&staged, "second"), Err(AuthError::Unknown));
    assert!(authenticated(&staged, "first").is_ok());
    for command in [
        create_named("second", "new", None),
        stage("second", "third"),
        Command::Regenerate { credential: hash("second"), new: hash("third"), overlap_seconds: 0 },
        Command::Cancel { credential: hash("second") },
        Command::Delete { credential: hash("second"), name: "ci" },
    ] {
        let result = apply(staged.clone(), &command, "test", NOW);
        assert_eq!(result, Err(AuthError::Unknown.into()), "{command:?}");
    }
    let (confirmed, token) = change(&staged, &confirming("second"), "here", NOW + 1).unwrap();
    assert_eq!((token.hash, token.updated_at, token.id), (hash("second"), Some(NOW + 1), 0));
    assert_eq!(authenticated(&confirmed, "first"), Err(AuthError::Unknown));
    assert_eq!(authenticated(&confirmed, "second"), Ok(Principal { id: 0, kind: TokenKind::Operator }));
    assert_eq!(confirmed.rotation(), Rotation::Idle);
    // A client that lost the answer repeats the command.
    let again = apply(confirmed.clone(), &confirming("second"), "here", NOW + 9_999_999);
    assert_eq!(again, Ok(Transition::Unchanged(confirmed.clone(), Some(token))));
    assert_eq!(apply(confirmed, &confirming("first"), "here", NOW), Err(AuthError::Unknown.into()));
}

#[test]
fn staged_secret_expires_and_can_be_staged_again() {
    let (staged, _) = change(&catalog(), &stage("first", "second"), "here", NOW).unwrap();
    let until = NOW + 60_000;
    assert!(change(&staged, &confirming("second"), "here", until - 1).is_ok());
    let late = apply(staged.clone(), &confirming("second"), "here", until);
    assert_eq!(late, Err(AuthError::Expired { at: until }.into()));
    let (again, _) = change(&staged, &stage("first", "second"), "here", until).unwrap();
    assert!(change(&again, &confirming("second"), "here", until).is_ok());
    let (other, _) = change(&staged, &stage("first", "third"), "here", NOW).unwrap();
    assert_eq!(apply(other.clone(), &confirming("second"), "here", NOW), Err(AuthError::Unknown.into()));
    assert!(change(&other, &confirming("third"), "here", NOW).is_ok());
    for in_use in ["first", "ci"] {
        let result = apply(staged.clone(), &stage("first", in_use), "here", NOW).unwrap_err();
        assert!(matches!(result, CommandRejected::SecretTaken(_)), "{result:?}");
    }
    let long =
        Command::Stage { credential: hash("first"), new: hash("x"), ttl_seconds: MAX_STAGE_SECONDS + 1 };
    assert_eq!(apply(staged, &long, "here", NOW), Err(CommandRejected::TooLong { limit: MAX_STAGE_SECONDS }));
}

#[test]
fn staged_secret_ends_by_cancel_or_replacement() {
    let (staged, _) = change(&catalog(), &stage("first", "second"), "here", NOW).unwrap();
    for command in [
        Command::Cancel { credential: hash("first") },
        Command::Regenerate { credential: hash("first"), new: hash("third"), overlap_seconds: 0 },
        Command::Recover { new: hash("third") },
    ] {
        let (after, _) = change(&staged, &command, "here", NOW).unwrap();
        assert_eq!(after.rotation(), Rotation::Idle, "{command:?}");
        assert_eq!(apply(after, &confirming("second"), "here", NOW), Err(AuthError::Unknown.into()));
    }
    let nothing = apply(catalog(), &Command::Cancel { credential: hash("first") }, "here", NOW).unwrap();
    assert!(matches!(nothing, Transition::Unchanged(..)));
    let result = apply(staged, &Command::Cancel { credential: hash("ci") }, "here", NOW);
    assert_eq!(result, Err(CommandRejected::Forbidden));
}

#[test]
fn previous_secret_is_accepted_during_overlap_and_rotates_nothing() {
    let regenerate =
        Command::Regenerate { credential: hash("first"), new: hash("second"), overlap_seconds: 60 };
    let (direct, _) = change(&catalog(), &regenerate, "here", NOW).unwrap();
    let (staged, _) = change(&catalog(), &stage("first", "second"), "here", NOW).unwrap();
    let confirm = Command::Confirm { credential: hash("second"), overlap_seconds: 60 };
    let (confirmed, _) = change(&staged, &confirm, "here", NOW).unwrap();
    for catalog in [direct, confirmed] {
        let until = NOW + 60_000;
        let at = |moment| authenticate(&catalog, &hash("first"), || moment);
        assert_eq!(at(until - 1), Ok(Principal { id: 0, kind: TokenKind::PreviousOperator }));
        assert_eq!(at(until), Err(AuthError::Expired { at: until }));
        assert!(authenticated(&catalog, "second").is_ok());
        for command in [
            Command::Regenerate { credential: hash("first"), new: hash("third"), overlap_seconds: 0 },
            stage("first", "third"),
            Command::Confirm { credential: hash("first"), overlap_seconds: 0 },
            Command::EndOverlap { credential: hash("first") },
            Command::EndOverlap { credential: hash("ci") },
        ] {
            assert_eq!(
                apply(catalog.clone(), &command, "here", NOW),
                Err(CommandRejected::Forbidden),
                "{command:?}"
            );
        }
        // A staged and a previous secret never exist together.
        let result = apply(catalog.clone(), &stage("second", "third"), "here", until - 1);
        assert_eq!(result, Err(CommandRejected::Overlapping { until }));
        assert!(change(&catalog, &stage("second", "third"), "here", until).is_ok());
        for command in [
            Command::EndOverlap { credential: hash("second") },
            Command::Recover { new: hash("third") },
            Command::Regenerate { credential: hash("second"), new: hash("third"), overlap_seconds: 0 },
        ] {
            let (after, _) = change(&catalog, &command, "here", NOW).unwrap();
            assert_eq!(authenticated(&after, "first"), Err(AuthError::Unknown), "{command:?}");
        }
    }
    let long = MAX_OVERLAP_SECONDS + 1;
    let regenerate = Command::Regenerate { credential: hash("first"), new: hash("x"), overlap_seconds: long };
    let result = apply(catalog(), &regenerate, "here", NOW);
    assert_eq!(result, Err(CommandRejected::TooLong { limit: MAX_OVERLAP_SECONDS }));
}
