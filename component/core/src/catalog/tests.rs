use super::*;
use crate::audit::{Action, Actor, Subject};

fn record(id: u64, name: &str) -> TokenRecord {
    TokenRecord {
        id,
        name: name.into(),
        hash: TokenHash::of(&format!("secret of {name}")),
        created_at: 1_700_000_000_000,
        updated_at: None,
        updated_by: None,
        expiry: None,
        source: Source::Command,
        permissions: None,
        description: None,
    }
}

fn catalog() -> Catalog {
    let chain = AuditChain::default().with(1, Action::CreateOperator, Actor::Bootstrap, None, "test");
    let catalog = Catalog::default().with_new(record(0, OPERATOR), chain.clone()).unwrap();
    catalog.with_new(record(1, "ci"), chain).unwrap()
}

#[test]
fn catalog_decodes_as_encoded() {
    let catalog = catalog();
    let document = catalog.encode();
    let again = Catalog::decode(&document).unwrap();
    assert_eq!(again, catalog);
    assert_eq!(again.encode(), document);
    assert_eq!(again.find(&TokenHash::of("secret of ci")), Some(SecretMatch::Current(&again.tokens()[1])));
    assert_eq!(again.find(&TokenHash::of("secret of no token")), None);
}

#[test]
fn rotation_decodes_as_encoded_and_requires_an_operator() {
    let expiring = |text| ExpiringHash { hash: TokenHash::of(text), expires_at: 1_800_000_000_000 };
    for rotation in [Rotation::Staged(expiring("x")), Rotation::Overlap(expiring("x"))] {
        let catalog = catalog().with_rotation(rotation, AuditChain::default()).unwrap();
        let document = catalog.encode();
        let again = Catalog::decode(&document).unwrap();
        assert_eq!((again.rotation(), again.encode()), (rotation, document.clone()));
        let bad = document.replace("_admin", "_other");
        assert_ne!(bad, document);
        assert!(Catalog::decode(&bad).is_err());
    }
    let in_use = Rotation::Staged(expiring("secret of ci"));
    assert!(catalog().with_rotation(in_use, AuditChain::default()).is_err());
}

#[test]
fn stored_form_is_fixed() {
    // A change of this text is a change of the format: raise FORMAT and keep reading the old
    // one.
    let hash = TokenHash::of("secret of _admin");
    let chain = AuditChain::default().with(5, Action::Initialize, Actor::Provision, None, "here");
    let subject = Subject { id: 0, name: OPERATOR.into(), permissions: None };
    let chain = chain.with(6, Action::CreateOperator, Actor::Bootstrap, Some(subject), "here");
    let catalog =
        Catalog::default().with_id("a name", chain.clone()).with_new(record(0, OPERATOR), chain).unwrap();
    let [first, second] = catalog.audit().lines() else { panic!("not two records") };
    let head = catalog.audit().head().unwrap().as_str();
    assert_eq!(
        catalog.encode(),
        format!(
            r#"{{"format":3}}
{{"next_id":1,"tokens":1,"id":"a name","audit":"{head}"}}
{{"id":0,"name":"_admin","hash":"{hash}","created_at":1700000000000}}
{first}
{second}
"#
        )
    );
}

#[test]
fn format_1_is_read_and_written_as_the_newest() {
    let old = catalog().encode().replace("{\"format\":3}", "{\"format\":1}");
    let read = Catalog::decode(&old).unwrap();
    assert_eq!(read.operator().unwrap().hash, TokenHash::of("secret of _admin"));
    // That format does not record which tokens were imported, so all of them may be.
    assert!(read.tokens().iter().all(|token| token.source == Source::Import));
    let new = read.encode();
    assert!(new.starts_with("{\"format\":3}\n"), "{new}");
    assert_eq!(Catalog::decode(&new).unwrap(), read);
}

#[test]
fn format_2_is_read_and_written_as_the_newest() {
    let old = catalog().encode().replace("{\"format\":3}", "{\"format\":2}");
    let read = Catalog::decode(&old).unwrap();
    assert_eq!(read, catalog());
    assert!(read.encode().starts_with("{\"format\":3}\n"));
}

#[test]
fn newer_format_is_rejected() {
    for newer in ["{\"format\":4}", "{\"format\":4}\n", "{\"format\":4}\nanything"] {
        assert_eq!(Catalog::decode(newer).unwrap_err(), CatalogError::UnknownFormat { found: 4 }, "{newer}");
    }
}

