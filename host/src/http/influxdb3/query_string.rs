//! The parameters of a query string or a form that decide about a request.

use super::target::Refusal;

/// The keys that decide. Other parameters change how a result looks.
const DECIDING: [&str; 4] = ["db", "bucket", "rp", "q"];

/// The deciding parameters, each at most once.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Parameters(Vec<(&'static str, String)>);

impl Parameters {
    /// Reads `application/x-www-form-urlencoded`.
    ///
    /// Servers disagree on a key that stands twice, and on an invalid encoding: both are refused.
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        let mut parameters = Self::default();
        for pair in text.split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (decode(key)?, decode(value)?);
            if let Some(key) = DECIDING.into_iter().find(|name| *name == key) {
                parameters.insert(key, value)?;
            }
        }
        Ok(parameters)
    }

    /// Adds those of a form, none of which may stand in the query string, too.
    pub(super) fn merge(mut self, form: Self) -> Result<Self, Refusal> {
        for (key, value) in form.0 {
            self.insert(key, value)?;
        }
        Ok(self)
    }

    /// Returns the value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| *name == key).map(|(_, value)| value.as_str())
    }

    fn insert(&mut self, key: &'static str, value: String) -> Result<(), Refusal> {
        if self.get(key).is_some() {
            return Err("a parameter stands twice");
        }
        self.0.push((key, value));
        Ok(())
    }
}

fn decode(text: &str) -> Result<String, Refusal> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, behind)) = rest.split_first() {
        rest = behind;
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |digit: &u8| char::from(*digit).to_digit(16);
                let [high, low, behind @ ..] = behind else { return Err(INVALID_ENCODING) };
                let (Some(high), Some(low)) = (digit(high), digit(low)) else { return Err(INVALID_ENCODING) };
                rest = behind;
                u8::try_from(high * 16 + low).map_err(|_| INVALID_ENCODING)?
            }
            byte => *byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| INVALID_ENCODING)
}

const INVALID_ENCODING: Refusal = "the parameters have an invalid encoding";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_once() {
        for (text, key, value) in [
            ("db=a", "db", Some("a")),
            ("precision=ns&db=a&no_sync=true", "db", Some("a")),
            ("db=a%2Fb", "db", Some("a/b")),
            ("db=a%252Fb", "db", Some("a%2Fb")),
            ("d%62=%61", "db", Some("a")),
            ("db=a+b", "db", Some("a b")),
            ("db=a%2Bb", "db", Some("a+b")),
            ("db=a=b", "db", Some("a=b")),
            ("db==a", "db", Some("=a")),
            ("db", "db", Some("")),
            ("db=", "db", Some("")),
            ("&&db=a&", "db", Some("a")),
            ("DB=a", "db", None),
            (" db=a", "db", None),
            ("db =a", "db", None),
            ("db%00=a", "db", None),
            ("database=a", "db", None),
            ("db[]=a", "db", None),
            ("x=1;db=a", "db", None),
            ("", "db", None),
            ("q=%C3%A9", "q", Some("\u{e9}")),
            ("q=\u{e9}", "q", Some("\u{e9}")),
            ("x=1&x=2&bucket=b", "bucket", Some("b")),
            ("rp=r&db=a", "rp", Some("r")),
        ] {
            assert_eq!(Parameters::parse(text).unwrap().get(key), value, "{text:?}");
        }
    }

    #[test]
    fn uncertain_parameters_are_refused() {
        for (text, reason) in [
            ("db=a&db=b", "a parameter stands twice"),
            ("db=a&db=a", "a parameter stands twice"),
            ("db=a&db", "a parameter stands twice"),
            ("db=a&d%62=b", "a parameter stands twice"),
            ("q=a&db=a&q=", "a parameter stands twice"),
            ("bucket=a&bucket=b", "a parameter stands twice"),
            ("rp=&rp=b", "a parameter stands twice"),
            ("db=%", INVALID_ENCODING),
            ("db=%6", INVALID_ENCODING),
            ("db=%zz", INVALID_ENCODING),
            ("db=%+1", INVALID_ENCODING),
            ("db=%FF", INVALID_ENCODING),
            ("db=%C3", INVALID_ENCODING),
            ("db=%c0%af", INVALID_ENCODING),
            ("db=a&x=%", INVALID_ENCODING),
            ("%=1&db=a", INVALID_ENCODING),
            ("db=%u0061", INVALID_ENCODING),
        ] {
            assert_eq!(Parameters::parse(text), Err(reason), "{text:?}");
        }
    }

    #[test]
    fn form_and_query_string_share_no_key() {
        let parse = |text| Parameters::parse(text).unwrap();
        let merged = parse("db=a").merge(parse("q=b")).unwrap();
        assert_eq!((merged.get("db"), merged.get("q")), (Some("a"), Some("b")));
        assert_eq!(parse("db=a").merge(parse("db=a")), Err("a parameter stands twice"));
    }
}
