//! The URL of an object store: a bucket, the prefix in it, and the way there.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;

use object_store::path::Path;
use url::Url;

use crate::store::remote::ConnectError;

/// The kind of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cloud {
    /// The S3 API, of Amazon and many others.
    S3,
    /// Google Cloud Storage.
    Google,
    /// Azure Blob Storage.
    Azure,
}

impl Cloud {
    fn of_scheme(scheme: &str) -> Option<Self> {
        match scheme {
            "s3" => Some(Self::S3),
            "gs" => Some(Self::Google),
            "az" => Some(Self::Azure),
            _ => None,
        }
    }

    fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Google => "gs",
            Self::Azure => "az",
        }
    }

    /// Begins the names of the variables that configure the client.
    pub(super) fn variables(self) -> &'static str {
        match self {
            Self::S3 => "AWS_",
            Self::Google => "GOOGLE_",
            Self::Azure => "AZURE_",
        }
    }

    fn options(self) -> &'static [&'static str] {
        match self {
            Self::S3 => &["allow_http", "ca", "endpoint", "region"],
            Self::Google | Self::Azure => &["allow_http", "ca", "endpoint"],
        }
    }
}

/// A URL, read.
#[derive(Debug, Clone)]
pub(super) struct Address {
    pub(super) cloud: Cloud,
    /// The bucket, which Azure calls container.
    pub(super) bucket: String,
    prefix: Path,
    pub(super) endpoint: Option<Url>,
    pub(super) region: Option<String>,
    pub(super) allow_http: bool,
    /// The only authorities to trust, in PEM.
    pub(super) ca: Option<PathBuf>,
    /// The URL in one form. It has no secret.
    pub(super) text: String,
}

impl Address {
    pub(super) fn parse(text: &str) -> Result<Self, ConnectError> {
        let scheme = text.split_once("://").map_or("", |(scheme, _)| scheme);
        let cloud = Cloud::of_scheme(scheme).ok_or_else(|| ConnectError::Url {
            url: "URL of an object store".to_owned(),
            reason: "it must begin with s3://, gs:// or az://".to_owned(),
        })?;
        // A text that is no URL may have a secret anywhere.
        let mut shown = format!("{scheme}://…");
        let url = Url::parse(text).map_err(|error| wrong(&shown, &error.to_string()))?;
        if !url.username().is_empty() || url.password().is_some() {
            let variables = cloud.variables();
            let reason = format!(
                "it must have no user and no password: credentials come from the environment ({variables}…)"
            );
            return Err(wrong(&shown, &reason));
        }
        let bucket = url.host_str().unwrap_or_default().to_owned();
        let is_plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(&byte);
        if bucket.is_empty() || !bucket.bytes().all(is_plain) {
            let reason = format!(
                "after {scheme}:// it must have the name of a bucket, of lower-case letters, digits, '-', '.' and '_'"
            );
            return Err(wrong(&shown, &reason));
        }
        shown = format!("{scheme}://{bucket}{}", url.path().trim_end_matches('/'));
        let wrong = |reason: &str| wrong(&shown, reason);
        if url.port().is_some() {
            return Err(wrong("it must have no port; the address of another store is ?endpoint=https://…"));
        }
        if url.fragment().is_some() {
            return Err(wrong("it must have no fragment; write '#' as %23"));
        }
        // The parser of URLs has removed such parts already.
        let written =
            text.split(['?', '#']).next().unwrap_or_default().to_ascii_lowercase().replace("%2e", ".");
        if written.split('/').skip(3).any(|part| matches!(part, "." | "..")) {
            return Err(wrong("the prefix cannot have a part of dots"));
        }
        let prefix = Path::from_url_path(url.path().trim_end_matches('/'))
            .map_err(|error| wrong(&format!("the prefix cannot be used: {error}")))?;
        let mut address = Self {
            cloud,
            bucket,
            prefix,
            endpoint: None,
            region: None,
            allow_http: false,
            ca: None,
            text: String::new(),
        };
        for (key, value) in url.query_pairs() {
            address.set(&key, &value).map_err(|reason| wrong(&reason))?;
        }
        shown.push_str(&address.shown_options());
        address.text = shown;
        Ok(address)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "endpoint" => self.endpoint = Some(endpoint(value)?),
            "region" if self.cloud == Cloud::S3 => self.region = Some(value.to_owned()),
            "allow_http" => {
                self.allow_http = value.parse().map_err(|_| "allow_http must be true or false".to_owned())?;
            }
            "ca" => self.ca = Some(value.into()),
            _ => {
                let known = self.cloud.options().join(", ");
                let scheme = self.cloud.scheme();
                return Err(format!("it has the unknown option {key:?}; {scheme}:// has {known}"));
            }
        }
        Ok(())
    }

    /// The options as a part of a URL.
    fn shown_options(&self) -> String {
        let mut options = url::form_urlencoded::Serializer::new(String::new());
        if let Some(endpoint) = &self.endpoint {
            options.append_pair("endpoint", endpoint.as_str().trim_end_matches('/'));
        }
        if let Some(region) = &self.region {
            options.append_pair("region", region);
        }
        if self.allow_http {
            options.append_pair("allow_http", "true");
        }
        if let Some(ca) = &self.ca {
            options.append_pair("ca", &ca.to_string_lossy());
        }
        let options = options.finish();
        // A URL with its colons and slashes is easier to read, and as valid in a query.
        let options = options.replace("%3A", ":").replace("%2F", "/");
        if options.is_empty() { options } else { format!("?{options}") }
    }

    /// The path of an object beside the catalog.
    pub(super) fn object(&self, name: &str) -> Path {
        self.prefix.clone().join(name)
    }

    /// Whether requests leave the machine without encryption.
    pub(super) fn is_exposed(&self) -> bool {
        self.endpoint.as_ref().is_some_and(|url| url.scheme() == "http" && !is_loopback(url))
    }

    pub(super) fn is_loopback(&self) -> bool {
        self.endpoint.as_ref().is_some_and(is_loopback)
    }

    /// Whether the engine writes one name once a second only.
    pub(super) fn is_slow(&self) -> bool {
        let is_r2 =
            |url: &Url| url.host_str().is_some_and(|host| host.ends_with(".r2.cloudflarestorage.com"));
        self.cloud == Cloud::Google || self.endpoint.as_ref().is_some_and(is_r2)
    }

    /// Sets the endpoint of the environment, if the URL has none.
    pub(super) fn set_default_endpoint(&mut self, variable: &str, value: &str) -> Result<(), ConnectError> {
        if self.endpoint.is_none() {
            let reason = |reason: String| wrong(&self.text, &format!("{variable}: {reason}"));
            self.endpoint = Some(endpoint(value).map_err(reason)?);
            let options = self.text.find('?').unwrap_or(self.text.len());
            self.text.truncate(options);
            let options = self.shown_options();
            let _ = write!(self.text, "{options}");
        }
        Ok(())
    }

    /// Rejects a way that shows the catalog to the network, unless that was asked for.
    pub(super) fn check_encryption(&self) -> Result<(), ConnectError> {
        if self.is_exposed() && !self.allow_http {
            return Err(wrong(
                &self.text,
                "the endpoint has no TLS, so the network could read and change the catalog. Use https://, or \
                 add allow_http=true if nothing else can reach that network",
            ));
        }
        Ok(())
    }
}

