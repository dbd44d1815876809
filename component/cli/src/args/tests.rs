use super::*;

fn parsed(line: &str) -> Result<Invocation, UsageError> {
    parse(line.split_whitespace().map(str::to_owned))
}

fn command(line: &str) -> Result<Command, UsageError> {
    parsed(line).map(|invocation| invocation.command)
}

#[test]
fn commands_parse_with_their_options() {
    let name = || "ci".to_owned();
    let hash = || Some("ab".to_owned());
    let create = |name: &str, lifetime_seconds| Command::CreateNamed {
        name: name.into(),
        permissions: None,
        lifetime_seconds,
    };
    let import = |expiry, sha512| Command::Import {
        name: name(),
        permissions: None,
        description: None,
        expiry,
        sha512,
    };
    for (line, expected) in [
        ("create", Command::CreateOperator),
        ("create --name ci", create("ci", None)),
        ("create --lifetime 60 --name ci", create("ci", Some(60))),
        ("create --name=ci --lifetime=0", create("ci", Some(0))),
        ("create --name --json", create("--json", None)),
        ("create --name=", create("", None)),
        ("create --name=a=b", create("a=b", None)),
        ("regenerate", Command::Regenerate { overlap_seconds: None }),
        ("regenerate --overlap 60", Command::Regenerate { overlap_seconds: Some(60) }),
        ("stage", Command::Stage { sha512: None, ttl_seconds: None }),
        ("stage --sha512 ab --ttl 5", Command::Stage { sha512: hash(), ttl_seconds: Some(5) }),
        ("confirm", Command::Confirm { overlap_seconds: None }),
        ("confirm --overlap 18446744073709551615", Command::Confirm { overlap_seconds: Some(u64::MAX) }),
        ("cancel", Command::Cancel),
        ("end-overlap", Command::EndOverlap),
        ("authenticate", Command::Authenticate),
        ("describe", Command::Describe),
        ("delete ci", Command::Delete { name: name() }),
        ("delete -- --ci", Command::Delete { name: "--ci".into() }),
        ("status", Command::Status),
        ("list", Command::List),
        ("audit", Command::Audit { after: None }),
        ("audit --after 7", Command::Audit { after: Some(7) }),
        ("state", Command::State),
        ("recover", Command::Recover { restore: false }),
        ("recover --reason lost-secret", Command::Recover { restore: false }),
        ("recover --reason=restore", Command::Recover { restore: true }),
        ("initialize", Command::Initialize),
        ("check", Command::Check),
        ("import --name ci", import(None, None)),
        ("import --sha512 ab --expiry 7 --name ci", import(Some(7), hash())),
        (
            "replace --current cd --sha512 ab --overlap 5",
            Command::Replace { current: "cd".into(), sha512: "ab".into(), overlap_seconds: Some(5) },
        ),
        ("help", Command::Help),
        ("--help", Command::Help),
        ("create -h", Command::Help),
        ("--version", Command::Version),
        ("-V", Command::Version),
    ] {
        assert_eq!(command(line), Ok(expected), "{line}");
    }
}

