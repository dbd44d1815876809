//! A store URL as an argument. It can hold a password, so no error repeats it.

use std::ffi::OsStr;

use clap::builder::TypedValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command};

use crate::store::StoreUrl;

/// Parses a store URL.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoreUrlParser;

impl TypedValueParser for StoreUrlParser {
    type Value = StoreUrl;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<StoreUrl, clap::Error> {
        let reason = match value.to_str().map(str::parse::<StoreUrl>) {
            Some(Ok(url)) => return Ok(url),
            Some(Err(error)) => error.to_string(),
            None => return Err(clap::Error::new(ErrorKind::InvalidUtf8).with_cmd(command)),
        };
        let named = arg.map(ToString::to_string).unwrap_or_default();
        let text = format!("invalid value for '{named}': {reason}");
        let mut error = command.clone().error(ErrorKind::ValueValidation, text);
        error.insert(ContextKind::InvalidArg, ContextValue::String(named));
        Err(error)
    }
}