#[test]
fn damaged_documents_are_rejected() {
    let good = catalog().encode();
    let hash = |name: &str| TokenHash::of(&format!("secret of {name}")).to_string();
    for (case, bad) in [
        ("empty", String::new()),
        ("no JSON", "SQLite format 3".into()),
        ("cut off", good[..good.len() - 1].into()),
        ("two at once", format!("{good}{good}")),
        ("no format", good.replace("\"format\":3", "")),
        ("unknown field", good.replace("\"created_at\"", "\"created_by\"")),
        ("one field more", good.replace("00}\n", "00,\"expirry\":5}\n")),
        ("white space", good.replace("\"created_at\":", "\"created_at\": ")),
        ("a line too few", good.replace("\"tokens\":2", "\"tokens\":1")),
        ("a line too many", good.replace("\"tokens\":2", "\"tokens\":3")),
        ("more lines than there are", good.replace("\"tokens\":2", "\"tokens\":18446744073709551615")),
        ("an empty line", good.replace("}\n{", "}\n\n{")),
        ("another line end", good.replace('\n', "\r\n")),
        ("no history", good.split_inclusive('\n').take(4).collect()),
        ("number repeats", good.replace("\"id\":1,", "\"id\":0,")),
        ("number ahead", good.replace("\"next_id\":2", "\"next_id\":1")),
        ("name repeats", good.replace("\"name\":\"ci\"", "\"name\":\"_admin\"")),
        ("hash repeats", good.replace(&hash("ci"), &hash(OPERATOR))),
        ("hash too short", good.replace(&hash("ci"), &hash("ci")[2..])),
        ("history altered", good.replace("\"origin\":\"test\"", "\"origin\":\"rest\"")),
    ] {
        assert_ne!(bad, good, "{case} is not a case");
        assert!(Catalog::decode(&bad).is_err(), "{case}");
    }
}

#[test]
fn error_of_a_damaged_document_quotes_nothing() {
    let hash = TokenHash::of("secret of ci").to_string();
    let bad = catalog().encode().replace(&hash, "apiv3_secret");
    let error = Catalog::decode(&bad).unwrap_err();
    assert_eq!(error, CatalogError::Malformed);
    assert!(!error.to_string().contains("apiv3_"), "{error}");
}

/// Asserts that a catalog finds what a catalog finds that was read from its document.
#[track_caller]
fn assert_index(catalog: &Catalog, hashes: &[TokenHash]) {
    let again = Catalog::decode(&catalog.encode()).unwrap();
    assert_eq!(&again, catalog);
    for hash in hashes {
        assert_eq!(catalog.find(hash), again.find(hash));
    }
}

#[test]
fn index_follows_every_change() {
    let chain = AuditChain::default;
    let expiring = |hash| ExpiringHash { hash, expires_at: 1_800_000_000_000 };
    let mut catalog = Catalog::default().with_new(record(0, OPERATOR), chain()).unwrap();
    for id in 1..10 {
        catalog = catalog.with_new(record(id, &format!("token {id}")), chain()).unwrap();
    }
    let new = |number: u32| TokenHash::of(&format!("new {number}"));
    let mut hashes: Vec<_> = catalog.tokens().iter().map(|token| token.hash).collect();
    hashes.extend((0..4).map(new));
    assert_index(&catalog, &hashes);

    let operator = |hash| TokenRecord { hash, ..record(0, OPERATOR) };
    let old = catalog.operator().unwrap().hash;
    catalog = catalog.with_changed(&operator(new(0)), Rotation::Overlap(expiring(old)), chain()).unwrap();
    assert_index(&catalog, &hashes);
    catalog = catalog.without(&record(4, "token 4"), chain()).unwrap();
    assert_index(&catalog, &hashes);
    assert_eq!(catalog.find(&old), Some(SecretMatch::Previous(&expiring(old))));
    catalog = catalog.with_rotation(Rotation::Staged(expiring(new(1))), chain()).unwrap();
    assert_index(&catalog, &hashes);
    // The staged secret becomes the current one.
    catalog = catalog.with_changed(&operator(new(1)), Rotation::Overlap(expiring(new(0))), chain()).unwrap();
    assert_index(&catalog, &hashes);
    catalog = catalog.with_changed(&operator(new(2)), Rotation::Idle, chain()).unwrap();
    assert_index(&catalog, &hashes);
    catalog = catalog.without(&record(9, "token 9"), chain()).unwrap();
    catalog = catalog.with_new(record(10, "token 9"), chain()).unwrap();
    assert_index(&catalog, &hashes);

    // No change makes a state that cannot be read.
    let in_use = TokenHash::of("secret of token 1");
    assert!(catalog.clone().with_changed(&operator(in_use), Rotation::Idle, chain()).is_err());
    assert!(catalog.clone().with_rotation(Rotation::Staged(expiring(in_use)), chain()).is_err());
    assert!(catalog.clone().with_rotation(Rotation::Staged(expiring(new(2))), chain()).is_err());
    assert!(catalog.clone().with_changed(&record(2, "token 1"), Rotation::Idle, chain()).is_err());
    assert!(catalog.clone().with_changed(&record(4, "token 4"), Rotation::Idle, chain()).is_err());
    assert!(catalog.clone().without(&record(4, "token 4"), chain()).is_err());
    assert!(catalog.with_new(record(11, "token 1"), chain()).is_err());
}
