//! Options and variables of InfluxDB that concern no token (docs/compatibility.md 5.1).
//!
//! They are accepted without effect, so that a unit or compose file of InfluxDB starts this server
//! unchanged, and named in one line of the log. The lists have what InfluxDB 3 Core and Enterprise
//! have had up to 3.11. What concerns access is an error instead: the server would otherwise be
//! less protected than its operator believes.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::cli::environment::{self, PREFIX, boolean};
use crate::cli::usage_error::UsageError;
use crate::program;

/// The options before the subcommand. InfluxDB accepts them there alone.
const GLOBAL: [&str; 10] = [
    "io-runtime-disable-lifo-slot",
    "io-runtime-event-interval",
    "io-runtime-global-queue-interval",
    "io-runtime-max-blocking-threads",
    "io-runtime-max-io-events-per-tick",
    "io-runtime-thread-keep-alive",
    "io-runtime-thread-priority",
    "io-runtime-type",
    "num-io-threads",
    "num-threads",
];

/// The options of `serve` without a value.
const FLAGS: [&str; 22] = [
    "aws-allow-http",
    "aws-skip-signature",
    "azure-allow-http",
    "compacted-data-skip-file-index",
    "datafusion-use-cached-parquet-loader",
    "disable-data-file-cache",
    "disable-file-cache",
    "disable-log-filter-noise-reduction",
    "disable-package-management",
    "disable-parquet-mem-cache",
    "disable-telemetry-upload",
    "distinct-value-cache-disable-from-history",
    "last-value-cache-disable-from-history",
    "object-store-http2-only",
    "object-store-tls-allow-insecure",
    "plugin-dir-only",
    "test-mode",
    "tokio-console-enabled",
    "upgrade-pacha-tree",
    "use-pacha-tree",
    "wal-replay-fail-on-error",
    USER_AUTH,
];

/// The options of `serve` with a value.
const VALUES: [&str; 109] = [
    "api-upload-check-interval",
    "api-upload-concurrent-status-reads",
    "async-trigger-concurrency-limit",
    "aws-access-key-id",
    "aws-credentials-file",
    "aws-default-region",
    "aws-endpoint",
    "aws-secret-access-key",
    "aws-session-token",
    "azure-endpoint",
    "azure-storage-access-key",
    "azure-storage-account",
    "bucket",
    "catalog-sync-interval",
    "checkpoint-interval",
    "compacted-data-load-concurrency-limit",
    "compaction-check-interval",
    "compaction-cleanup-wait",
    "compaction-gen2-duration",
    "compaction-max-num-files-per-plan",
    "compaction-multipliers",
    "compaction-row-limit",
    "compaction-snapshots-limit",
    "conn-info",
    "database-split-level",
    "datafusion-config",
    "datafusion-max-parquet-fanout",
    "datafusion-num-threads",
    "datafusion-runtime-disable-lifo-slot",
    "datafusion-runtime-event-interval",
    "datafusion-runtime-global-queue-interval",
    "datafusion-runtime-max-blocking-threads",
    "datafusion-runtime-max-io-events-per-tick",
    "datafusion-runtime-thread-keep-alive",
    "datafusion-runtime-thread-priority",
    "datafusion-runtime-type",
    "delete-grace-period",
    "distinct-cache-eviction-interval",
    "exec-mem-pool-bytes",
    "exec-mem-pool-size",
    "file-cache-recency",
    "file-cache-size",
    "force-snapshot-mem-size",
    "force-snapshot-mem-threshold",
    "gen1-duration",
    "gen1-lookback-duration",
    "google-service-account",
    "hard-delete-default-duration",
    "last-cache-eviction-interval",
    "license-email",
    "license-file",
    "license-type",
    "max-columns",
    "max-compact-destination",
    "max-concurrent-queries",
    "mode",
    "num-cores",
    "num-database-limit",
    "num-datafusion-threads",
    "num-table-limit",
    "num-total-columns-per-table-limit",
    "object-store-cache-endpoint",
    "object-store-connection-limit",
    "object-store-http2-max-frame-size",
    "object-store-max-retries",
    "object-store-request-timeout",
    "object-store-retry-timeout",
    "object-store-tls-ca",
    "package-manager",
    "parquet-mem-cache-prune-interval",
    "parquet-mem-cache-prune-percentage",
    "parquet-mem-cache-query-path-duration",
    "parquet-mem-cache-size",
    "parquet-mem-cache-size-mb",
    "plugin-dir",
    "plugin-repo",
    "preemptive-cache-age",
    "query-file-limit",
    "query-log-max-entries",
    "query-log-size",
    "replication-interval",
    "retention-check-interval",
    "serve-invocation-method",
    "snapshot-concurrency-limit",
    "snapshotted-wal-files-to-keep",
    "table-index-cache-concurrency-limit",
    "table-index-cache-max-entries",
    "table-split-level",
    "telemetry-endpoint",
    "tokio-console-client-buffer-capacity",
    "tokio-console-event-buffer-capacity",
    "traces-exporter",
    "traces-exporter-jaeger-agent-host",
    "traces-exporter-jaeger-agent-port",
    "traces-exporter-jaeger-service-name",
    "traces-exporter-jaeger-trace-context-header-name",
    "traces-jaeger-debug-name",
    "traces-jaeger-max-msgs-per-second",
    "traces-jaeger-tags",
    "virtual-env-location",
    "wait-for-running-compactor",
    "wait-for-running-ingester",
    "wait-for-running-ingestor",
    "wal-files-per-snapshot",
    "wal-flush-interval",
    "wal-max-buffered-writes",
    "wal-max-write-buffer-size",
    "wal-replay-concurrency-limit",
    "wal-snapshot-size",
];

