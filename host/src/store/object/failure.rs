//! What a failed request means, for the write and for the operator.

use http::StatusCode;

use super::transport::Facts;

/// Errors with the status of a lost race, but of another cause. Nothing was written.
const NO_RACE: [&str; 6] = [
    "AccountBeingCreated",
    "BlobImmutableDueToPolicy",
    "ContainerBeingDeleted",
    "InvalidObjectState",
    "LeaseIdMissing",
    "ObjectLocked",
];

/// The errors of a bucket that does not exist.
const NO_BUCKET: [&str; 3] = ["ContainerNotFound", "NoSuchBucket", "ResourceNotFound"];

/// The longest text of the engine in an error.
const MAX_TEXT: usize = 200;

/// What is certain after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// There is no such object.
    Missing,
    /// There is nothing at this address, which may be a wrong one.
    Nameless,
    /// The condition of a write was not met, by the answer.
    Refused,
    /// Nothing was read or written, and a repetition fails as well.
    Denied,
    /// Nothing was read or written, as no connection was made.
    Unreached,
    /// Nothing was written, because too much was.
    Limited,
    /// The engine cannot hold a catalog.
    Unfit,
    /// The object is none of this program.
    Foreign,
    /// Anything may have happened.
    Unclear,
}

/// A failed request.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) kind: Kind,
    /// What happened and what to do, for a sentence after the address.
    pub(super) text: String,
}

impl Failure {
    pub(super) fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    pub(super) fn of(error: &object_store::Error, facts: &Facts) -> Self {
        let Some(status) = facts.status else { return Self::without_answer(error, facts) };
        let body = error.to_string();
        let code = facts.code.clone().or_else(|| element(&body, "Code"));
        let message = element(&body, "Message").map_or_else(String::new, |text| format!(": {text}"));
        let name = code.as_deref().unwrap_or_default();
        let kind = kind_of(status, name);
        let answer = format!("it answered {} {name}", status.as_u16());
        let answer = format!("{}{message}", answer.trim_end());
        let text = match advice(status, name, facts) {
            None => answer,
            Some(advice) => format!("{answer}. {advice}"),
        };
        Self { kind, text }
    }

    /// The failure of a deletion, whose answer is known from its error only.
    pub(super) fn of_removal(object: &str, error: &object_store::Error) -> Self {
        let body = error.to_string();
        let cause = match (element(&body, "Code"), element(&body, "Message")) {
            (Some(code), Some(message)) => format!("it answered {code}: {message}"),
            (Some(code), None) => format!("it answered {code}"),
            (None, _) => printable(&body),
        };
        Self::new(Kind::Unclear, format!("{object} cannot be removed: {cause}"))
    }

    fn without_answer(error: &object_store::Error, facts: &Facts) -> Self {
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        let cause = printable(&cause.to_string());
        if !facts.sent {
            let text = format!(
                "it was not asked, because no credentials could be found: {cause}. Set the variables of the \
                 cloud, or give the machine a role"
            );
            return Self { kind: Kind::Unreached, text };
        }
        if facts.unreached {
            let text = format!("it cannot be reached: {cause}. Check the address and the network");
            return Self { kind: Kind::Unreached, text };
        }
        Self { kind: Kind::Unclear, text: format!("the connection ended without an answer: {cause}") }
    }

    /// The text for an operation that certainly changed nothing.
    pub(super) fn without_change(&self) -> String {
        match self.kind {
            Kind::Unclear => format!("{}. Check the store and the network", self.text),
            _ => self.text.clone(),
        }
    }

    /// Whether a read may succeed if it is repeated at once.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self.kind, Kind::Unreached | Kind::Limited | Kind::Unclear)
    }
}

fn kind_of(status: StatusCode, code: &str) -> Kind {
    match status.as_u16() {
        404 if matches!(code, "NoSuchKey" | "BlobNotFound") => Kind::Missing,
        404 if NO_BUCKET.contains(&code) => Kind::Denied,
        404 => Kind::Nameless,
        409 | 412 if NO_RACE.contains(&code) => Kind::Denied,
        409 | 412 => Kind::Refused,
        429 => Kind::Limited,
        // The body was read, but too slowly.
        400 if matches!(code, "" | "RequestTimeout") => Kind::Unclear,
        300..=308 | 400 | 401 | 403 | 405 | 411 | 413 | 414 | 415 | 431 | 501 => Kind::Denied,
        _ => Kind::Unclear,
    }
}

