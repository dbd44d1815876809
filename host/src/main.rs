//! The `influxdb3` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    optoken::cli::run()
}