#[test]
fn permissions_parse_in_their_order() {
    let texts = |texts: &[&str]| Some(texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
    for (line, expected) in [
        ("--permission db:b:read", texts(&["db:b:read"])),
        (
            "--permission db:c:* --permission=db:a:* --permission db:b:*",
            texts(&["db:c:*", "db:a:*", "db:b:*"]),
        ),
        ("--permission x --permission x", texts(&["x", "x"])),
        ("--permission=", texts(&[""])),
        ("", None),
    ] {
        let created = command(&format!("create {line} --lifetime 5 --name ci"));
        let expected_command = Command::CreateNamed {
            name: "ci".into(),
            permissions: expected.clone(),
            lifetime_seconds: Some(5),
        };
        assert_eq!(created, Ok(expected_command), "{line}");
        let imported = command(&format!("import {line} --sha512 ab --description press --name ci"));
        let expected_command = Command::Import {
            name: "ci".into(),
            permissions: expected,
            description: Some("press".into()),
            expiry: None,
            sha512: Some("ab".into()),
        };
        assert_eq!(imported, Ok(expected_command), "{line}");
    }
}

#[test]
fn request_parses_with_each_target() {
    let database = |name: &str, action| RequestTarget::Database(name.into(), action);
    for (target, expected) in [
        ("http", RequestTarget::Http),
        ("administration", RequestTarget::Administration),
        ("system:health", RequestTarget::System("health".into())),
        ("system:", RequestTarget::System(String::new())),
        ("db:a:read", database("a", DatabaseAction::Read)),
        ("db:a:b:write", database("a:b", DatabaseAction::Write)),
        ("db::create", database("", DatabaseAction::Create)),
    ] {
        let line = format!("authorize --method PUT --path /a?b --target {target}");
        for (line, host) in [(line.clone(), ""), (format!("{line} --query q=1 --host h"), "h")] {
            let request = Request {
                method: "PUT".into(),
                host: host.into(),
                path: "/a?b".into(),
                target: expected.clone(),
            };
            assert_eq!(command(&line), Ok(Command::Authorize(request)), "{line}");
        }
    }
    for target in ["", "Http", "db:a", "db:a:*", "db:read", "system", "administration:"] {
        let line = format!("authorize --method GET --path / --target={target}");
        assert_eq!(command(&line), Err(UsageError::UnknownTarget), "{target}");
    }
}

#[test]
fn common_options_parse_in_any_place() {
    let plain = parsed("list").unwrap();
    assert_eq!((plain.data.as_str(), plain.origin.as_str(), plain.json), ("/data", "cli", false));
    for line in ["--data /x --origin me --json list", "list --json --origin=me --data=/x"] {
        let parsed = parsed(line).unwrap();
        assert_eq!((parsed.data.as_str(), parsed.origin.as_str(), parsed.json), ("/x", "me", true), "{line}");
    }
}

#[test]
fn usage_errors_name_the_argument() {
    for (line, text) in [
        ("", "there is no command"),
        ("--json", "there is no command"),
        ("created", "there is no command created"),
        ("create --nmae ci", "there is no option --nmae"),
        ("create -n ci", "there is no option -n"),
        ("create --name", "--name needs a value"),
        ("create --name a --name b", "--name is given twice"),
        ("create --lifetime 5", "create takes no --lifetime"),
        ("create --json=yes", "--json takes no value"),
        ("create --name ci --lifetime 1h", "--lifetime needs a whole number"),
        ("regenerate --overlap -1", "--overlap needs a whole number"),
        ("regenerate --ttl 5", "regenerate takes no --ttl"),
        ("create --permission *:*:*", "create takes no --permission"),
        ("create --name ci --permission", "--permission needs a value"),
        ("create --name ci --description x", "create takes no --description"),
        ("regenerate --permission x --permission y", "regenerate takes no --permission"),
        ("authorize --path / --target http", "authorize needs --method METHOD"),
        ("authorize --method GET --target http", "authorize needs --path PATH"),
        ("authorize --method GET --path /", "authorize needs --target TARGET"),
        ("authorize --method GET --path / --target http --path /a", "--path is given twice"),
        ("authenticate --path /", "authenticate takes no --path"),
        ("delete", "delete needs the NAME of a token"),
        ("delete a b", "delete takes no further argument"),
        ("import", "import needs --name NAME"),
        ("replace --sha512 ab", "replace needs --current HEX"),
        ("replace --current ab", "replace needs --sha512 HEX"),
        ("list ci", "list takes no further argument"),
        ("list --=x", "there is no option --"),
        ("list =x", "list takes no further argument"),
    ] {
        assert_eq!(parsed(line).unwrap_err().to_string(), text, "{line}");
    }
}

#[test]
fn token_as_argument_is_rejected_and_not_quoted() {
    for line in ["regenerate --token=apiv3_x", "regenerate --overlap apiv3_x"] {
        let error = parsed(line).unwrap_err();
        assert!(!error.to_string().contains("apiv3_x"), "{error}");
    }
    for line in [
        "apiv3_x",
        "authenticate apiv3_x",
        "list --apiv3_x",
        "delete apiv3_x",
        "create --origin apiv3_x",
        "list --origin=by:apiv3_x",
        "list --data apiv3_x",
        "list --data=./apiv3_x",
        "create --name ci --permission http:/apiv3_x:*",
        "create --name ci --permission a --permission apiv3_x",
        "authorize --method apiv3_x",
        "authorize --host apiv3_x",
        "authorize --path /apiv3_x",
        "authorize --query p=apiv3_x",
        "authorize --target db:apiv3_x:read",
    ] {
        assert_eq!(parsed(line), Err(UsageError::Token), "{line}");
    }
}

#[test]
fn commands_with_a_credential_read_standard_input() {
    for (line, takes) in [
        ("create", false),
        ("create --name ci", true),
        ("regenerate", true),
        ("authorize --method GET --path / --target http", true),
        ("delete ci", true),
        ("recover", false),
        ("import --name ci", true),
        ("import --name ci --sha512 ab", false),
        ("list", false),
    ] {
        assert_eq!(command(line).unwrap().takes_token(), takes, "{line}");
    }
}

#[test]
fn catalog_options_parse_in_any_place() {
    let invocation = parsed("recover --accept-catalog-at 7 --state /mark --reason restore").unwrap();
    assert_eq!((invocation.accepted, invocation.state.as_deref()), (Some(7), Some("/mark")));
    let invocation = parsed("check").unwrap();
    assert_eq!((invocation.accepted, invocation.state), (None, None));
    assert_eq!(parsed("check --accept-catalog-at x"), Err(UsageError::NotANumber("--accept-catalog-at")));
    assert_eq!(command("recover --reason lost"), Err(UsageError::UnknownReason));
    assert_eq!(
        command("create --reason restore"),
        Err(UsageError::Misplaced { command: "create".into(), option: "--reason" })
    );
}
