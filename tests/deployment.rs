//! What documents and the files of dist/ write for the program, it has: commands, options and
//! variables.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use regex::Regex;

use crate::support::{TestCertificate, TestEnv};

/// Variables of the clients of stores, which are no variables of this program.
const OF_STORES: [&str; 3] = ["AWS_", "AZURE_", "GOOGLE_"];

/// Words of a shell before a command.
const BEFORE_COMMAND: [&str; 6] = ["$", "|", "--", "&&", ";", "&"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The files of a folder and of those below it, with their texts.
fn files(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let text = fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    found
}

/// The documents for operators.
fn documents() -> Vec<(PathBuf, String)> {
    let mut found = files(&root().join("docs"));
    for page in ["README.md", "host/proxies/README.md"] {
        found.push((root().join(page), fs::read_to_string(root().join(page)).unwrap()));
    }
    found
}

/// The commands of the program in a document, in blocks of code and within lines, as words.
fn commands(text: &str) -> Vec<Vec<String>> {
    let joined = text.replace("\\\n", " ");
    let mut lines = Vec::new();
    let mut is_code = false;
    for line in joined.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if is_code {
            lines.push(line.to_owned());
        }
    }
    let spans = Regex::new("(?s)`(optoken [^`]+)`").unwrap();
    lines.extend(spans.captures_iter(&joined).map(|span| span[1].replace('\n', " ")));
    let mut found = Vec::new();
    for line in &lines {
        let words: Vec<_> = line.split_whitespace().collect();
        for (index, word) in words.iter().enumerate() {
            let is_command = index == 0 || BEFORE_COMMAND.contains(&words[index - 1]);
            if *word == "optoken" && is_command {
                let end = words[index..].iter().position(|word| matches!(*word, "|" | "&&" | ";" | "#"));
                let end = end.map_or(words.len(), |end| index + end);
                found.push(words[index + 1..end].iter().map(|word| (*word).to_owned()).collect());
            }
        }
    }
    found
}

/// The helps of commands, each by the words before the first option.
struct Helps {
    env: TestEnv,
    known: BTreeMap<Vec<String>, String>,
}

impl Helps {
    fn new() -> Self {
        Self { env: TestEnv::new(), known: BTreeMap::new() }
    }

    /// The help of a command.
    fn of(&mut self, command: &[String]) -> &str {
        let is_name = |word: &&String| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
        let names: Vec<_> =
            command.iter().take(2).take_while(|word| is_name(word) && !word.starts_with('-')).collect();
        let names: Vec<_> = names.into_iter().cloned().collect();
        let env = &self.env;
        self.known.entry(names.clone()).or_insert_with(|| {
            let args: Vec<_> = names.iter().map(String::as_str).collect();
            // The options of the operator token stand in a help of their own.
            let with: &[&[&str]] = if args == ["create", "token"] {
                &[&["--admin", "--help"], &["--help"]]
            } else {
                &[&["--help"]]
            };
            let helps = with.iter().map(|with| {
                let output = env.cli(&args).args(with).run();
                assert_eq!(output.code, Some(0), "{output:?}");
                output.stdout
            });
            helps.collect()
        })
    }
}

/// Whether a help has this option or variable, and not only as a part of a longer name.
fn has(help: &str, name: &str) -> bool {
    let is_part = |next: char| next.is_ascii_alphanumeric() || matches!(next, '-' | '_');
    help.match_indices(name).any(|(at, _)| !help[at + name.len()..].starts_with(is_part))
}

#[test]
fn documented_commands_have_their_options() {
    let mut helps = Helps::new();
    let mut count = 0;
    for (path, text) in documents() {
        for command in commands(&text) {
            let help = helps.of(&command);
            for option in command.iter().filter(|word| word.starts_with("--") && word.len() > 2) {
                let name = option.split('=').next().unwrap().trim_end_matches([',', '.', '`']);
                assert!(has(help, name), "{}: {name} of {command:?}", path.display());
                count += 1;
            }
        }
    }
    assert!(count > 50, "{count} options");
    let command = ["serve", "--state", "--no-such"].map(str::to_owned);
    assert!(!has(helps.of(&command), "--state") && !has(helps.of(&command), "--no-such"));
}

