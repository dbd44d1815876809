//! Reads the cases, lets a runner play them, and compares what came back, byte for byte but for what cannot be the same twice.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha512, Sha512_256};

/// How far the clock of a runner may be from this one: it is of the same machine, but counts in milliseconds.
const TOLERANCE: Duration = Duration::from_millis(2);

/// The longest that anything lasts in a case, in seconds: whatever lies further ahead is no time from now.
const LONGEST: u64 = 31 * 24 * 60 * 60;

/// Where the cases are.
pub(crate) fn cases_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/conformance/cases")
}

/// One directory of `cases`.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) before: Option<String>,
    pub(crate) calls: Vec<Call>,
    after: Option<String>,
}

#[derive(Serialize, Deserialize)]
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

/// What a runner tells of a case: its line.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Played {
    pub(crate) case: String,
    pub(crate) answers: Vec<Value>,
    pub(crate) document: Option<String>,
}

/// What calls have answered that have a name, for the arguments of later ones.
#[derive(Default)]
pub(crate) struct Answered(BTreeMap<String, Value>);

impl Answered {
    pub(crate) fn keep(&mut self, call: &Call, answer: &Value) {
        if let Some(name) = &call.name {
            self.0.insert(name.clone(), answer["ok"].clone());
        }
    }

    /// The arguments of a call, with `<NAME.FIELD>` replaced.
    pub(crate) fn arguments(&self, call: &Call) -> Vec<Value> {
        let replaced = |argument: &Value| {
            let reference = argument.as_str().and_then(|text| text.strip_prefix('<')?.strip_suffix('>'));
            let Some((name, field)) = reference.and_then(|reference| reference.split_once('.')) else {
                return argument.clone();
            };
            self.0[name][field].clone()
        };
        call.args.iter().map(replaced).collect()
    }
}

fn read_cases() -> Vec<Case> {
    let mut directories: Vec<_> =
        fs::read_dir(cases_dir()).unwrap().map(|entry| entry.unwrap().path()).collect();
    directories.sort();
    let cases = directories.into_iter().map(|directory| Case {
        name: directory.file_name().unwrap().to_str().unwrap().to_owned(),
        before: fs::read_to_string(directory.join("before.jsonl")).ok(),
        calls: serde_json::from_str(&fs::read_to_string(directory.join("calls.json")).unwrap())
            .unwrap_or_else(|error| panic!("{}: {error}", directory.display())),
        after: fs::read_to_string(directory.join("after.jsonl")).ok(),
    });
    cases.collect()
}

