use optoken_core::authority::Authority;
use optoken_core::ports::StoreError;
use optoken_core::testing::MemoryPorts;
use optoken_core::token::TokenHash;

use super::*;
use crate::execute::execute;
use crate::{args, text};

/// Ports with a clock that starts at the epoch and advances by a second at each call.
fn ticking() -> MemoryPorts {
    MemoryPorts { tick: 1000, ..MemoryPorts::default() }
}

/// Runs command lines on one store, each with an authority of its own.
struct Runs(MemoryPorts);

impl Runs {
    fn outcome(&mut self, line: &str, token: &str) -> Result<Output, execute::Error> {
        let invocation = args::parse(line.split_whitespace().map(String::from)).unwrap();
        let mut authority = Authority::new(&mut self.0);
        let outcome = execute(&mut authority, &invocation.command, token, &invocation.origin);
        outcome.map(Option::unwrap)
    }

    fn line(&mut self, line: &str, token: &str) -> String {
        super::line(&self.outcome(line, token)).unwrap().to_string()
    }
}

/// The secret that is minted from this random byte, repeated.
fn secret(random: u8) -> String {
    let mut ports = MemoryPorts { random: random - 1, ..MemoryPorts::default() };
    Secret::mint(&mut ports).unwrap().expose().to_owned()
}

fn hash(secret: &str) -> String {
    TokenHash::of(secret).to_string()
}

