//! Imports and revoked secrets.

use super::*;

/// Applies a command that must change the catalog.
fn changed(catalog: &Catalog, command: &Command<'_>, now: Timestamp) -> Catalog {
    change(catalog, command, "test", now).unwrap().0
}

#[test]
fn deleted_import_does_not_come_back() {
    let import = |name, secret| Command::Import {
        name,
        expiry: None,
        permissions: None,
        description: None,
        new: hash(secret),
    };
    let before = changed(&catalog(), &import("preset", "of the preset"), NOW);
    let delete = Command::Delete { credential: hash("first"), name: "preset" };
    let after = Catalog::decode(&changed(&before, &delete, NOW).encode()).unwrap();
    for name in ["preset", "another name"] {
        let again = apply(after.clone(), &import(name, "of the preset"), "test", NOW).unwrap();
        assert_eq!(again, Transition::Unchanged(after.clone(), None), "{name}");
    }
    // Another secret under the same name is another token.
    changed(&after, &import("preset", "a new one"), NOW);

    // A deleted token that was not imported leaves nothing behind.
    let delete = Command::Delete { credential: hash("first"), name: "ci" };
    let after = changed(&before, &delete, NOW);
    changed(&after, &import("ci", "ci"), NOW);
}

#[test]
fn tombstones_are_bounded_and_the_oldest_goes_first() {
    let mut catalog = catalog();
    for n in 0..=crate::catalog::MAX_TOMBSTONES {
        let new = hash(&format!("preset {n}"));
        catalog = changed(
            &catalog,
            &Command::Import { name: "preset", expiry: None, permissions: None, description: None, new },
            NOW,
        );
        let delete = Command::Delete { credential: hash("first"), name: "preset" };
        catalog = changed(&catalog, &delete, NOW);
    }
    assert!(!catalog.is_revoked(&hash("preset 0")));
    assert!(catalog.is_revoked(&hash("preset 1")));
    let newest = format!("preset {}", crate::catalog::MAX_TOMBSTONES);
    assert!(catalog.is_revoked(&hash(&newest)));
    assert_eq!(Catalog::decode(&catalog.encode()).unwrap(), catalog);
}

#[test]
fn clock_that_was_set_back_revives_nothing() {
    let regenerate =
        Command::Regenerate { credential: hash("first"), new: hash("second"), overlap_seconds: 3600 };
    let overlapping = changed(&catalog(), &regenerate, NOW);
    let create = Command::CreateNamed {
        credential: hash("second"),
        name: "for an hour",
        lifetime_seconds: Some(3600),
        permissions: None,
        new: hash("short"),
    };
    let catalog = changed(&overlapping, &create, NOW);
    let later = NOW + 2 * 3_600_000;
    let new = hash("late");
    let create = Command::CreateNamed {
        credential: hash("second"),
        name: "late",
        lifetime_seconds: None,
        permissions: None,
        new,
    };
    let catalog = changed(&catalog, &create, later);
    for now in [0, NOW, later] {
        for secret in ["first", "short"] {
            let result = authenticate(&catalog, &hash(secret), || now);
            assert!(matches!(result, Err(AuthError::Expired { .. })), "{secret} at {now}");
        }
        // New deadlines and records begin at the newest record.
        let stage = Command::Stage { credential: hash("second"), new: hash("staged"), ttl_seconds: 60 };
        let staged = changed(&catalog, &stage, now);
        assert_eq!(staged.rotation().pending().unwrap().expires_at, later + 60_000);
        assert_eq!(staged.audit().newest_at(), later);
    }
}

#[test]
fn restore_replaces_the_operator_token_at_the_time_of_the_clock() {
    let stage = Command::Stage { credential: hash("first"), new: hash("staged"), ttl_seconds: 60 };
    // A record that a clock far ahead made.
    let poisoned = changed(&catalog(), &stage, NOW * 2);
    let restored = changed(&poisoned, &Command::Restore { new: hash("restored") }, NOW);
    assert_eq!(authenticated(&restored, "first"), Err(AuthError::Unknown));
    assert_eq!(authenticated(&restored, "restored").unwrap().kind, TokenKind::Operator);
    assert_eq!(restored.rotation(), Rotation::Idle);
    assert_eq!(restored.audit().newest_at(), NOW);
    let record = restored.audit().records().pop().unwrap();
    assert_eq!((record.action, record.actor), (Action::Restore, Actor::Provision));
    let empty = apply(Catalog::default(), &Command::Restore { new: hash("x") }, "test", NOW);
    assert_eq!(empty.unwrap_err(), CommandRejected::NotFound("_admin".into()));
}