fn advice(status: StatusCode, code: &str, facts: &Facts) -> Option<String> {
    let advice = match (status.as_u16(), code) {
        (300..=308, _) => match &facts.region {
            Some(region) => return Some(format!("The bucket is in another region: set region={region}")),
            None => "The bucket is elsewhere: set region= or endpoint=",
        },
        (400 | 403, "RequestTimeTooSkewed" | "AuthenticationFailed") => {
            "Check the credentials, and the clock of this machine"
        }
        (400, "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired") => "Renew the credentials",
        (401, _) | (403, "InvalidAccessKeyId" | "SignatureDoesNotMatch") => "Check the credentials",
        (403, _) => {
            "The credentials must allow to read, write and delete objects below the prefix, and to list the \
             bucket: without that, a missing object is answered like a forbidden one"
        }
        (404, _) if NO_BUCKET.contains(&code) => "Create the bucket, or correct its name",
        (404, "NoSuchKey" | "BlobNotFound") => return None,
        (404, _) => "That is no answer of an object store: check endpoint=",
        (405 | 501, _) => "It cannot do this: a catalog needs a store with conditional writes",
        (429, _) => "It limits writes: repeat the command in a second",
        _ => return None,
    };
    Some(advice.to_owned())
}

/// Returns the text of an XML element, if the engine has sent one.
fn element(body: &str, name: &str) -> Option<String> {
    let (_, rest) = body.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    Some(printable(text))
}

/// Cuts a text that others have written. The query of a URL may have a signature.
fn printable(text: &str) -> String {
    let words = text.split_whitespace().map(|word| match word.split_once("://") {
        Some(_) => word.split('?').next().unwrap_or_default(),
        None => word,
    });
    let line: String = words.collect::<Vec<_>>().join(" ");
    line.chars().filter(|next| !next.is_control()).take(MAX_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(status: u16, code: &str) -> Failure {
        let body = format!("x <Error><Code>{code}</Code><Message>why</Message></Error>");
        let error = object_store::Error::Generic { store: "S3", source: body.into() };
        let facts = Facts { sent: true, status: StatusCode::from_u16(status).ok(), ..Facts::default() };
        Failure::of(&error, &facts)
    }

    #[test]
    fn only_certain_answers_mean_that_nothing_was_written() {
        for (status, code, kind) in [
            (412, "PreconditionFailed", Kind::Refused),
            (409, "ConditionalRequestConflict", Kind::Refused),
            (409, "BlobImmutableDueToPolicy", Kind::Denied),
            (404, "NoSuchKey", Kind::Missing),
            (404, "NoSuchBucket", Kind::Denied),
            (404, "Whatever", Kind::Nameless),
            (429, "SlowDown", Kind::Limited),
            (400, "ExpiredToken", Kind::Denied),
            (400, "RequestTimeout", Kind::Unclear),
            (403, "AccessDenied", Kind::Denied),
            (501, "NotImplemented", Kind::Denied),
            (307, "TemporaryRedirect", Kind::Denied),
            (408, "", Kind::Unclear),
            (500, "InternalError", Kind::Unclear),
            (503, "SlowDown", Kind::Unclear),
            (200, "InternalError", Kind::Unclear),
        ] {
            assert_eq!(failure(status, code).kind, kind, "{status} {code}");
        }
    }

    #[test]
    fn texts_have_the_next_step_and_no_signature() {
        assert_eq!(
            failure(404, "NoSuchBucket").text,
            "it answered 404 NoSuchBucket: why. Create the bucket, or correct its name"
        );
        assert_eq!(printable("GET https://h/p?sig=SECRET\n\u{7}in 3 ms"), "GET https://h/p in 3 ms");
        let removal = |body: String| {
            let error = object_store::Error::Generic { store: "S3", source: body.into() };
            Failure::of_removal("p/probe", &error).text
        };
        assert_eq!(
            removal("403: <Error><Code>AccessDenied</Code><Message>by\npolicy</Message></Error>".to_owned()),
            "p/probe cannot be removed: it answered AccessDenied: by policy"
        );
        let text = removal(format!("DELETE https://h/p?sig=SECRET \u{1b}[31m {}", "x".repeat(5000)));
        assert!(
            text.starts_with("p/probe cannot be removed: Generic S3 error: DELETE https://h/p ["),
            "{text}"
        );
        assert!(text.len() < 300, "{text}");
        let facts = Facts { region: Some("eu-west-1".to_owned()), ..Facts::default() };
        let text = advice(StatusCode::MOVED_PERMANENTLY, "PermanentRedirect", &facts).unwrap();
        assert_eq!(text, "The bucket is in another region: set region=eu-west-1");
    }
}