fn wrong(url: &str, reason: &str) -> ConnectError {
    ConnectError::Url { url: url.to_owned(), reason: reason.to_owned() }
}

fn endpoint(value: &str) -> Result<Url, String> {
    const FORM: &str = "endpoint must be https://HOST or http://HOST, with a port and a path as needed";
    let url = Url::parse(value).map_err(|error| format!("{FORM}: {error}"))?;
    let is_bare = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if matches!(url.scheme(), "http" | "https") && url.host().is_some() && is_bare {
        Ok(url)
    } else {
        Err(FORM.to_owned())
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        let address =
            Address::parse("s3://a-bucket/one/two/?region=eu-central-1&endpoint=http://127.0.0.1:9000/")
                .unwrap();
        assert_eq!(address.bucket, "a-bucket");
        assert_eq!(address.object("catalog").as_ref(), "one/two/catalog");
        assert_eq!(address.text, "s3://a-bucket/one/two?endpoint=http://127.0.0.1:9000&region=eu-central-1");
        address.check_encryption().unwrap();
        assert_eq!(Address::parse("gs://b").unwrap().object("catalog").as_ref(), "catalog");
        assert_eq!(Address::parse("az://b/").unwrap().text, "az://b");
        let text = &address.text;
        assert_eq!(Address::parse(text).unwrap().text, *text);
    }

    #[test]
    fn wrong_urls_are_named_without_their_secrets() {
        for (url, part) in [
            ("https://b/p", "must begin with s3://, gs:// or az://"),
            ("s3:///p", "name of a bucket"),
            ("s3://KEY:SECRET@b/p", "credentials come from the environment (AWS_…)"),
            ("s3://B/p", "lower-case"),
            ("s3://b:9000/p", "?endpoint=https://…"),
            ("s3://b/p#x", "fragment"),
            ("s3://b/p//q", "the prefix cannot be used"),
            ("s3://b/../q", "a part of dots"),
            ("s3://b/p/%2E%2e?region=x", "a part of dots"),
            (
                "s3://b/p?access_key=SECRET",
                "unknown option \"access_key\"; s3:// has allow_http, ca, endpoint, region",
            ),
            ("gs://b/p?region=x", "unknown option \"region\"; gs:// has allow_http, ca, endpoint"),
            ("s3://b/p?allow_http=yes", "must be true or false"),
            ("s3://b/p?endpoint=127.0.0.1:9000", "endpoint must be https://HOST"),
            ("s3://b/p?endpoint=https://u:SECRET@h", "endpoint must be https://HOST"),
        ] {
            let error = Address::parse(url).unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains("SECRET"), "{url}: {error}");
        }
    }

    #[test]
    fn plain_text_beyond_loopback_needs_an_option() {
        for (endpoint, accepted) in [
            ("http://127.0.0.1:9000", true),
            ("http://[::1]:9000", true),
            ("http://localhost", true),
            ("https://store.example", true),
            ("http://store.example", false),
            ("http://10.0.0.1", false),
            ("http://127.0.0.1.example", false),
        ] {
            let address = Address::parse(&format!("s3://b?endpoint={endpoint}")).unwrap();
            assert_eq!(address.check_encryption().is_ok(), accepted, "{endpoint}");
            let allowed = Address::parse(&format!("s3://b?endpoint={endpoint}&allow_http=true")).unwrap();
            allowed.check_encryption().unwrap();
        }
    }

    #[test]
    fn endpoint_of_the_environment_counts_like_that_of_the_url() {
        let mut address = Address::parse("s3://b/p?region=x").unwrap();
        address.set_default_endpoint("AWS_ENDPOINT_URL", "http://store.example").unwrap();
        assert_eq!(address.text, "s3://b/p?endpoint=http://store.example&region=x");
        address.check_encryption().unwrap_err();
        address.set_default_endpoint("AWS_ENDPOINT_URL", "https://other.example").unwrap();
        assert_eq!(address.endpoint.unwrap().host_str(), Some("store.example"));
    }
}
