//! Reads the cases, lets a runner play them, and compares the results byte for byte, except values
//! that differ in every run.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha512, Sha512_256};
use tempfile::TempDir;

/// Limit for the difference of clocks. A runner uses the same clock, in milliseconds.
const TOLERANCE: Duration = Duration::from_millis(2);

/// Limit for durations in a case, in seconds. A number further ahead is not relative to now.
const MAX_DURATION: u64 = 31 * 24 * 60 * 60;

/// Functions that read the catalog and never change it.
const READ_ONLY_CALLS: [&str; 8] = [
    "authenticator.load",
    "authenticator.state",
    "authenticator.authenticate",
    "authenticator.authorize",
    "authenticator.describe",
    "tokens.list-tokens",
    "tokens.audit",
    "tokens.status",
];

fn cases_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/conformance/cases")
}

/// The component of the contract: that of the directory in `OPTOKEN_TEST_COMPONENTS`, otherwise the
/// prebuilt one. The scripts of tests/embed read the same variable.
pub(crate) fn component() -> Vec<u8> {
    let directory = env::var_os("OPTOKEN_TEST_COMPONENTS").map(PathBuf::from);
    let directory =
        directory.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../component/prebuilt"));
    let file = directory.join("optoken.wasm");
    fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// A case: one directory of `cases`.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// The directory that a runner gets.
    pub(crate) directory: PathBuf,
    pub(crate) calls: Vec<Call>,
    /// Generated from `before.json` if the document is large.
    before: Option<String>,
    after: Option<String>,
    faults: Option<Faults>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Call {
    #[serde(rename = "call")]
    pub(crate) function: String,
    pub(crate) args: Vec<Value>,
    #[serde(default, rename = "as", skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    #[serde(default)]
    answer: Value,
}

/// `before.json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
enum Large {
    /// A catalog of so many named admins.
    #[serde(rename = "tokens")]
    Tokens(usize),
    /// A catalog of a named admin and so many tokens that have the longest permission.
    #[serde(rename = "scoped")]
    Scoped(usize),
    /// A text of so many bytes, which is no catalog.
    #[serde(rename = "bytes")]
    Bytes(usize),
}

/// `faults.json`.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Faults {
    random: Option<u64>,
    #[serde(default)]
    calls: BTreeMap<usize, FaultsOfCall>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultsOfCall {
    #[serde(default)]
    load: Vec<Value>,
    #[serde(default)]
    swap: Vec<Value>,
}

impl Faults {
    /// Files with the documents that a concurrent writer stores.
    fn documents(&self) -> impl Iterator<Item = &str> {
        self.calls.values().flat_map(|faults| &faults.swap).filter_map(|fault| fault["overtaken"].as_str())
    }
}

/// What a host lends the component, from least to most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum HostCapabilities {
    /// The component has its own store and randomness.
    Nothing,
    /// A store, which the host reads before a call needs it.
    StoreForCommands,
    /// A store and randomness.
    Everything,
}

impl Case {
    pub(crate) fn read(directory: PathBuf) -> Self {
        let name = directory.file_name().unwrap().to_str().unwrap().to_owned();
        let read = |file: &str| match fs::read_to_string(directory.join(file)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            text => Some(text.unwrap_or_else(|error| panic!("{file} of {name}: {error}"))),
        };
        let calls = read("calls.json").unwrap_or_else(|| panic!("{name} has no calls"));
        let calls: Vec<Call> = parse(&name, &calls);
        assert!(!calls.is_empty(), "{name} has no calls");
        let faults: Option<Faults> = read("faults.json").map(|text| parse(&name, &text));
        let large = read("before.json").map(|text| large_catalog(&parse(&name, &text)));
        let after = read("after.jsonl").or_else(|| large.clone());
        let before = read("before.jsonl").or(large);

        let mut known =
            BTreeSet::from(["before.json", "before.jsonl", "calls.json", "faults.json", "after.jsonl"]);
        known.extend(faults.iter().flat_map(Faults::documents));
        for file in fs::read_dir(&directory).unwrap() {
            let file = file.unwrap().file_name();
            assert!(
                file.to_str().is_some_and(|file| known.contains(file)),
                "{name}: unknown file {}",
                file.display()
            );
        }
        for (call, of_call) in faults.iter().flat_map(|faults| &faults.calls) {
            assert!((1..=calls.len()).contains(call), "{name}: there is no call {call} to fail");
            assert!(of_call.load.len() + of_call.swap.len() > 0, "{name}: nothing fails in call {call}");
        }
        Self { name, directory, calls, before, after, faults }
    }