#[test]
fn tokens_of_the_previous_secret_are_known() {
    let create = |credential: &str, name| Command::CreateNamed {
        credential: hash(credential),
        name,
        lifetime_seconds: None,
        permissions: None,
        new: hash(name),
    };
    let regenerate =
        |old, new| Command::Regenerate { credential: hash(old), new: hash(new), overlap_seconds: 3600 };
    let catalog = changed(&catalog(), &create("first", "before the replacement"), NOW);
    let catalog = changed(&catalog, &regenerate("first", "second"), NOW + 1);
    let catalog = changed(&catalog, &create("second", "by the new secret"), NOW + 2);
    let catalog = changed(&catalog, &create("first", "by the old secret"), NOW + 3);
    let catalog = changed(&catalog, &create("by the old secret", "by that token"), NOW + 4);
    let catalog = changed(&catalog, &create("before the replacement", "by an older token"), NOW + 5);
    let catalog = Catalog::decode(&catalog.encode()).unwrap();
    let names = |catalog: &Catalog| {
        catalog.made_with_previous_secret().map(|token| token.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&catalog), ["by the old secret", "by that token"]);
    let ended = changed(&catalog, &Command::EndOverlap { credential: hash("second") }, NOW + 6);
    assert_eq!(names(&ended), ["by the old secret", "by that token"]);
    // The next replacement concerns another secret.
    let replaced = changed(&ended, &regenerate("second", "third"), NOW + 7);
    assert!(names(&replaced).is_empty());
}

fn replace_by<'a>(current: &str, new: &str, overlap_seconds: u64) -> Command<'a> {
    Command::Replace { current: hash(current), new: hash(new), overlap_seconds }
}

#[test]
fn configuration_replaces_its_own_secret_alone() {
    let catalog = catalog();
    let unchanged = |command: &Command<'_>| match apply(catalog.clone(), command, "file", NOW).unwrap() {
        Transition::Unchanged(_, token) => token,
        Transition::Changed { .. } => panic!("changed by {command:?}"),
    };
    let operator = catalog.operator().cloned();
    // Another secret than the one that the configuration had before, and the current one.
    assert_eq!(unchanged(&replace_by("of a command", "new", 0)), operator);
    assert_eq!(unchanged(&replace_by("before", "first", 0)), operator);

    let (after, token) = change(&catalog, &replace_by("first", "new", 60), "file", NOW + 5).unwrap();
    assert_eq!((token.id, token.updated_at, token.updated_by), (0, Some(NOW + 5), Some(0)));
    assert_eq!(authenticated(&after, "new").unwrap().kind, TokenKind::Operator);
    assert_eq!(authenticated(&after, "first").unwrap().kind, TokenKind::PreviousOperator);
    let record = after.audit().records().pop().unwrap();
    assert_eq!((record.action, record.actor), (Action::Replace, Actor::Provision));
    assert_eq!(record.origin, "file");

    for (command, error) in [
        (replace_by("first", "ci", 0), CommandRejected::SecretTaken("ci".into())),
        (
            replace_by("first", "new", MAX_OVERLAP_SECONDS + 1),
            CommandRejected::TooLong { limit: MAX_OVERLAP_SECONDS },
        ),
    ] {
        assert_eq!(apply(catalog.clone(), &command, "file", NOW), Err(error));
    }
    let none = apply(Catalog::default(), &replace_by("first", "new", 0), "file", NOW);
    assert_eq!(none, Err(CommandRejected::NotFound("_admin".into())));
}

#[test]
fn former_operator_secret_does_not_come_back() {
    let regenerate =
        Command::Regenerate { credential: hash("second"), new: hash("third"), overlap_seconds: 3600 };
    let catalog = changed(&catalog(), &replace_by("first", "second", 0), NOW);
    let catalog = changed(&catalog, &regenerate, NOW);
    let catalog = changed(&catalog, &Command::Recover { new: hash("fourth") }, NOW);
    let catalog =
        Catalog::decode(&changed(&catalog, &replace_by("fourth", "fifth", 0), NOW).encode()).unwrap();
    for former in ["first", "second", "third", "fourth"] {
        let import = Command::Import {
            name: "other",
            expiry: None,
            permissions: None,
            description: None,
            new: hash(former),
        };
        for command in [replace_by("fifth", former, 0), import] {
            let result = apply(catalog.clone(), &command, "file", NOW).unwrap();
            assert_eq!(result, Transition::Unchanged(catalog.clone(), None), "{former}: {command:?}");
        }
        let stage = Command::Stage { credential: hash("fifth"), new: hash(former), ttl_seconds: 60 };
        assert_eq!(apply(catalog.clone(), &stage, "test", NOW), Err(CommandRejected::SecretRevoked));
    }
}

#[test]
fn configuration_replaces_nothing_if_a_former_secret_may_be_unknown() {
    let catalog = changed(&catalog(), &Command::Recover { new: hash("second") }, NOW);
    let document = catalog.encode();
    let begin = document.find(",\"former\":").unwrap();
    let end = begin + document[begin..].find(",\"audit\"").unwrap_or(document[begin..].find("}\n").unwrap());
    let older = Catalog::decode(&format!("{}{}", &document[..begin], &document[end..])).unwrap();
    let older = Catalog::decode(&older.encode()).unwrap();
    let result = apply(older.clone(), &replace_by("second", "third", 0), "file", NOW);
    assert_eq!(result, Err(CommandRejected::FormerUnknown));
    // Commands go on, and their secrets are known.
    let after = changed(&older, &Command::Recover { new: hash("third") }, NOW);
    assert!(after.is_revoked(&hash("second")));
    assert!(!after.former_secrets().is_complete());
}
