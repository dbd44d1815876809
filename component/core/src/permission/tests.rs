use serde::{Deserialize as _, Deserializer};

use super::*;

/// Reads the permissions of an audit record.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Permissions>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    Ok(parse(&texts.iter().map(String::as_str).collect::<Vec<_>>()).unwrap())
}

fn parse(texts: &[&str]) -> Result<Option<Permissions>, PermissionError> {
    Permissions::parse(texts.iter().copied())
}

fn one(text: &str) -> Permissions {
    parse(&[text]).unwrap().unwrap()
}

#[test]
fn permission_has_one_text() {
    for (text, written) in [
        ("db:a:read", "db:a:read"),
        ("db:a,b/autogen,0_-:write,read", "db:a,b/autogen,0_-:read,write"),
        ("db:*:*", "db:*:read,write,create"),
        ("db:_internal:read", "db:_internal:read"),
        ("db:a:create,create", "db:a:create"),
        ("system:*:read", "system:*:read"),
        ("system:health,ping:*", "system:health,ping:read"),
        ("http:/:read", "http:/:read"),
        ("http:/*:*", "http:/*:read,write"),
        ("http:a.example/b*:DELETE,GET", "http:a.example/b*:GET,DELETE"),
        ("http:[::1]/a:b:POST", "http:[::1]/a:b:POST"),
        ("http:/a%20b/,:PUT,PATCH,HEAD,OPTIONS", "http:/a%20b/,:HEAD,OPTIONS,PUT,PATCH"),
    ] {
        let permissions = one(text);
        assert_eq!(permissions.texts().collect::<Vec<_>>(), [written], "{text}");
        assert_eq!(one(written), permissions, "{text}");
        let mut line = String::new();
        permissions.write(&mut line);
        assert_eq!(Permissions::read(&mut LineReader::new(&line)), Some(Some(permissions)), "{line}");
    }
    assert_eq!(parse(&[ALL]), Ok(None));
    let two = parse(&["db:a:read", "http:/x:GET"]).unwrap().unwrap();
    assert_eq!(two.to_string(), "db:a:read http:/x:GET");
}

#[test]
fn error_names_the_permission_and_its_part() {
    for (text, fault) in [
        ("", Fault::Form),
        ("db", Fault::Form),
        ("db:a", Fault::Form),
        ("db:a read", Fault::Form),
        ("table:a:read", Fault::Type),
        ("DB:a:read", Fault::Type),
        (" db:a:read", Fault::Type),
        ("*:a:read", Fault::Type),
        ("*:*:read", Fault::Type),
        ("db::read", Fault::Database),
        ("db:a,,b:read", Fault::Database),
        ("db:a,*:read", Fault::Database),
        ("db:a b:read", Fault::Database),
        ("db:_a:read", Fault::Database),
        ("db:a\u{e9}:read", Fault::Database),
        ("db:a*:read", Fault::Database),
        ("db:a:b:read", Fault::Database),
        ("db:a:", Fault::DatabaseAction),
        ("db:a:Read", Fault::DatabaseAction),
        ("db:a:read,", Fault::DatabaseAction),
        ("db:a:read, write", Fault::DatabaseAction),
        ("db:a:*,read", Fault::DatabaseAction),
        ("db:a:delete", Fault::DatabaseAction),
        ("db:a:GET", Fault::DatabaseAction),
        ("system:other:read", Fault::System),
        ("system::read", Fault::System),
        ("system:health:write", Fault::SystemAction),
        ("http:x:read", Fault::Pattern),
        ("http::read", Fault::Pattern),
        ("http:*:read", Fault::Pattern),
        ("http:/a*b:read", Fault::Pattern),
        ("http:/**:read", Fault::Pattern),
        ("http:/a//b:read", Fault::Pattern),
        ("http:/a/../b:read", Fault::Pattern),
        ("http:/a/./b*:read", Fault::Pattern),
        ("http:/a%2fb:read", Fault::Pattern),
        ("http:/%41:read", Fault::Pattern),
        ("http:/a%2*:read", Fault::Pattern),
        ("http:/a?b=c:read", Fault::Pattern),
        ("http:/a;b:read", Fault::Pattern),
        ("http:A.example/:read", Fault::Pattern),
        ("http:a.example:80/:read", Fault::Pattern),
        ("http:*.example/:read", Fault::Pattern),
        ("http:u@a.example/:read", Fault::Pattern),
        ("http://a.example/:read", Fault::Pattern),
        ("http:/a:create", Fault::HttpAction),
        ("http:/a:get", Fault::HttpAction),
        ("http:/a:CONNECT", Fault::HttpAction),
        ("http:/a:", Fault::HttpAction),
    ] {
        assert_eq!(parse(&[text]), Err(PermissionError::Permission(1, fault)), "{text}");
        assert_eq!(parse(&["db:a:read", text]), Err(PermissionError::Permission(2, fault)), "{text}");
    }
    assert_eq!(parse(&["db:a:read", ALL]), Err(PermissionError::Permission(2, Fault::NotAlone)));
    assert_eq!(parse(&[ALL, "db:a:read"]), Err(PermissionError::Permission(2, Fault::NotAlone)));
    assert_eq!(
        parse(&["db:a:read", "db:a:rea"]).unwrap_err().to_string(),
        "permission 2: ACTIONS of db are * or of read, write and create, separated by commas"
    );
}