    /// What the case needs of a host.
    fn needs(&self) -> HostCapabilities {
        let Some(faults) = &self.faults else { return HostCapabilities::Nothing };
        let reads = |call: &usize| READ_ONLY_CALLS.contains(&self.calls[call - 1].function.as_str());
        if faults.random.is_some() || faults.calls.keys().any(reads) {
            HostCapabilities::Everything
        } else {
            HostCapabilities::StoreForCommands
        }
    }

    /// Returns whether a call asks for the description of a component of the contract.
    fn needs_component(&self) -> bool {
        self.calls.iter().any(|call| call.function.starts_with("component-info."))
    }

    /// Returns whether every secret of the case must be new.
    fn is_random(&self) -> bool {
        self.faults.as_ref().is_none_or(|faults| faults.random.is_none())
    }

    /// Copies the case for a runner, below a directory.
    fn copy_for_runner(&self, below: &Path) -> Self {
        let directory = below.join(&self.name);
        fs::create_dir_all(&directory).unwrap();
        for file in fs::read_dir(&self.directory).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), directory.join(file.file_name())).unwrap();
        }
        if let Some(before) = &self.before {
            fs::write(directory.join("before.jsonl"), before).unwrap();
        }
        Self { directory, ..self.clone() }
    }
}

fn parse<'a, T: Deserialize<'a>>(case: &str, text: &'a str) -> T {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{case}: {error}"))
}

