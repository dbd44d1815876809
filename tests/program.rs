//! The name of the program, its completions and its manual pages.

use std::collections::BTreeSet;
use std::fs;

#[path = "house/vocabulary.rs"]
mod vocabulary;

use crate::support::TestEnv;

#[test]
fn texts_use_the_called_name() {
    for name in ["optoken", "influxdb3"] {
        let env = TestEnv::named(name);
        let version = env.cli(["--version"]).run();
        assert_eq!(version.stdout, format!("{name} {}\n", env!("CARGO_PKG_VERSION")));
        for (args, expected) in [
            ("--help", format!("Usage: {name} <COMMAND>\n")),
            ("--help", format!("    {name} create token --admin\n")),
            ("help show tokens", format!("    {name} show tokens\n")),
            ("completions bash", format!("complete -F _{name} ")),
        ] {
            let output = env.cli(args.split(' ')).run();
            assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{args}");
            assert!(output.stdout.contains(&expected), "{args}: {}", output.stdout);
        }
        for (args, code, expected) in [
            (
                "create token",
                2,
                format!("Use: {name} create token --admin [OPTIONS], or: {name} create token --permission "),
            ),
            ("show tokens --host http://127.0.0.1:1", 1, format!("Start it with:\n  {name} serve\n")),
            ("delete token --token-name _admin", 1, format!("use: {name} create token --admin ")),
        ] {
            env.cli(args.split(' ')).run().assert_failed(code, &[&expected]);
        }
    }
}

#[test]
fn completions_exist_for_each_shell() {
    let env = TestEnv::new();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = env.cli(["completions", shell]).run();
        assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{shell}");
        for word in ["optoken", "regenerate", "token-file", "audit", "hash"] {
            assert!(output.stdout.contains(word), "{shell}: {word}");
        }
    }
}

#[test]
fn man_pages_cover_every_command() {
    let env = TestEnv::new();
    let output = env.cli(["man-pages", "share/man/man1"]).run();
    assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (Some(0), "", ""));
    let mut expected = BTreeSet::from(["optoken.1".to_owned()]);
    expected.extend(commands(&env, "").iter().map(|path| format!("optoken{}.1", path.replace(' ', "-"))));
    for page in ["optoken-create-token---admin.1", "optoken-hash-token.1"] {
        assert!(expected.contains(page), "{page}: {expected:?}");
    }

    let mut found = BTreeSet::new();
    let mut banned = Vec::new();
    for entry in fs::read_dir(env.home().join("share/man/man1")).unwrap() {
        let path = entry.unwrap().path();
        let page = fs::read_to_string(&path).unwrap();
        assert!(page.contains("\n.SH DESCRIPTION\n"), "{}", path.display());
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        banned.extend(vocabulary::banned_words(&page).into_iter().map(|(_, word)| format!("{name}: {word}")));
        found.insert(name);
    }
    assert_eq!(found, expected);
    assert!(banned.is_empty(), "{banned:?}");
}

/// Every subcommand below `parent` that the help lists, as ` create token`.
fn commands(env: &TestEnv, parent: &str) -> Vec<String> {
    let help = env.cli(parent.split_whitespace().chain(["--help"])).run().stdout;
    let listed = help.split_once("\nCommands:\n").map_or("", |(_, rest)| rest);
    let names = listed.lines().take_while(|line| !line.is_empty());
    // The names are indented by two blanks, wrapped descriptions by more.
    let names = names.filter_map(|line| line.strip_prefix("  ")?.split_once(' ')).map(|(name, _)| name);
    let mut commands = Vec::new();
    for name in names.filter(|name| !name.is_empty() && *name != "help") {
        let path = format!("{parent} {name}");
        commands.extend(self::commands(env, &path));
        commands.push(path);
    }
    commands
}