#[test]
fn variables_of_shipped_files_exist() {
    let mut helps = Helps::new();
    let help = helps.of(&["serve".to_owned()]).to_owned();
    let assignment = Regex::new(r"(?m)^#?\s*(?:Environment=)?([A-Z][A-Z0-9_]+)=").unwrap();
    let own = Regex::new(r"\bINFLUXDB3_[A-Z0-9_]+").unwrap();
    let mut count = 0;
    let mut others = BTreeMap::new();
    let mut shipped = files(&root().join("dist"));
    let pages = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let (_, chapter) = pages.split_once("\n## Several nodes\n").unwrap();
    let (chapter, _) = chapter.split_once("\n## ").unwrap();
    shipped.push((root().join("docs/operations.md"), chapter.to_owned()));
    for (path, text) in shipped {
        let assigned = assignment.captures_iter(&text).map(|found| found[1].to_owned());
        for name in assigned.chain(own.find_iter(&text).map(|found| found.as_str().to_owned())) {
            let is_of_store = OF_STORES.iter().any(|prefix| name.starts_with(prefix));
            if !is_of_store && !has(&help, &name) {
                others.insert(name, path.clone());
            }
            count += 1;
        }
    }
    assert!(count > 20, "{count} variables");
    // The password of a store is no option. The log names each variable that means nothing.
    let mut server = helps.env.serve_with(&["--store", "memory:"]).env("INFLUXDB3_NO_SUCH", "x");
    for name in others.keys() {
        server = server.env(name, "x");
    }
    let server = server.start();
    server.wait_for_log("these variables mean nothing to this server: INFLUXDB3_NO_SUCH;");
    assert!(others.keys().all(|name| name.starts_with("INFLUXDB3_")), "{others:?}");
}

/// The URLs of a file of variables, those in comments included, and its other variables.
fn variables(text: &str) -> (Vec<String>, Vec<(String, String)>) {
    let assigned = text.lines().filter_map(|line| line.trim_start_matches("# ").split_once('='));
    let assigned = assigned.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let is_name = |name: &str| name.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_'));
    let (urls, others): (Vec<_>, Vec<_>) =
        assigned.filter(|(name, _)| is_name(name)).partition(|(name, _)| name == "INFLUXDB3_TOKEN_STORE");
    (urls.into_iter().map(|(_, url)| url).collect(), others)
}

#[test]
fn stores_of_shipped_files_can_be_tried() {
    let env = TestEnv::new();
    let certificate = TestCertificate::new();
    // Names a place without a key, and no place that asks for a token of its own.
    let google = env.file(
        "gcs.json",
        br#"{"gcs_base_url": "", "disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": ""}"#,
    );
    fs::set_permissions(&google, fs::Permissions::from_mode(0o600)).unwrap();
    let mut count = 0;
    for (path, text) in files(&root().join("dist/nodes")) {
        if path.extension().is_none_or(|extension| extension != "env") {
            continue;
        }
        let (urls, others) = variables(&text);
        for url in urls {
            // Nothing listens there. A name below `invalid` has no address.
            let mut url = url
                .replace("example.com", "invalid")
                .replace("/etc/optoken/store/ca.pem", certificate.authority.to_str().unwrap());
            let is_bucket = ["s3:", "gs:", "az:"].iter().any(|scheme| url.starts_with(scheme));
            if is_bucket && !url.contains("endpoint=") {
                url += "?endpoint=http://127.0.0.1:1";
            }
            let mut cli = env.cli(["store", "check", &url]);
            for (name, value) in &others {
                cli = cli.env(name, value.replace("/etc/optoken/store/gcs.json", google.to_str().unwrap()));
            }
            cli.run().assert_failed(1, &["could not be tried, so nothing is known of it"]);
            count += 1;
        }
    }
    assert_eq!(count, 7);
    // A URL with an error is another matter.
    let wrong = env.cli(["store", "check", "postgres://optoken@db1.invalid/optoken?no_such=1"]).run();
    wrong.assert_failed(2, &["no_such"]);
}