fn info(secret: &str, rest: &str) -> String {
    let (before, after) = rest.split_once(" / ").unwrap();
    format!(r#"{{{before},"sha512":"{}",{after},"permissions":null,"description":null}}"#, hash(secret))
}

#[test]
fn outputs_have_the_names_of_the_contract() {
    let mut runs = Runs(ticking());
    let (one, two, three, four) = (secret(1), secret(2), secret(3), secret(4));
    let created = r#""id":0,"name":"_admin" / "created-at":1000,"updated-at":null,"updated-by":null,"expiry":null,"source":"command""#;
    let named = r#""id":1,"name":"ci" / "created-at":4000,"updated-at":null,"updated-by":null,"expiry":64000,"source":"command""#;
    let again = r#""id":0,"name":"_admin" / "created-at":1000,"updated-at":2000,"updated-by":0,"expiry":null,"source":"command""#;
    let x = "a".repeat(128);
    let imported = format!(
        r#"{{"id":2,"name":"x","sha512":"{x}","created-at":6000,"updated-at":null,"updated-by":null,"expiry":9,"source":"imported","permissions":null,"description":null}}"#
    );
    assert_eq!(runs.line("status", ""), r#"{"ok":null}"#);
    assert_eq!(runs.line("list", ""), r#"{"ok":[]}"#);
    assert_eq!(runs.line("audit", ""), r#"{"ok":{"lines":[],"retained":null}}"#);
    assert_eq!(runs.line("state", ""), r#"{"ok":null}"#);
    assert_eq!(runs.line("check", ""), r#"{"ok":null}"#);
    let issued =
        |token: &str, rest| format!(r#"{{"ok":{{"info":{},"secret":"{token}"}}}}"#, info(token, rest));
    assert_eq!(runs.line("create", ""), issued(&one, created));
    assert_eq!(runs.line("authenticate", &one), r#"{"ok":{"id":0,"kind":"operator"}}"#);
    assert_eq!(runs.line("regenerate --overlap 60", &one), issued(&two, again));
    assert_eq!(runs.line("authenticate", &one), r#"{"ok":{"id":0,"kind":"previous-operator"}}"#);
    assert_eq!(runs.line("create --name ci --lifetime 60", &two), issued(&three, named));
    assert_eq!(runs.line("authenticate", &three), r#"{"ok":{"id":1,"kind":"named-admin"}}"#);
    let line = format!("import --name x --sha512 {x} --expiry 9");
    assert_eq!(runs.line(&line, ""), format!(r#"{{"ok":{{"created":{imported}}}}}"#));
    assert_eq!(runs.line(&line, ""), format!(r#"{{"ok":{{"unchanged":{imported}}}}}"#));
    let line = format!("import --name x --sha512 {}", x.replace('a', "b"));
    assert_eq!(runs.line(&line, ""), format!(r#"{{"ok":{{"different":{imported}}}}}"#));
    assert_eq!(
        runs.line("status", ""),
        format!(
            r#"{{"ok":{{"info":{},"rotation":{{"overlapping":{{"sha512":"{}","expires-at":62000}}}}}}}}"#,
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
    let staged = format!(r#"{{"staged":{{"sha512":"{}","expires-at":{}}}}}"#, hash(&four), (now + 51) * 1000);
    assert!(runs.line("status", "").ends_with(&format!(r#""rotation":{staged}}}}}"#)));
    assert!(runs.line("confirm", &four).starts_with(r#"{"ok":{"id":0,"name":"_admin","sha512":"#));
    let line = format!("stage --sha512 {}", x.replace('a', "c"));
    assert!(runs.line(&line, &four).starts_with(r#"{"ok":{"secret":null,"sha512":"ccc"#));
    assert_eq!(runs.line("cancel", &four), r#"{"ok":null}"#);
    assert!(runs.line("status", "").ends_with(r#""rotation":"idle"}}"#));
    assert_eq!(runs.line("delete ci", &four), format!(r#"{{"ok":{}}}"#, info(&three, named)));
    assert_eq!(runs.line("list", "").matches("\"sha512\"").count(), 2);
    assert!(runs.line("audit", "").starts_with(r#"{"ok":{"lines":["{\"sequence\":1,"#));
    assert!(runs.line("audit --after 3", "").starts_with(r#"{"ok":{"lines":["{\"sequence\":4,"#));
    assert!(
        runs.line("audit --after 99", "")
            .starts_with(r#"{"ok":{"lines":[],"retained":{"oldest":1,"newest":"#)
    );
    assert!(runs.line("state", "").starts_with(r#"{"ok":{"version":""#));
    let described = runs.line("describe", &four);
    assert!(described.starts_with(r#"{"ok":{"id":0,"name":"_admin","sha512":"#), "{described}");
    assert!(runs.line("recover", "").starts_with(r#"{"ok":{"info":{"id":0,"#));
    assert!(runs.line("audit", "").contains(r#"\"action\":\"recover\""#));
    let restored = runs.line("recover --reason restore", "");
    assert!(restored.starts_with(r#"{"ok":{"info":{"id":0,"#), "{restored}");
    assert!(runs.line("audit", "").contains(r#"\"action\":\"restore\""#));
    let name = runs.line("initialize", "");
    assert_eq!((name.len(), &name[..7]), (8 + 36 + 1, r#"{"ok":""#));
    let state = runs.line("state", "");
    assert!(state.contains(&format!(r#""catalog-id":{},"#, &name[6..name.len() - 1])), "{state}");
}

#[test]
fn deleted_import_and_its_source_are_printed() {
    let mut runs = Runs(ticking());
    runs.line("create", "");
    let import = format!("import --name x --sha512 {}", "a".repeat(128));
    runs.line(&import, "");
    assert!(text::output(&runs.outcome("list", "").unwrap()).contains("imported"));
    runs.line("delete x", &secret(1));
    assert_eq!(runs.line(&import, ""), r#"{"ok":"revoked"}"#);
    let printed = text::output(&runs.outcome(&import, "").unwrap());
    assert!(printed.contains("It is not accepted."), "{}", *printed);

    // The operator token, by a configuration.
    let replace = |current: &str, new: &str| format!("replace --current {current} --sha512 {new}");
    let [b, c, d] = ["b", "c", "d"].map(|digit| digit.repeat(128));
    assert_eq!(runs.line(&replace(&hash(&secret(1)), &b), ""), r#"{"ok":"replaced"}"#);
    assert_eq!(runs.line(&replace(&c, &d), ""), r#"{"ok":"different"}"#);
    let outcome = runs.outcome(&replace(&b, &d), "").unwrap();
    assert!(text::output(&outcome).contains("The operator token was replaced."));
    assert_eq!(runs.line(&replace(&d, &b), ""), r#"{"ok":"revoked"}"#);
}

#[test]
fn end_of_overlap_names_tokens_of_previous_secret() {
    let mut runs = Runs(ticking());
    let (one, two) = (secret(1), secret(2));
    runs.line("create", "");
    runs.line("regenerate --overlap 60", &one);
    runs.line("create --name by-current", &two);
    runs.line("create --name by-previous", &one);
    assert!(runs.line("list", "").contains(r#""source":"previous-secret""#));
    let printed = text::output(&runs.outcome("end-overlap", &two).unwrap());
    assert!(printed.contains("by-previous") && printed.contains("optoken-cli delete NAME"), "{}", *printed);
    assert!(!printed.contains("by-current"), "{}", *printed);
    assert_eq!(runs.line("end-overlap", &two), r#"{"ok":null}"#);
}

#[test]
fn errors_have_contract_names_and_a_next_step() {
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
        ("import --name weak", "apiv3_aaaa", r#"{"err":{"invalid-argument":"the token is too weak"#),
        ("stage --sha512 x", &operator, r#"{"err":{"invalid-argument":"#),
    ] {
        assert!(runs.line(line, token).starts_with(expected), "{line}: {}", runs.line(line, token));
    }
    let failure = |runs: &mut Runs, line: &str, token| {
        let command = args::parse(line.split_whitespace().map(String::from)).unwrap().command;
        text::failure(&runs.outcome(line, token).unwrap_err(), &command, "/data")
    };
    assert!(failure(&mut runs, "authenticate", "x").contains("optoken-cli recover"));
    assert!(failure(&mut runs, "create", "").contains("optoken-cli regenerate"));
    assert!(failure(&mut runs, "regenerate", &named).contains("Present the operator token itself"));

    runs.outcome("regenerate --overlap 60", &operator).unwrap();
    let current = runs.0.random;
    let operator = secret(current);
    assert!(runs.line("stage", &operator).starts_with(r#"{"err":{"conflict":"the token that was replaced"#));
    assert!(failure(&mut runs, "stage", &operator).contains("optoken-cli end-overlap"));
    runs.0.entropy_exhausted = true;
    assert_eq!(runs.line("recover", ""), r#"{"err":{"no-entropy":"no randomness: exhausted"}}"#);
    runs.0.entropy_exhausted = false;
    runs.0.random = current - 1;
    assert!(runs.line("recover", "").starts_with(r#"{"err":{"no-entropy":"the new secret is not new"#));
    runs.0.store_error = Some(StoreError::Unavailable("no disk".into()));
    assert_eq!(runs.line("recover", ""), r#"{"err":{"unavailable":"no disk"}}"#);
    assert_eq!(runs.line("authenticate", &operator), r#"{"err":"unavailable"}"#);
    assert!(failure(&mut runs, "authenticate", &operator).contains("no disk\nNothing was changed."));
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
        assert!(failure(&mut runs, line, &operator).contains(next), "{line}");
    }
    runs.0.store_error = None;
    runs.0.stored.as_mut().unwrap().document = "damaged".into();
    assert!(runs.line("check", "").starts_with(r#"{"err":{"unreadable-catalog":"#));
    assert!(failure(&mut runs, "check", "").contains("the newest file in /data/catalog back from a backup"));
}

#[test]
fn issued_token_and_list_are_printed_for_people() {
    let mut runs = Runs(ticking());
    let token = secret(1);
    let issued = text::output(&runs.outcome("create", "").unwrap());
    assert_eq!(
        issued.as_str(),
        format!(
            "\nNew token created successfully!\n\nToken: {token}\nHTTP Requests Header: Authorization: Bearer {token}\n\n\
             IMPORTANT: Store this token securely, as it will not be shown again.\n\n"
        )
    );
    let list = text::output(&runs.outcome("list", "").unwrap());
    assert_eq!(
        list.as_str(),
        format!(
            "ID  NAME    SOURCE   CREATED               UPDATED  EXPIRY  SHA512{}  PERMISSIONS\n\
             0   _admin  command  1970-01-01T00:00:01Z  never    never   {}  all\n",
            " ".repeat(122),
            hash(&token)
        )
    );
}

#[test]
fn permissions_and_description_are_printed() {
    let mut runs = Runs(ticking());
    let (operator, scoped) = (secret(1), secret(2));
    runs.line("create", "");
    let create = "create --name ci --permission db:b,a:write,read --permission system:health:read";
    let issued = runs.line(create, &operator);
    let permissions = r#""permissions":["db:b,a:read,write","system:health:read"],"description":null}"#;
    assert!(issued.contains(permissions), "{issued}");
    assert!(runs.line("describe", &scoped).contains(permissions));
    assert_eq!(runs.line("authenticate", &scoped), r#"{"ok":{"id":1,"kind":"scoped"}}"#);
    let import =
        format!("import --name x --permission http:/*:* --description press --sha512 {}", "a".repeat(128));
    let imported = runs.line(&import, "");
    assert!(
        imported.contains(r#""permissions":["http:/*:read,write"],"description":"press"}"#),
        "{imported}"
    );
    let all = runs.line("create --name admin --permission *:*:*", &operator);
    assert!(all.contains(r#""permissions":null"#), "{all}");

    let described = text::output(&runs.outcome("describe", &scoped).unwrap());
    let lines = "permissions: db:b,a:read,write system:health:read\ndescription: none\n";
    assert!(described.ends_with(lines), "{}", *described);
    let described = text::output(&runs.outcome("describe", &operator).unwrap());
    assert!(described.ends_with("permissions: all\ndescription: none\n"), "{}", *described);
    let again = text::output(&runs.outcome(&import, "").unwrap());
    assert!(again.ends_with("permissions: http:/*:read,write\ndescription: press\n"), "{}", *again);
    let list = text::output(&runs.outcome("list", "").unwrap());
    assert!(list.contains("  db:b,a:read,write system:health:read\n"), "{}", *list);
    let principal = text::output(&runs.outcome("authenticate", &scoped).unwrap());
    assert_eq!(principal.as_str(), "This is a token with permissions of its own, number 1.\n");
}

#[test]
fn authorize_prints_the_token_or_the_refusal() {
    let mut runs = Runs(ticking());
    let (operator, scoped, expired) = (secret(1), secret(2), secret(3));
    runs.line("create", "");
    runs.line("create --name ci --permission db:a:read --permission http:h/o/*:GET", &operator);
    runs.line("create --name old --permission db:*:* --lifetime 0", &operator);
    let authorize = "authorize --method GET --host h --path";
    for (request, allowed) in [
        ("/o/7 --target http", true),
        ("/o/7 --target http --query a=b", true),
        ("/p --target http", false),
        ("/o/../p --target http", false),
        ("/query --target db:a:read", true),
        ("/o/7 --target db:a:write", false),
        ("/query --target db:b:read", false),
        ("/o/7 --target system:health", false),
        ("/o/7 --target administration", false),
    ] {
        let line = format!("{authorize} {request}");
        let expected = if allowed { r#"{"ok":{"id":1,"kind":"scoped"}}"# } else { r#"{"err":"forbidden"}"# };
        assert_eq!(runs.line(&line, &scoped), expected, "{request}");
        assert_eq!(runs.line(&line, &operator), r#"{"ok":{"id":0,"kind":"operator"}}"#, "{request}");
        assert_eq!(runs.line(&line, &expired), r#"{"err":{"expired":3000}}"#, "{request}");
        assert_eq!(runs.line(&line, "x"), r#"{"err":"unknown-token"}"#, "{request}");
    }
    let allowed = format!("{authorize} /o/7 --target http");
    let printed = text::output(&runs.outcome(&allowed, &scoped).unwrap());
    assert!(printed.starts_with("The token may do this. This is a token with permissions"), "{}", *printed);
    let failure = |runs: &mut Runs, line: &str, token| {
        let command = args::parse(line.split_whitespace().map(String::from)).unwrap().command;
        text::failure(&runs.outcome(line, token).unwrap_err(), &command, "/data")
    };
    let refused = format!("{authorize} /p --target http");
    assert_eq!(
        failure(&mut runs, &refused, &scoped),
        "Error: the token lacks the permission for this\nPrint its permissions with: optoken-cli describe\n"
    );
    assert!(failure(&mut runs, &refused, "x").contains("Present an accepted token"));
    assert!(failure(&mut runs, "create --name x", &scoped).contains("a token with all permissions"));
    assert!(failure(&mut runs, "delete ci", &scoped).contains("a token with all permissions"));
    runs.0.store_error = Some(StoreError::Unavailable("no disk".into()));
    assert_eq!(runs.line(&allowed, &scoped), r#"{"err":"unavailable"}"#);
    assert!(failure(&mut runs, &allowed, &scoped).contains("no disk\nNothing was changed."));
}
