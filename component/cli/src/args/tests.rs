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
    for (line, expected) in [
        ("create", Command::CreateOperator),
        ("create --name ci", Command::CreateNamed { name: name(), lifetime_seconds: None }),
        ("create --lifetime 60 --name ci", Command::CreateNamed { name: name(), lifetime_seconds: Some(60) }),
        ("create --name=ci --lifetime=0", Command::CreateNamed { name: name(), lifetime_seconds: Some(0) }),
        ("create --name --json", Command::CreateNamed { name: "--json".into(), lifetime_seconds: None }),
        ("create --name=", Command::CreateNamed { name: String::new(), lifetime_seconds: None }),
        ("create --name=a=b", Command::CreateNamed { name: "a=b".into(), lifetime_seconds: None }),
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
        ("import --name ci", Command::Import { name: name(), expiry: None, sha512: None }),
        (
            "import --sha512 ab --expiry 7 --name ci",
            Command::Import { name: name(), expiry: Some(7), sha512: hash() },
        ),
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