#[test]
fn number_and_length_are_limited() {
    assert_eq!(parse(&[]), Err(PermissionError::Count));
    assert!(parse(&["db:a:read"; MAX_PERMISSIONS]).is_ok());
    assert_eq!(parse(&["db:a:read"; MAX_PERMISSIONS + 1]), Err(PermissionError::Count));
    let names = |bytes: usize| {
        format!("db:{}a:read", "a,".repeat((bytes - "db:a:read".len()) / 2) + &"a".repeat((bytes + 1) % 2))
    };
    assert_eq!(names(MAX_PERMISSION_BYTES).len(), MAX_PERMISSION_BYTES);
    assert!(parse(&[&names(MAX_PERMISSION_BYTES)]).is_ok());
    assert_eq!(parse(&[&names(MAX_PERMISSION_BYTES + 1)]), Err(PermissionError::TooLong));

    // What counts is the text that is stored, which has all actions written out.
    let all = |bytes: usize| format!("db:{}:*", "a".repeat(bytes - "db::read,write,create".len()));
    let most = MAX_PERMISSION_BYTES / MAX_PERMISSIONS;
    let accepted = vec![all(most); MAX_PERMISSIONS];
    let accepted: Vec<&str> = accepted.iter().map(String::as_str).collect();
    let permissions = parse(&accepted).unwrap().unwrap();
    let mut line = String::new();
    permissions.write(&mut line);
    assert_eq!(Permissions::read(&mut LineReader::new(&line)), Some(Some(permissions)));
    let longer = all(most + 1);
    let refused: Vec<&str> = accepted.iter().copied().skip(1).chain([longer.as_str()]).collect();
    assert_eq!(parse(&refused), Err(PermissionError::TooLong));
}

/// Whether a simple matcher, which shares no code with [`Permissions::allow`], allows this.
fn simple_allows(text: &str, access: &Access<'_>) -> bool {
    let parts: Vec<&str> = text.splitn(2, ':').collect();
    let (names, actions) = parts[1].rsplit_once(':').unwrap();
    let has = |action: &str| actions.split(',').any(|own| own == "*" || own == action);
    match access.target {
        Target::Administration => false,
        Target::System(name) => parts[0] == "system" && (names == "*" || names.split(',').any(|n| n == name)),
        Target::Database(name, action) => {
            let action = format!("{action:?}").to_lowercase();
            let all = names == "*" && name.starts_with(|first: char| first.is_ascii_alphanumeric());
            parts[0] == "db" && has(&action) && (all || names.split(',').any(|n| n == name))
        }
        Target::Http => {
            let group = match access.method {
                "GET" | "HEAD" | "OPTIONS" => "read",
                _ => "write",
            };
            let (host, path) = names.split_at(names.find('/').unwrap_or(0));
            let regex_like = match path.strip_suffix('*') {
                Some(begin) => access.path.get(..begin.len()) == Some(begin),
                None => path == access.path,
            };
            parts[0] == "http"
                && (has(group) || has(access.method))
                && (host.is_empty() || host == access.host)
                && regex_like
        }
    }
}