/// Generates the document of `before.json`. The secret of the named admin `N` is `token N`.
fn large_catalog(large: &Large) -> String {
    let (tokens, is_scoped) = match large {
        Large::Tokens(tokens) => (*tokens, false),
        Large::Scoped(tokens) => (tokens + 1, true),
        Large::Bytes(bytes) => return "x".repeat(*bytes),
    };
    let format = if is_scoped { 3 } else { 2 };
    let mut document = format!("{{\"format\":{format}}}\n{{\"next_id\":{tokens},\"tokens\":{tokens}}}\n");
    let longest = format!(r#","permissions":["http:/{}:read"]"#, "a".repeat(2048 - "http:/:read".len()));
    for id in 0..tokens {
        let hash = sha512(&format!("token {id}"));
        let permissions = if is_scoped && id > 0 { longest.as_str() } else { "" };
        writeln!(document, r#"{{"id":{id},"name":"{id}","hash":"{hash}","created_at":1{permissions}}}"#)
            .unwrap();
    }
    document
}

/// Result of a case: a line of a runner.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CaseResult {
    pub(crate) case: String,
    pub(crate) answers: Vec<Value>,
    pub(crate) document: Option<String>,
    /// Start of the case, in milliseconds since the epoch.
    #[serde(default)]
    pub(crate) started: Option<u64>,
}

/// Results of named calls, for the arguments of later ones.
#[derive(Default)]
pub(crate) struct Bindings(BTreeMap<String, Value>);

impl Bindings {
    pub(crate) fn bind(&mut self, call: &Call, answer: &Value) {
        if let Some(name) = &call.name {
            self.0.insert(name.clone(), answer["ok"].clone());
        }
    }

    /// Arguments of a call, with each `<NAME.FIELD>` replaced.
    pub(crate) fn arguments(&self, call: &Call) -> Vec<Value> {
        fn replace(bindings: &BTreeMap<String, Value>, argument: &Value) -> Value {
            if let Value::Object(fields) = argument {
                let fields = fields.iter().map(|(name, field)| (name.clone(), replace(bindings, field)));
                return fields.collect();
            }
            let reference = argument.as_str().and_then(|text| text.strip_prefix('<')?.strip_suffix('>'));
            let Some((name, field)) = reference.and_then(|reference| reference.split_once('.')) else {
                return argument.clone();
            };
            bindings[name][field].clone()
        }
        call.args.iter().map(|argument| replace(&self.0, argument)).collect()
    }
}

pub(crate) fn read_cases() -> Vec<Case> {
    let mut directories: Vec<_> =
        fs::read_dir(cases_dir()).unwrap().map(|entry| entry.unwrap().path()).collect();
    directories.sort();
    assert!(!directories.is_empty());
    directories.into_iter().map(Case::read).collect()
}

/// Number of calls in these cases.
pub(crate) fn count_calls(cases: &[Case]) -> usize {
    cases.iter().map(|case| case.calls.len()).sum()
}

/// A kind of host.
pub(crate) struct Host {
    pub(crate) name: &'static str,
    pub(crate) capabilities: HostCapabilities,
    /// Whether the host runs a component of the contract.
    pub(crate) runs_component: bool,
    /// Maps an answer of the contract to the answer of this host, which may distinguish fewer.
    pub(crate) normalize: fn(&Value) -> Value,
}

/// The cases of one run, each in a subdirectory.
pub(crate) struct Run {
    pub(crate) directory: PathBuf,
    pub(crate) cases: Vec<Case>,
}

/// Lets a runner play all cases, and compares the results. Prints the number of cases.
///
/// A first run plays the first few cases alone: random values must differ between runs.
#[track_caller]
pub(crate) fn assert_conforms(host: &Host, mut play: impl FnMut(&Run) -> Vec<(CaseResult, Times)>) {
    let (component_cases, cases): (Vec<_>, Vec<_>) =
        read_cases().into_iter().partition(|case| case.needs_component() && !host.runs_component);
    if !component_cases.is_empty() {
        let names: Vec<_> = component_cases.iter().map(|case| case.name.as_str()).collect();
        println!(
            "{}: NOT PLAYED: {} cases, as it runs no component of the contract: {}",
            host.name,
            names.len(),
            names.join(", ")
        );
    }
    let (cases, skipped): (Vec<_>, Vec<_>) =
        cases.into_iter().partition(|case| case.needs() <= host.capabilities);
    let names: Vec<_> = skipped.iter().map(|case| case.name.as_str()).collect();
    if !names.is_empty() {
        let reason = match host.capabilities {
            HostCapabilities::Nothing => "it has its own store and randomness, which take no faults",
            _ => "it reads ahead of the calls, and has its randomness from the operating system",
        };
        println!("{}: NOT PLAYED: {} cases, as {reason}: {}", host.name, names.len(), names.join(", "));
    }
    let faultless = |case: &&Case| case.faults.is_none();
    assert!(skipped.iter().find(faultless).is_none(), "without faults, every host must play a case");

    let mut seen = BTreeSet::new();
    let first = 1 + cases.iter().position(makes_secret).unwrap();
    for cases in [&cases[..first], &cases[..]] {
        let below = tempfile::tempdir().unwrap();
        let cases: Vec<_> = cases.iter().map(|case| case.copy_for_runner(below.path())).collect();
        let run = Run { directory: below.path().to_owned(), cases };
        let result = play(&run);
        check(host, &run.cases, &result, &mut seen);
    }
    println!(
        "{}: {} cases, {} calls, {} secrets and names that differ",
        host.name,
        cases.len(),
        count_calls(&cases),
        seen.len()
    );
}

fn makes_secret(case: &Case) -> bool {
    case.calls.iter().any(|call| call.answer["ok"]["secret"].is_string())
}

#[track_caller]
fn check(host: &Host, cases: &[Case], result: &[(CaseResult, Times)], seen: &mut BTreeSet<String>) {
    let runner = host.name;
    let names: Vec<_> = result.iter().map(|(result, _)| &result.case).collect();
    let expected: Vec<_> = cases.iter().map(|case| &case.name).collect();
    assert_eq!(names, expected, "{runner} played other cases");
    let failed: Vec<_> = cases
        .iter()
        .zip(result)
        .filter_map(|(case, (result, times))| {
            let failure =
                compare(host, case, result, times).and_then(|()| check_random(case, result, seen)).err()?;
            Some(format!("{}: {failure}", case.name))
        })
        .collect();
    assert!(
        failed.is_empty(),
        "{runner}: {} of {} cases differ\n{}",
        failed.len(),
        cases.len(),
        failed.join("\n")
    );
}

/// Checks the random values of a case: each has its form, and is new.
fn check_random(case: &Case, result: &CaseResult, seen: &mut BTreeSet<String>) -> Result<(), String> {
    let mut values = BTreeSet::new();
    for (call, answer) in case.calls.iter().zip(&result.answers) {
        if let Some(secret) = answer["ok"]["secret"].as_str() {
            if !is_secret(secret) {
                return Err(format!("{secret:?} is not `apiv3_` and 512 bits in base64"));
            }
            if !values.insert(secret) {
                return Err("a secret came twice".to_owned());
            }
        }
        if let ("provision.initialize", Some(id)) = (call.function.as_str(), answer["ok"].as_str()) {
            if !is_uuid(id) {
                return Err(format!("{id:?} is no random UUID"));
            }
            values.insert(id);
        }
    }
    match values.into_iter().find(|value| case.is_random() && !seen.insert((*value).to_owned())) {
        Some(_) => Err("a random value came twice".to_owned()),
        None => Ok(()),
    }
}

/// Start and end of a case.
#[derive(Clone, Copy)]
pub(crate) struct Times {
    from: SystemTime,
    to: SystemTime,
}

impl Times {
    /// From this time until now.
    pub(crate) fn since(from: SystemTime) -> Self {
        Self { from: from - TOLERANCE, to: SystemTime::now() + TOLERANCE }
    }

    /// Returns whether this time, in milliseconds since the epoch, is `seconds` after the case.
    fn contain(&self, at: u64, seconds: u64) -> bool {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(at);
        let ahead = Duration::from_secs(seconds);
        (self.from + ahead..=self.to + ahead).contains(&at)
    }

    /// Returns how many seconds after the case this time is, if it is a time.
    fn seconds_ahead(&self, at: u64) -> Option<u64> {
        let from = self.from.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
        let ahead = u64::try_from(u128::from(at).checked_sub(from)? / 1000).unwrap();
        (ahead.saturating_sub(1)..=ahead)
            .find(|seconds| *seconds <= MAX_DURATION && self.contain(at, *seconds))
    }
}

fn sha512(text: &str) -> String {
    hex(&Sha512::digest(text))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

fn compare(host: &Host, case: &Case, result: &CaseResult, times: &Times) -> Result<(), String> {
    let known = Known::of(case, result);
    if result.answers.len() != case.calls.len() {
        return Err(format!("{} answers to {} calls", result.answers.len(), case.calls.len()));
    }
    for (number, (call, answer)) in case.calls.iter().zip(&result.answers).enumerate() {
        known.fits(&(host.normalize)(&call.answer), answer, times).map_err(|difference| {
            format!("call {}, {}: {difference}\n  in {answer}", number + 1, call.function)
        })?;
    }
    check_heads(case, result)?;
    match (&case.after, &result.document) {
        (None, None) => Ok(()),
        (Some(after), Some(document)) => {
            known
                .text_fits(after, document, times)
                .map_err(|difference| format!("document: {difference}"))?;
            match &case.before {
                // It is refused, and stays as it is.
                Some(broken) if check_chain(broken).is_err() && document == broken => Ok(()),
                _ => check_chain(document),
            }
        }
        (after, document) => Err(format!("the document is {document:?}, expected {after:?}")),
    }
}

/// Checks that each state has the hash of an audit record that the case returned or stored.
fn check_heads(case: &Case, result: &CaseResult) -> Result<(), String> {
    let returned = result.answers.iter().filter_map(|answer| answer["ok"]["lines"].as_array());
    let returned = returned.flatten().filter_map(Value::as_str);
    let stored = result.document.iter().flat_map(|document| document.lines());
    let hashes: BTreeSet<_> = returned.chain(stored).map(|line| hex(&Sha512_256::digest(line))).collect();
    for (call, answer) in case.calls.iter().zip(&result.answers) {
        if call.function == "authenticator.state"
            && let Some(head) = answer["ok"]["audit-head"].as_str()
            && !hashes.contains(head)
        {
            return Err(format!("no audit record has the hash {head}"));
        }
    }
    Ok(())
}

/// Checks that each audit record has the hash of the line before it, and the header that of the
/// last.
fn check_chain(document: &str) -> Result<(), String> {
    let lines: Vec<_> = document.lines().collect();
    if let [_, header, .., last] = lines[..]
        && let Some((_, head)) = header.split_once(r#","audit":""#)
        && head[..64] != hex(&Sha512_256::digest(last))
    {
        return Err(format!("the header does not name {last}"));
    }
    let linked = lines.windows(2).filter_map(|pair| {
        let (_, previous) = pair[1].strip_suffix("\"}")?.rsplit_once(r#","previous":""#)?;
        // The oldest record links to one that the catalog no longer retains.
        pair[0].starts_with(r#"{"sequence":"#).then_some((pair[0], previous))
    });
    for (line, previous) in linked {
        if hex(&Sha512_256::digest(line)) != previous {
            return Err(format!("the chain is broken after {line}"));
        }
    }
    Ok(())
}

/// Values of the placeholders of one case: its secrets, their hashes, and the id of the catalog.
struct Known(Vec<(String, String)>);

impl Known {
    fn of(case: &Case, result: &CaseResult) -> Self {
        let mut known = Vec::new();
        for (call, answer) in case.calls.iter().zip(&result.answers) {
            if let (Some(name), Some(secret)) = (&call.name, answer["ok"]["secret"].as_str()) {
                known.push((format!("<{name}.secret>"), secret.to_owned()));
                let sha512 = sha512(secret);
                // The catalog remembers that much of a former secret.
                let begin = sha512[..32].to_owned();
                known.push((format!("<sha512 of {name}.secret>"), sha512));
                known.push((format!("<begin of sha512 of {name}.secret>"), begin));
            }
            // Of states that the case distinguishes, each has a version of its own.
            if let (Some(name), Some(version)) = (&call.name, answer["ok"]["version"].as_str())
                && known.iter().all(|(other, known)| known != version || !other.ends_with(".version>"))
            {
                known.push((format!("<{name}.version>"), version.to_owned()));
            }
            if let ("provision.initialize", Some(id)) = (call.function.as_str(), answer["ok"].as_str())
                && is_uuid(id)
                && known.iter().all(|(name, _)| name != "<uuid>")
            {
                known.push(("<uuid>".to_owned(), id.to_owned()));
            }
        }
        Self(known)
    }

    fn fits(&self, expected: &Value, actual: &Value, times: &Times) -> Result<(), String> {
        match (expected, actual) {
            (Value::String(expected), Value::Number(actual)) if expected.starts_with("<now") => {
                self.text_fits(expected, &actual.to_string(), times)
            }
            (Value::String(expected), Value::String(actual)) => self.text_fits(expected, actual, times),
            (Value::Array(expected), Value::Array(actual)) if expected.len() == actual.len() => expected
                .iter()
                .zip(actual)
                .try_for_each(|(expected, actual)| self.fits(expected, actual, times)),
            (Value::Object(expected), Value::Object(actual)) if expected.keys().eq(actual.keys()) => expected
                .iter()
                .zip(actual.values())
                .try_for_each(|((_, expected), actual)| self.fits(expected, actual, times)),
            (expected, actual) if expected == actual => Ok(()),
            (expected, actual) => Err(format!("{actual}, expected {expected}")),
        }
    }

    fn text_fits(&self, expected: &str, actual: &str, times: &Times) -> Result<(), String> {
        let (mut expected, mut left) = (expected, actual);
        while !expected.is_empty() {
            let at = expected.find('<').unwrap_or(expected.len());
            let (literal, rest) = expected.split_at(at);
            left = left.strip_prefix(literal).ok_or_else(|| differs(literal, left))?;
            let Some(end) = rest.find('>') else {
                // No placeholder follows.
                left = left.strip_prefix(rest).ok_or_else(|| differs(rest, left))?;
                break;
            };
            let (placeholder, rest) = rest.split_at(end + 1);
            left = self.value_fits(placeholder, left, times)?;
            expected = rest;
        }
        if left.is_empty() { Ok(()) } else { Err(differs("the end", left)) }
    }

    /// Removes the value of a placeholder from the front of a text.
    fn value_fits<'a>(&self, placeholder: &str, text: &'a str, times: &Times) -> Result<&'a str, String> {
        let inside = &placeholder[1..placeholder.len() - 1];
        if inside == "revision" {
            let revision = text.strip_prefix("sha256:").filter(|digest| digest.len() >= 64);
            let fits =
                revision.is_some_and(|digest| digest[..64].bytes().all(|byte| byte.is_ascii_hexdigit()));
            return if fits { Ok(&text["sha256:".len() + 64..]) } else { Err(differs(placeholder, text)) };
        }
        if matches!(inside, "previous" | "head") {
            let fits = text.len() >= 64 && text[..64].bytes().all(|byte| byte.is_ascii_hexdigit());
            return if fits { Ok(&text[64..]) } else { Err(differs(placeholder, text)) };
        }
        if let Some(ahead) = inside.strip_prefix("now") {
            let seconds = ahead.strip_prefix('+').map_or(0, |seconds| seconds.parse().unwrap());
            let digits = text.find(|next: char| !next.is_ascii_digit()).unwrap_or(text.len());
            let fits = text[..digits].parse().is_ok_and(|at| times.contain(at, seconds));
            return if fits { Ok(&text[digits..]) } else { Err(differs(placeholder, text)) };
        }
        match self.0.iter().find(|(name, _)| name == placeholder) {
            Some((_, value)) => text.strip_prefix(value.as_str()).ok_or_else(|| differs(placeholder, text)),
            None => text.strip_prefix(placeholder).ok_or_else(|| differs(placeholder, text)),
        }
    }

    /// Replaces values in a text with their placeholders.
    fn template(&self, text: &str, times: &Times) -> String {
        // A version may be a digit, which stands in other texts as well.
        let known = self.0.iter().filter(|(name, _)| !name.ends_with(".version>"));
        let mut template = known.fold(text.to_owned(), |text, (name, value)| text.replace(value, name));
        for (field, placeholder) in [(r#""previous":""#, "<previous>"), (r#","audit":""#, "<head>")] {
            let parts: Vec<_> = template.split(field).map(str::to_owned).collect();
            let others = parts[1..].iter().map(|part| format!("{field}{placeholder}{}", &part[64..]));
            template = parts[0].clone() + &others.collect::<String>();
        }
        let mut with_times = String::new();
        let mut left = template.as_str();
        while let Some(at) = left.find(|next: char| next.is_ascii_digit()) {
            let rest = &left[at..];
            let digits = rest.find(|next: char| !next.is_ascii_digit()).unwrap_or(rest.len());
            with_times += &left[..at];
            match rest[..digits].parse().ok().and_then(|at| times.seconds_ahead(at)) {
                Some(0) => with_times.push_str("<now>"),
                Some(seconds) => write!(with_times, "<now+{seconds}>").unwrap(),
                None => with_times.push_str(&rest[..digits]),
            }
            left = &rest[digits..];
        }
        with_times + left
    }

    fn value_template(&self, value: &Value, times: &Times) -> Value {
        match value {
            Value::Number(number) => {
                let template = self.template(&number.to_string(), times);
                if template.starts_with('<') { template.into() } else { value.clone() }
            }
            Value::String(text) => self.template(text, times).into(),
            Value::Array(items) => items.iter().map(|item| self.value_template(item, times)).collect(),
            Value::Object(fields) => {
                let template = |(name, field): (&String, &Value)| {
                    let field = match (name.as_str(), field) {
                        ("version", Value::String(version)) => {
                            let known = |(name, value): &&(String, String)| {
                                value == version && name.ends_with(".version>")
                            };
                            self.0
                                .iter()
                                .find(known)
                                .map_or_else(|| field.clone(), |(name, _)| name.as_str().into())
                        }
                        ("audit-head", Value::String(_)) => "<head>".into(),
                        _ => self.value_template(field, times),
                    };
                    (name.clone(), field)
                };
                fields.iter().map(template).collect()
            }
            value => value.clone(),
        }
    }
}

/// Returns whether this is a random UUID (RFC 9562, version 4), in lower case.
fn is_uuid(text: &str) -> bool {
    let groups: Vec<_> = text.split('-').collect();
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups[2].starts_with('4')
        && groups[3].starts_with(['8', '9', 'a', 'b'])
        && text.bytes().all(|byte| matches!(byte, b'-' | b'0'..=b'9' | b'a'..=b'f'))
}

/// Returns whether this has the form of a secret: 512 bits, so only two bits of its last digit
/// count.
fn is_secret(text: &str) -> bool {
    let digits = text.strip_prefix("apiv3_").unwrap_or_default();
    digits.len() == 86
        && digits.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        && digits.ends_with(['A', 'Q', 'g', 'w'])
}

fn differs(expected: &str, actual: &str) -> String {
    let shown: String = actual.chars().take(200).collect();
    format!("{shown:?}, expected {expected:?}")
}

/// Rewrites the expected results with those of this runner.
pub(crate) fn bless(play: impl Fn(&Case) -> CaseResult) {
    // The core alone cannot describe a component.
    for case in read_cases().into_iter().filter(|case| !case.needs_component()) {
        let below = tempfile::tempdir().unwrap();
        let mut given = case.copy_for_runner(below.path());
        let from = SystemTime::now();
        let result = play(&given);
        let times = Times::since(from);
        let known = Known::of(&case, &result);
        for (call, answer) in given.calls.iter_mut().zip(&result.answers) {
            call.answer = known.value_template(answer, &times);
        }
        // A line for each call, and its answer on the next.
        let calls: Vec<_> = given
            .calls
            .iter()
            .map(|call| {
                let name =
                    call.name.as_ref().map(|name| format!(r#", "as": {}"#, Value::from(name.as_str())));
                let (function, args) = (Value::from(call.function.as_str()), Value::from(call.args.clone()));
                format!(
                    "  {{ \"call\": {function}, \"args\": {args}{},\n    \"answer\": {} }}",
                    name.unwrap_or_default(),
                    call.answer
                )
            })
            .collect();
        fs::write(case.directory.join("calls.json"), format!("[\n{}\n]\n", calls.join(",\n"))).unwrap();
        let after = case.directory.join("after.jsonl");
        match result.document {
            // A generated document is not written.
            Some(document)
                if case.directory.join("before.json").exists() && Some(&document) == case.before.as_ref() => {
            }
            Some(document) => fs::write(after, known.template(&document, &times)).unwrap(),
            None => drop(fs::remove_file(after)),
        }
    }
}

/// Calls with one argument too many, one too few, of an unknown function, and with a name that an
/// enum does not have.
pub(crate) const INVALID_CALLS: [&str; 7] = [
    r#"{ "call": "tokens.create-operator", "args": ["conformance", "conformance"] }"#,
    r#"{ "call": "tokens.create-operator", "args": [] }"#,
    r#"{ "call": "tokens.create", "args": ["conformance"] }"#,
    r#"{ "call": "recovery.regenerate", "args": ["conformance", "theft"] }"#,
    r#"{ "call": "authenticator.authorize", "args": ["x", { "method": "GET", "host": "", "path": "/", "query": null, "target": "all" }] }"#,
    r#"{ "call": "authenticator.authorize", "args": ["x", { "method": "GET", "host": "", "path": "/", "query": null }] }"#,
    r#"{ "call": "authenticator.authorize", "args": ["x", { "method": "GET", "host": "", "path": "/", "query": null, "target": { "database": { "name": "a", "action": "drop" } } }] }"#,
];

/// A directory with the one case `invalid`, which makes this call.
pub(crate) fn invalid_case(call: &str) -> TempDir {
    let below = tempfile::tempdir().unwrap();
    fs::create_dir(below.path().join("invalid")).unwrap();
    fs::write(below.path().join("invalid/calls.json"), format!("[{call}]")).unwrap();
    below
}