/// The options of `serve` with one value or more.
const LISTS: [&str; 1] = ["restrict-plugin-triggers-to"];

/// The variables whose names do not follow from the name of an option.
const VARIABLES: [&str; 7] = [
    "INFLUXDB3_DATABASE_NAME",
    "INFLUXDB3_IO_NUM_THREADS",
    "INFLUXDB3_NUM_WAL_FILES_TO_KEEP",
    "INFLUXDB3_TELEMETRY_DISABLE_UPLOAD",
    "INFLUXDB3_TRACES_EXPORTER_JAEGER_DEBUG_NAME",
    "INFLUXDB3_TRACES_EXPORTER_JAEGER_TAGS",
    // The image of InfluxDB Enterprise reads it.
    "INFLUXDB3_UNSET_VARS",
];

/// Switches users with passwords off, which is how things stand here.
const USER_AUTH: &str = "without-user-auth";

const NO_USERS: &str = "this server has tokens only, no users, roles or JWT";

const NO_INTERNODE: &str = "this server opens no listener for other nodes";

const NO_CLUSTER: &str = "nodes of a cluster share their tokens, and servers here share them through one token store \
                          that all of them reach (--store)";

/// The options that concern access, each with the reason why it has no effect.
const REFUSED: [(&str, &str); 16] = [
    ("cluster-id", NO_CLUSTER),
    ("internode-bind-addr", NO_INTERNODE),
    ("internode-jwt-primary", NO_INTERNODE),
    ("internode-jwt-secondary", NO_INTERNODE),
    ("internode-tls-ca", NO_INTERNODE),
    ("internode-tls-cert", NO_INTERNODE),
    ("internode-tls-key", NO_INTERNODE),
    ("jwt-default-ttl-seconds", NO_USERS),
    ("jwt-issuer", NO_USERS),
    ("jwt-key-id", NO_USERS),
    ("jwt-private-key", NO_USERS),
    ("oauth-audience", NO_USERS),
    ("oauth-client-id", NO_USERS),
    ("oauth-issuer", NO_USERS),
    ("oauth-scopes", NO_USERS),
    ("user-auth-type", NO_USERS),
];

/// What of InfluxDB stands in the arguments and the environment of a server, and is ignored.
#[derive(Debug, Default)]
pub(crate) struct Ignored {
    /// Known options and variables that concern no token.
    pub(crate) without_effect: Vec<String>,
    /// Variables that nothing is known of.
    pub(crate) unknown: Vec<String>,
}

impl Ignored {
    /// Logs the names, without their values.
    pub(crate) fn log(&self) {
        if !self.without_effect.is_empty() {
            tracing::warn!(
                "without effect, as this server has tokens only: {}",
                self.without_effect.join(", ")
            );
        }
        if !self.unknown.is_empty() {
            tracing::warn!(
                "these variables mean nothing to this server: {}; {} serve --help names those that do",
                self.unknown.join(", "),
                program::name()
            );
        }
    }
}

/// Adds the options to the whole command line. Help and completions are made without them.
pub(crate) fn accept(command: Command) -> Command {
    let command = command.args(GLOBAL.map(|name| option(name).num_args(1)));
    command.mut_subcommand("serve", |serve| {
        let values = GLOBAL.iter().chain(&VALUES).chain(REFUSED.iter().map(|(name, _)| name));
        serve
            .args(values.map(|name| option(name).num_args(1)))
            .args(LISTS.map(|name| option(name).num_args(1..)))
            .args(FLAGS.map(|name| option(name).num_args(0..=1).require_equals(name != USER_AUTH)))
    })
}