#[test]
fn matcher_agrees_with_a_simple_one() {
    const PERMISSIONS: [&str; 24] = [
        "db:a:read",
        "db:a:write",
        "db:a,b:read,write",
        "db:b/autogen:*",
        "db:*:read",
        "db:*:create",
        "db:_internal:read",
        "db:a,_internal:write",
        "system:*:read",
        "system:health:read",
        "system:ping,metrics:*",
        "http:/*:read",
        "http:/*:*",
        "http:/:GET",
        "http:/a:read",
        "http:/a/:write",
        "http:/a/*:POST,GET",
        "http:/a/b:DELETE",
        "http:/a/b*:HEAD",
        "http:a.example/*:read",
        "http:a.example/a*:*",
        "http:b.example/:GET",
        "http:/%20:OPTIONS",
        "http:[::1]/a:PUT",
    ];
    const METHODS: [&str; 9] = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "get", "PURGE"];
    const HOSTS: [&str; 4] = ["", "a.example", "b.example", "[::1]"];
    const PATHS: [&str; 8] = ["/", "/a", "/a/", "/a/b", "/a/bc", "/A", "/%20", "/b"];
    const TARGETS: [Target<'static>; 12] = [
        Target::Http,
        Target::Administration,
        Target::System("health"),
        Target::System("ping"),
        Target::System("other"),
        Target::Database("a", DatabaseAction::Read),
        Target::Database("a", DatabaseAction::Write),
        Target::Database("b", DatabaseAction::Create),
        Target::Database("b/autogen", DatabaseAction::Write),
        Target::Database("_internal", DatabaseAction::Read),
        Target::Database("_internal", DatabaseAction::Write),
        Target::Database("c", DatabaseAction::Read),
    ];

    // A linear congruential generator (Knuth, MMIX).
    let mut state = 20_261_126_u64;
    let mut below = |limit: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % limit
    };
    let (mut allowed, mut refused) = (0, 0);
    for _ in 0..200_000 {
        let texts: Vec<&str> = (0..=below(4)).map(|_| PERMISSIONS[below(PERMISSIONS.len())]).collect();
        let access = Access {
            method: METHODS[below(METHODS.len())],
            host: HOSTS[below(HOSTS.len())],
            path: PATHS[below(PATHS.len())],
            target: if below(2) == 0 { Target::Http } else { TARGETS[below(TARGETS.len())] },
        };
        let expected = texts.iter().any(|text| simple_allows(text, &access));
        let permissions = parse(&texts).unwrap().unwrap();
        assert_eq!(permissions.allow(&access), expected, "{texts:?} {access:?}");
        *if expected { &mut allowed } else { &mut refused } += 1;
    }
    assert!(allowed > 20_000 && refused > 20_000, "{allowed} {refused}");
}

#[test]
fn uncertain_request_is_refused() {
    let all = parse(&["http:/*:*", "db:*:*", "system:*:*"]).unwrap().unwrap();
    let access = Access { method: "GET", host: "a.example", path: "/a", target: Target::Http };
    assert!(all.allow(&access));
    for path in ["", "a", "/a//b", "/a/../b", "/a/%2e", "/%2f", "/%41", "/a;b", "/a\\b", "/a?b", "/%zz", "*"]
    {
        for target in [Target::Http, Target::Database("a", DatabaseAction::Read), Target::System("health")] {
            assert!(!all.allow(&Access { path, target, ..access }), "{path}");
        }
    }
    for host in ["A.example", "a.example.", "a.example:80", "a@b", "a b", ".", "a..b"] {
        assert!(!all.allow(&Access { host, ..access }), "{host}");
    }
    for name in ["", "*", "a,b", "a b", "_x", "a\u{0}", "a:b"] {
        let target = Target::Database(name, DatabaseAction::Read);
        assert!(!all.allow(&Access { target, ..access }), "{name}");
    }
}
