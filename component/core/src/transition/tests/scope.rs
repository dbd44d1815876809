//! Tokens with permissions.

use super::*;
use crate::access::{Access, DatabaseAction, Target};
use crate::catalog::MAX_TOKENS;

const READ_A: Access<'static> = Access {
    method: "POST",
    host: "",
    path: "/api/v3/query_sql",
    target: Target::Database("a", DatabaseAction::Read),
};

fn permissions(texts: &[&str]) -> Permissions {
    Permissions::parse(texts.iter().copied()).unwrap().unwrap()
}

fn create<'a>(credential: &str, name: &'a str, permissions: &'a Permissions) -> Command<'a> {
    let permissions = Some(permissions);
    Command::CreateNamed {
        credential: hash(credential),
        name,
        lifetime_seconds: Some(60),
        permissions,
        new: hash(name),
    }
}

/// The catalog with a token named "reader" whose secret is its name.
fn with_reader() -> Catalog {
    change(&catalog(), &create("ci", "reader", &permissions(&["db:a:read"])), "test", NOW).unwrap().0
}

#[test]
fn scoped_token_may_do_what_its_permissions_cover() {
    let catalog = with_reader();
    let scoped = Principal { id: 2, kind: TokenKind::Scoped };
    assert_eq!(authenticated(&catalog, "reader"), Ok(scoped));
    let authorized =
        |credential, access: &Access<'_>, now| authorize(&catalog, &hash(credential), access, || now);
    assert_eq!(authorized("reader", &READ_A, NOW), Ok(scoped));
    for target in [
        Target::Database("a", DatabaseAction::Write),
        Target::Database("b", DatabaseAction::Read),
        Target::System("health"),
        Target::Http,
        Target::Administration,
    ] {
        let access = Access { target, ..READ_A };
        assert_eq!(authorized("reader", &access, NOW), Err(AccessError::Forbidden), "{target:?}");
        for admin in ["first", "ci"] {
            assert!(authorized(admin, &access, NOW).is_ok(), "{admin} {target:?}");
        }
        assert_eq!(authorized("unknown", &access, NOW), Err(AuthError::Unknown.into()));
        let at = NOW + 60_000;
        assert_eq!(authorized("reader", &access, at), Err(AuthError::Expired { at }.into()));
    }
}

#[test]
fn scoped_token_has_no_command() {
    let catalog = with_reader();
    let credential = hash("reader");
    for command in [
        create("reader", "other", &permissions(&["db:a:read"])),
        create_named("reader", "other", None),
        Command::Delete { credential, name: "reader" },
        Command::Delete { credential, name: "_admin" },
        Command::Delete { credential, name: "absent" },
        Command::Regenerate { credential, new: hash("new"), overlap_seconds: 0 },
        Command::Stage { credential, new: hash("new"), ttl_seconds: 60 },
        Command::Confirm { credential, overlap_seconds: 0 },
        Command::Cancel { credential },
        Command::EndOverlap { credential },
    ] {
        let result = apply(catalog.clone(), &command, "test", NOW);
        assert_eq!(result.unwrap_err(), CommandRejected::Forbidden, "{command:?}");
    }
}

#[test]
fn previous_operator_secret_creates_marked_scoped_tokens() {
    let regenerate =
        Command::Regenerate { credential: hash("first"), new: hash("second"), overlap_seconds: 60 };
    let (overlapping, _) = change(&catalog(), &regenerate, "test", NOW).unwrap();
    let (_, token) =
        change(&overlapping, &create("first", "reader", &permissions(&["db:a:read"])), "test", NOW).unwrap();
    assert_eq!(token.source, Source::PreviousSecret);
}