fn option(name: &'static str) -> Arg {
    // The value can be a secret of another service. Nothing reads it.
    Arg::new(name).long(name).hide(true).action(ArgAction::Append).value_parser(value_parser!(OsString))
}

/// Finds what is ignored. Fails if something of it concerns access. `command` is the whole command
/// line, and `matches` were made with its options.
pub(crate) fn find(command: &Command, matches: &ArgMatches) -> Result<Ignored, UsageError> {
    let serve = matches.subcommand_matches("serve");
    let is_given = |name| {
        let of = |matches: &ArgMatches| matches.value_source(name) == Some(ValueSource::CommandLine);
        serve.is_some_and(of) || GLOBAL.contains(&name) && of(matches)
    };
    let mut ignored = Ignored::default();
    for (name, reason) in REFUSED {
        if is_given(name) {
            return Err(refusal(&format!("--{name}"), reason));
        }
    }
    let user_auth = serve.and_then(|serve| serve.get_many::<OsString>(USER_AUTH));
    if user_auth.into_iter().flatten().any(switches_off) {
        return Err(refusal(&format!("--{USER_AUTH}"), NO_USERS));
    }
    let options = known_options().filter(|name| is_given(name));
    ignored.without_effect.extend(options.map(|name| format!("--{name}")));
    for variable in environment::unread(command) {
        match option_of(&variable) {
            Some(option) => {
                if let Some((_, reason)) = REFUSED.iter().find(|(name, _)| *name == option) {
                    return Err(refusal(&variable, reason));
                }
                if option == USER_AUTH
                    && environment::variable(&variable).is_some_and(|value| switches_off(&value))
                {
                    return Err(refusal(&variable, NO_USERS));
                }
                ignored.without_effect.push(variable);
            }
            None if VARIABLES.contains(&variable.as_str()) => ignored.without_effect.push(variable),
            None => ignored.unknown.push(variable),
        }
    }
    Ok(ignored)
}

fn known_options() -> impl Iterator<Item = &'static str> {
    GLOBAL.into_iter().chain(FLAGS).chain(VALUES).chain(LISTS)
}

/// Returns the option that this variable belongs to. Releases before 3.11 named the variables of
/// Enterprise as such.
fn option_of(variable: &str) -> Option<&'static str> {
    let name = variable.strip_prefix(PREFIX)?;
    let name = name.strip_prefix("ENTERPRISE_").unwrap_or(name);
    let is_its_name = |option: &&str| {
        option.len() == name.len()
            && option.bytes().zip(name.bytes()).all(|(in_option, in_name)| match in_option {
                b'-' => in_name == b'_',
                letter => letter.to_ascii_uppercase() == in_name,
            })
    };
    known_options().chain(REFUSED.iter().map(|(name, _)| *name)).find(is_its_name)
}

/// Whether a switch has a value that is not `true`.
fn switches_off(value: &OsString) -> bool {
    value.to_str().is_none_or(|value| boolean(value) != Ok(true))
}

fn refusal(named: &str, reason: &str) -> UsageError {
    let text = format!(
        "{named} concerns access and has no effect here: {reason}. Remove it, if the server is right without it"
    );
    UsageError { command: &["serve"], kind: ErrorKind::ArgumentConflict, text }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_option_stands_in_one_list() {
        let all: Vec<_> = known_options().chain(REFUSED.iter().map(|(name, _)| *name)).collect();
        let different: BTreeSet<_> = all.iter().collect();
        assert_eq!(all.len(), different.len());
        assert!(all.iter().all(|name| {
            name.bytes().all(|byte| byte.is_ascii_lowercase() || b"-0123456789".contains(&byte))
        }));
    }

    #[test]
    fn variables_belong_to_their_options() {
        for (variable, option) in [
            ("INFLUXDB3_PLUGIN_DIR", Some("plugin-dir")),
            ("INFLUXDB3_ENTERPRISE_NUM_CORES", Some("num-cores")),
            ("INFLUXDB3_GEN1_DURATION", Some("gen1-duration")),
            ("INFLUXDB3_CLUSTER_ID", Some("cluster-id")),
            ("INFLUXDB3_PLUGIN-DIR", None),
            ("INFLUXDB3_plugin_dir", None),
            ("INFLUXDB3_PLUGIN", None),
            ("PLUGIN_DIR", None),
        ] {
            assert_eq!(option_of(variable), option, "{variable}");
        }
    }
}