/// Lets a runner play all cases, and tells how many there were.
#[track_caller]
pub(crate) fn judge(runner: &str, play: impl FnOnce(&[Case]) -> Vec<Played>) {
    let cases = read_cases();
    assert!(!cases.is_empty());
    let from = SystemTime::now() - TOLERANCE;
    let played = play(&cases);
    let times = Times { from, to: SystemTime::now() + TOLERANCE };
    let names = |played: &Played| played.case.clone();
    let expected: Vec<_> = cases.iter().map(|case| case.name.clone()).collect();
    assert_eq!(played.iter().map(names).collect::<Vec<_>>(), expected, "{runner} has played other cases");
    let failed: Vec<_> = cases
        .iter()
        .zip(&played)
        .filter_map(|(case, played)| {
            let failure = compare(case, played, &times).err()?;
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
    println!(
        "{runner}: {} cases, {} calls",
        cases.len(),
        cases.iter().map(|case| case.calls.len()).sum::<usize>()
    );
}

/// When the cases were played.
struct Times {
    from: SystemTime,
    to: SystemTime,
}

impl Times {
    /// Whether this time, in milliseconds since the epoch, is so many seconds from when the cases were played.
    fn hold(&self, at: u64, seconds: u64) -> bool {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(at);
        let ahead = Duration::from_secs(seconds);
        (self.from + ahead..=self.to + ahead).contains(&at)
    }

    /// How many seconds from then this time is, if it is one.
    fn seconds_ahead(&self, at: u64) -> Option<u64> {
        let from = self.from.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
        let ahead = u64::try_from(u128::from(at).checked_sub(from)? / 1000).unwrap();
        (ahead.saturating_sub(1)..=ahead).find(|seconds| *seconds <= LONGEST && self.hold(at, *seconds))
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

fn compare(case: &Case, played: &Played, times: &Times) -> Result<(), String> {
    let known = Known::of(case, played);
    if played.answers.len() != case.calls.len() {
        return Err(format!("{} answers to {} calls", played.answers.len(), case.calls.len()));
    }
    for (number, (call, answer)) in case.calls.iter().zip(&played.answers).enumerate() {
        known.fits(&call.answer, answer, times).map_err(|difference| {
            format!("call {}, {}: {difference}\n  in {answer}", number + 1, call.function)
        })?;
    }
    match (&case.after, &played.document) {
        (None, None) => Ok(()),
        (Some(after), Some(document)) => {
            known
                .text_fits(after, document, times)
                .map_err(|difference| format!("document: {difference}"))?;
            check_chain(document)
        }
        (after, document) => Err(format!("the document should be {after:?} and is {document:?}")),
    }
}

/// Every audit record names the hash of the line before it, and the header that of the last.
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
        // The oldest that is kept names one that is not.
        pair[0].starts_with(r#"{"sequence":"#).then_some((pair[0], previous))
    });
    for (line, previous) in linked {
        if hex(&Sha512_256::digest(line)) != previous {
            return Err(format!("the chain is broken behind {line}"));
        }
    }
    Ok(())
}

/// What stands for what in one case: the secrets that were made in it, their hashes, and the name of the catalog.
struct Known(Vec<(String, String)>);

impl Known {
    fn of(case: &Case, played: &Played) -> Self {
        let mut known = Vec::new();
        for (call, answer) in case.calls.iter().zip(&played.answers) {
            if let (Some(name), Some(secret)) = (&call.name, answer["ok"]["secret"].as_str()) {
                known.push((format!("<{name}.secret>"), secret.to_owned()));
                known.push((format!("<sha512 of {name}.secret>"), sha512(secret)));
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
            (expected, actual) => Err(format!("{actual} where {expected} should be")),
        }
    }

    fn text_fits(&self, expected: &str, actual: &str, times: &Times) -> Result<(), String> {
        let (mut expected, mut left) = (expected, actual);
        while !expected.is_empty() {
            let at = expected.find('<').unwrap_or(expected.len());
            let (literal, behind) = expected.split_at(at);
            left = left.strip_prefix(literal).ok_or_else(|| differs(literal, left))?;
            let Some(end) = behind.find('>') else {
                // There is no placeholder any more.
                left = left.strip_prefix(behind).ok_or_else(|| differs(behind, left))?;
                break;
            };
            let (placeholder, behind) = behind.split_at(end + 1);
            left = self.value_fits(placeholder, left, times)?;
            expected = behind;
        }
        if left.is_empty() { Ok(()) } else { Err(differs("the end", left)) }
    }

    /// Takes what stands for a placeholder off the front of a text.
    fn value_fits<'a>(&self, placeholder: &str, text: &'a str, times: &Times) -> Result<&'a str, String> {
        let inside = &placeholder[1..placeholder.len() - 1];
        if matches!(inside, "previous" | "head") {
            let fits = text.len() >= 64 && text[..64].bytes().all(|byte| byte.is_ascii_hexdigit());
            return if fits { Ok(&text[64..]) } else { Err(differs(placeholder, text)) };
        }
        if let Some(ahead) = inside.strip_prefix("now") {
            let seconds = ahead.strip_prefix('+').map_or(0, |seconds| seconds.parse().unwrap());
            let digits = text.find(|next: char| !next.is_ascii_digit()).unwrap_or(text.len());
            let fits = text[..digits].parse().is_ok_and(|at| times.hold(at, seconds));
            return if fits { Ok(&text[digits..]) } else { Err(differs(placeholder, text)) };
        }
        match self.0.iter().find(|(name, _)| name == placeholder) {
            Some((_, value)) => text.strip_prefix(value.as_str()).ok_or_else(|| differs(placeholder, text)),
            None => text.strip_prefix(placeholder).ok_or_else(|| differs(placeholder, text)),
        }
    }

    /// The text with placeholders in it.
    fn template(&self, text: &str, times: &Times) -> String {
        let mut template =
            self.0.iter().fold(text.to_owned(), |text, (name, value)| text.replace(value, name));
        for (field, placeholder) in [(r#""previous":""#, "<previous>"), (r#","audit":""#, "<head>")] {
            let parts: Vec<_> = template.split(field).map(str::to_owned).collect();
            let others = parts[1..].iter().map(|part| format!("{field}{placeholder}{}", &part[64..]));
            template = parts[0].clone() + &others.collect::<String>();
        }
        let mut with_times = String::new();
        let mut left = template.as_str();
        while let Some(at) = left.find(|next: char| next.is_ascii_digit()) {
            let behind = &left[at..];
            let digits = behind.find(|next: char| !next.is_ascii_digit()).unwrap_or(behind.len());
            with_times += &left[..at];
            match behind[..digits].parse().ok().and_then(|at| times.seconds_ahead(at)) {
                Some(0) => with_times.push_str("<now>"),
                Some(seconds) => write!(with_times, "<now+{seconds}>").unwrap(),
                None => with_times.push_str(&behind[..digits]),
            }
            left = &behind[digits..];
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
                fields.iter().map(|(name, field)| (name.clone(), self.value_template(field, times))).collect()
            }
            value => value.clone(),
        }
    }
}

fn is_uuid(text: &str) -> bool {
    let groups: Vec<_> = text.split('-').map(str::len).collect();
    groups == [8, 4, 4, 4, 12] && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}

fn differs(expected: &str, actual: &str) -> String {
    let shown: String = actual.chars().take(200).collect();
    format!("{shown:?} where {expected:?} should be")
}

/// Writes anew what must come back, as this runner has it.
pub(crate) fn bless(play: impl Fn(&Case) -> Played) {
    for mut case in read_cases() {
        let from = SystemTime::now() - TOLERANCE;
        let played = play(&case);
        let times = Times { from, to: SystemTime::now() + TOLERANCE };
        let known = Known::of(&case, &played);
        for (call, answer) in case.calls.iter_mut().zip(&played.answers) {
            call.answer = known.value_template(answer, &times);
        }
        let directory = cases_dir().join(&case.name);
        // A line for each call, its answer below.
        let calls: Vec<_> = case
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
        fs::write(directory.join("calls.json"), format!("[\n{}\n]\n", calls.join(",\n"))).unwrap();
        let after = directory.join("after.jsonl");
        match played.document {
            Some(document) => fs::write(after, known.template(&document, &times)).unwrap(),
            None => drop(fs::remove_file(after)),
        }
    }
}