#[test]
fn permissions_and_description_are_stored_and_recorded() {
    let own = permissions(&["db:a:write,read", "http:/x*:GET"]);
    let import = Command::Import {
        name: "sensor",
        expiry: None,
        permissions: Some(&own),
        description: Some("of \"hall\" 3"),
        new: hash("sensor"),
    };
    let (catalog, token) = change(&catalog(), &import, "test", NOW).unwrap();
    assert_eq!(token.permissions.as_ref(), Some(&own));
    assert_eq!(token.description.as_deref(), Some("of \"hall\" 3"));
    let document = catalog.encode();
    let stored = r#","source":"import","permissions":["db:a:read,write","http:/x*:GET"],"description":"of \"hall\" 3"}"#;
    assert!(document.contains(stored), "{document}");
    assert_eq!(Catalog::decode(&document).unwrap(), catalog);
    let record = catalog.audit().lines().last().unwrap();
    let subject = r#""subject":{"id":2,"name":"sensor","permissions":["db:a:read,write","http:/x*:GET"]}"#;
    assert!(record.contains(subject), "{record}");
    assert_eq!(catalog.audit().records().last().unwrap().subject.as_ref().unwrap().permissions, Some(own));

    for (good, bad) in [
        ("db:a:read,write", "db:a:write,read"),
        ("db:a:read,write", "db:a:*"),
        ("db:a:read,write", "db:a:red"),
        ("[\"db:a:read,write\",\"http:/x*:GET\"]", "[]"),
        ("[\"db:a:read,write\",\"http:/x*:GET\"]", "[\"*:*:*\"]"),
    ] {
        let damaged = document.replacen(good, bad, 1);
        assert_ne!(damaged, document);
        assert_eq!(Catalog::decode(&damaged).unwrap_err(), CatalogError::Malformed, "{bad}");
    }
}

#[test]
fn operator_has_all_permissions() {
    let own = permissions(&["db:a:read"]);
    let import = Command::Import {
        name: OPERATOR,
        expiry: None,
        permissions: Some(&own),
        description: None,
        new: hash("operator"),
    };
    let result = apply(Catalog::default(), &import, "test", NOW);
    assert_eq!(result.unwrap_err(), CommandRejected::OperatorScope);
    let orphan = Catalog::of(8, catalog().tokens()[1..].to_vec(), AuditChain::default()).unwrap();
    let result = apply(orphan, &create("ci", OPERATOR, &own), "test", NOW);
    assert_eq!(result.unwrap_err(), CommandRejected::OperatorScope);
}

#[test]
fn description_is_visible_and_short() {
    fn import(description: &str) -> Result<(), CommandRejected> {
        let command = Command::Import {
            name: "sensor",
            expiry: None,
            permissions: None,
            description: Some(description),
            new: hash("sensor"),
        };
        apply(catalog(), &command, "test", NOW).map(drop)
    }

    assert_eq!(import(&"é".repeat(MAX_DESCRIPTION_BYTES / 2)), Ok(()));
    for bad in ["", "a\nb", "a\u{202e}b", "apiv3_x", &"x".repeat(MAX_DESCRIPTION_BYTES + 1)] {
        assert_eq!(import(bad).unwrap_err(), CommandRejected::Description, "{bad:?}");
    }
}

#[test]
fn full_catalog_with_the_largest_scopes_can_be_read_and_changed() {
    // Names, quotes in them and permissions are as long as they can be.
    let own = permissions(&[&format!("db:{}:read,write,create", "a".repeat(80))]);
    let mut tokens = catalog().tokens().to_vec();
    tokens[0].updated_at = Some(MAX_EXPIRY);
    tokens[0].updated_by = Some(0);
    let mut bytes = 0;
    for id in 2..MAX_TOKENS as u64 {
        let name = format!("{id:\"<128}");
        let mut token = TokenRecord { id, hash: hash(&name), name, ..tokens[1].clone() };
        (token.created_at, token.expiry, token.source) =
            (MAX_EXPIRY, Some(MAX_EXPIRY), Source::PreviousSecret);
        token.permissions = Some(own.clone());
        if bytes + token.scope_bytes() > MAX_SCOPE_BYTES {
            token.permissions = None;
        }
        bytes += token.scope_bytes();
        tokens.push(token);
    }
    let full = Catalog::of(MAX_TOKENS as u64, tokens, catalog().audit().clone()).unwrap();
    assert!(full.scope_bytes() > MAX_SCOPE_BYTES - 200);
    let document = full.encode();
    // Room for header and audit records: tombstones, former secrets, and the longest origins.
    let rest = 300 << 10;
    assert!(document.len() + rest < crate::catalog::MAX_DOCUMENT_BYTES, "{}", document.len());
    assert!(Catalog::decode(&document).unwrap().tokens() == full.tokens());

    // With one token less than the limit, permissions have no room, and other commands go on.
    let (less, _) =
        change(&full, &Command::Delete { credential: hash("first"), name: "ci" }, "test", NOW).unwrap();
    let result = apply(less.clone(), &create("first", "one more", &own), "test", NOW);
    assert_eq!(result.unwrap_err(), CommandRejected::ScopesFull);
    assert!(apply(less, &create_named("first", "one more", None), "test", NOW).is_ok());
}
