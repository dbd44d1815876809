//! Tests that need more than a Rust toolchain and a POSIX shell, with the needs of each.
//!
//! needs.rs describes what happens to a test with an unmet need. The environment can set:
//!
//! - `CI=true`: a test with an unmet need fails.
//! - `OPTOKEN_TEST_INSTALL=off`: no program is installed.
//! - `OPTOKEN_TEST_ENVOY=FILE`: the program of Envoy.
//! - `OPTOKEN_TEST_ROUNDS=1000`: the rounds of the races for one token on three nodes.
//! - `OPTOKEN_TEST_HOSTS=on`: the conformance cases also run in Node, Python and wasmtime, and the
//!   official clients of InfluxDB 3 against the server.

// All of this crate is test code; clippy.toml allows the same in the unit tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod audit;
mod browser;
mod certificates;
mod challenge;
mod client;
mod clock;
mod component;
mod conformance;
mod deployment;
mod engines;
mod environment;
mod etcd;
mod fail2ban;
#[allow(dead_code, reason = "each test crate uses a part")]
#[path = "../fault_proxy.rs"]
mod fault_proxy;
#[path = "../request_forgery/cases.rs"]
mod forgery_cases;
#[allow(dead_code, reason = "each test crate uses a part")]
#[path = "../conformance/harness.rs"]
mod harness;
#[path = "../support/hostile_requests/mod.rs"]
mod hostile_requests;
#[allow(dead_code, reason = "each test crate uses a part")]
#[path = "../http2.rs"]
mod http2;
mod influxdb_clients;
mod lifecycle;
mod memory;
mod migrate;
mod needs;
mod nodes;
mod ownership;
mod postgres;
mod proxies;
mod proxy_permissions;
mod recorder;
mod recovery;
mod request_forgery;
mod rotation;
#[allow(dead_code, reason = "each test crate uses a part")]
#[path = "../rotation_run.rs"]
mod rotation_run;
mod stock_wasmtime;
mod store;
#[allow(dead_code, unused_imports, reason = "each test crate uses a part")]
#[path = "../support/mod.rs"]
mod support;
mod tls;
mod unknown_outcome;
mod upstream_clients;
mod upstream_proxies;

use std::process::ExitCode;

use self::engines::{Kind, suite, unfit};
use self::needs::{
    BASH, CHROMIUM, CURL, DEATH_SIGNAL, ENV, ETCD, ETCDCTL, FAIL2BAN, FAKETIME, HAPROXY, MOTO, MOUNT, NGINX,
    NODE, Need, OPENSSL, PERL, PERL_MDWE, POSTGRES, PROMETHEUS, PYTHON, PYTHON3, S3RVER, SCRIPT, SETPRIV,
    STRACE, SYSTEMD_ANALYZE, Test, UNSHARE, WGET,
};

/// Rows of the table: a function, and its needs.
macro_rules! tests {
    ($($module:ident::$function:ident: [$($need:expr),*],)*) => {
        vec![$(Test {
            name: concat!(stringify!($module), "::", stringify!($function)).to_owned(),
            needs: vec![$($need),*],
            run: Box::new($module::$function),
        }),*]
    };
}

/// Rows of tests that run once for each value: a function of the value, for all values.
macro_rules! tests_for {
    ($values:expr, $name:expr, $needs:expr, [$($module:ident::$function:ident,)*]) => {{
        let mut tests = Vec::new();
        for value in $values {
            $(tests.push(Test {
                name: format!("{}::{}::{}", stringify!($module), stringify!($function), $name(value)),
                needs: $needs(value),
                run: Box::new(move || $module::$function(value)),
            });)*
        }
        tests
    }};
}

type Run = fn();

#[allow(clippy::too_many_lines, reason = "one table of all tests")]
fn main() -> ExitCode {
    if store::run_child() {
        return ExitCode::SUCCESS;
    }
    engines::with_environment();
    let mut tests = tests! {
        audit::hung_audit_log_does_not_block_commands: [SCRIPT],
        browser::cross_site_page_neither_creates_nor_reads_token: [CHROMIUM],
        browser::dns_rebinding_page_is_rejected: [CHROMIUM],
        certificates::certificates_of_openssl_work_as_the_log_states: [OPENSSL],
        certificates::issued_certificates_work_with_their_authority_or_alone: [OPENSSL],
        certificates::refused_certificates_have_their_cause_and_remedy: [FAKETIME, OPENSSL],
        certificates::renewed_certificate_is_served_without_signal: [OPENSSL],
        certificates::sighup_serves_new_certificate_or_keeps_the_old: [CURL, ENV, FAKETIME, OPENSSL],
        challenge::wget_and_python_answer_it: [PYTHON3, WGET],
        client::nginx_has_the_server_below_a_path: [NGINX],
        clock::clock_set_back_revives_nothing: [FAKETIME],
        component::changed_components_fail_verification: [BASH],
        component::other_compiler_compares_behaviour: [BASH],
        component::prebuilt_components_match_sources: [BASH],
        component::verification_without_compiler_fails: [BASH],
        deployment::alerts_are_valid_and_their_metrics_exist: [PROMETHEUS],
        deployment::drop_in_is_valid: [SYSTEMD_ANALYZE],
        deployment::manifests_fit_each_other_and_kubernetes: [PYTHON],
        deployment::pods_start_and_their_probes_succeed: [CURL, PYTHON],
        environment::dotenv_of_other_user_is_ignored: [Need::Root],
        environment::root_recovers_server_of_other_user: [Need::Root],
        environment::socket_of_other_user_receives_nothing: [Need::Root],
        environment::system_without_written_code_is_named: [PERL_MDWE],
        environment::unsearchable_directory_has_no_dotenv: [Need::Root, PERL],
        fail2ban::guesses_are_failures_and_nothing_else_is: [FAIL2BAN],
        fail2ban::jail_is_valid: [FAIL2BAN],
        fail2ban::jail_spares_one_mistake_and_finds_a_flood: [FAIL2BAN],
        influxdb_clients::health_checks_of_grafana_are_authenticated: [],
        influxdb_clients::javascript_client_reads_version_and_errors: [NODE],
        influxdb_clients::mcp_server_manages_tokens: [NODE],
        influxdb_clients::prometheus_scrapes_with_token_of_file: [PROMETHEUS],
        influxdb_clients::python_client_reads_version_errors_and_parquet: [PYTHON],
        influxdb_clients::requests_of_telegraf_are_authenticated: [],
        lifecycle::few_threads_prevent_start_with_advice: [Need::Root, SETPRIV],
        lifecycle::sighup_reads_files_again_and_reports_it: [ENV],
        lifecycle::signals_remove_files_before_exit: [ENV],
        lifecycle::unit_files_are_valid: [SYSTEMD_ANALYZE],
        memory::server_memory_has_no_token_after_use: [Need::Root],
        memory::server_process_is_not_dumpable: [Need::Root],
        ownership::files_of_other_users_are_refused: [Need::Root],
        ownership::files_of_root_are_accepted: [Need::Root, SETPRIV],
        ownership::hash_of_unreadable_secret_starts_server: [Need::Root, SETPRIV],
        ownership::mounted_open_volume_gets_private_directory: [Need::Root, MOUNT, SETPRIV, UNSHARE],
        ownership::mounted_secret_of_own_group_is_accepted: [Need::Root, SETPRIV],
        ownership::unusable_stores_are_named_with_the_next_step: [Need::Root, MOUNT, SETPRIV, UNSHARE],
        ownership::volume_of_own_group_gets_private_directory: [Need::Root, SETPRIV],
        proxies::haproxy_without_address_refuses_to_start: [HAPROXY],
        proxy_permissions::second_matcher_reads_hostile_paths: [],
        recovery::bootstrap_from_remote_address_is_forbidden: [Need::NetworkAddress],
        recovery::recovery_code_is_printed_on_terminal: [SCRIPT, SETPRIV],
        recovery::recovery_flag_without_value_means_port_8182: [Need::FreePort(8182)],
        recovery::recovery_socket_in_directory_of_other_user_is_refused: [Need::Root],
        recovery::recovery_socket_rejects_other_uid: [Need::Root, PERL],
        request_forgery::forged_requests_over_ipv6_are_rejected: [Need::Ipv6Loopback],
        request_forgery::haproxy_clients_cannot_bootstrap: [HAPROXY],
        request_forgery::nginx_clients_cannot_bootstrap: [NGINX],
        rotation::failed_file_operation_keeps_a_valid_token: [STRACE],
        rotation::output_link_of_other_user_is_refused: [Need::Root],
        rotation::rotation_killed_after_any_system_call_completes: [STRACE],
        rotation::unwritable_output_file_does_not_consume_recovery: [STRACE],
        store::every_crash_point_leaves_the_answered_state: [STRACE],
        store::failed_sync_has_one_outcome: [STRACE],
        store::server_starts_on_full_disk: [Need::Root, MOUNT, UNSHARE],
        store::server_starts_on_read_only_disk: [Need::Root, MOUNT, UNSHARE],
        tls::alpn_selects_http_version: [CURL],
        tls::certificate_chain_in_one_file_is_sent: [CURL],
        tls::certificate_names_are_valid_hosts: [CURL],
        tls::curl_creates_regenerates_and_recovers: [CURL],
        tls::idle_tls_connections_do_not_block_recovery: [CURL],
        tls::plaintext_gets_no_response_and_ten_warnings: [CURL],
        tls::recovery_over_tls_closes_after_use: [CURL],
        tls::server_memory_has_no_token_after_tls_use: [CURL, Need::Root],
        tls::shutdown_finishes_tls_requests_in_flight: [CURL],
        tls::tls_below_minimum_is_refused: [CURL],
        tls::tls_variables_equal_tls_options: [CURL],
        unknown_outcome::unknown_outcome_has_advice_for_its_command: [STRACE],
        upstream_clients::cli_does_what_it_does_at_core: [PYTHON],
        upstream_clients::curl_does_what_its_token_permits: [CURL, PYTHON],
        upstream_clients::each_row_of_core_needs_its_permission: [PYTHON],
        upstream_clients::javascript_client_does_what_its_token_permits: [NODE, PYTHON],
        upstream_clients::python_client_does_what_its_token_permits: [PYTHON],
        upstream_clients::telegraf_writes_with_a_token_that_writes: [PYTHON],
        upstream_proxies::admins_pass_what_permissions_cannot_name: [],
        upstream_proxies::database_permissions_hold_for_hostile_requests: [],
        upstream_proxies::http_permissions_hold_for_hostile_requests: [],
        upstream_proxies::one_ambiguous_http1_request_is_no_second: [],
        upstream_proxies::one_ambiguous_http2_request_is_no_second: [],
        upstream_proxies::refusal_over_http2_resets_no_short_body: [],
        upstream_proxies::second_matcher_refuses_what_it_must: [],
        upstream_proxies::ticket_permissions_hold_for_hostile_calls: [],
    };
    tests.extend(tests! {
        postgres::backend_killed_before_its_commit_has_written_nothing: [POSTGRES, SETPRIV],
        postgres::certificate_of_server_is_verified: [POSTGRES, SETPRIV],
        postgres::largest_document_is_unchanged: [POSTGRES, SETPRIV],
        postgres::missing_synchronous_standby_leaves_an_unknown_outcome: [POSTGRES, SETPRIV],
        postgres::news_arrive_again_after_their_connection_was_killed: [POSTGRES, SETPRIV],
        postgres::password_is_checked_and_never_shown: [POSTGRES, SETPRIV],
        postgres::racing_nodes_have_one_winner: [POSTGRES, SETPRIV],
        postgres::reads_recover_from_a_restart_and_a_standstill: [POSTGRES, SETPRIV],
        postgres::server_without_durability_is_refused: [POSTGRES, SETPRIV],
        postgres::server_without_tls_receives_nothing: [POSTGRES, SETPRIV],
        postgres::standby_is_passed_over_for_the_primary: [POSTGRES, SETPRIV],
        postgres::store_conforms: [POSTGRES, SETPRIV],
        postgres::swallowed_commit_and_answer_leave_an_unknown_outcome: [POSTGRES, SETPRIV],
        postgres::table_of_another_program_is_refused: [POSTGRES, SETPRIV],
        postgres::user_without_create_right_gets_the_statements: [POSTGRES, SETPRIV],
    });
    tests.extend(tests_for!(
        &proxies::KINDS,
        |kind: &proxies::ProxyKind| kind.name,
        |kind: &proxies::ProxyKind| vec![kind.need, WGET],
        [
            proxies::basic_is_offered_to_programs_and_to_no_browser,
            proxies::deleted_token_is_rejected_at_once,
            proxies::disabled_auth_passes_without_identity_headers,
            proxies::every_request_on_keepalive_connection_is_checked,
            proxies::invalid_token_gets_challenge,
            proxies::large_cookie_reaches_service,
            proxies::oversized_or_malformed_head_is_rejected,
            proxies::question_has_only_authorization,
            proxies::refused_client_is_logged,
            proxies::trailers_cannot_set_identity_headers,
            proxies::unavailable_store_denies,
            proxies::unreachable_or_silent_authority_denies,
            proxies::valid_token_passes_with_identity_headers,
        ]
    ));
    tests.extend(tests_for!(
        &proxies::KINDS,
        |kind: &proxies::ProxyKind| kind.name,
        |kind: &proxies::ProxyKind| vec![kind.need],
        [
            proxy_permissions::configuration_names_its_source,
            proxy_permissions::hostile_requests_reach_no_more_than_allowed,
            proxy_permissions::permissions_decide_what_reaches_service,
        ]
    ));
    tests.extend(tests_for!(
        proxies::KINDS.iter().filter(|kind| kind.name != "envoy"),
        |kind: &proxies::ProxyKind| kind.name,
        |kind: &proxies::ProxyKind| vec![kind.need],
        [proxies::preflight_lines_answer_one_origin,]
    ));
    tests.extend(tests_for!(
        &deployment::BALANCERS,
        |balancer: &deployment::Balancer| balancer.name,
        |balancer: &deployment::Balancer| vec![balancer.need, CURL],
        [deployment::balancer_passes_over_stale_and_dead_nodes,]
    ));
    tests.extend(tests_for!(
        [&conformance::NODE, &conformance::PYTHON, &conformance::WASMTIME],
        |host: &harness::Host| host.name,
        |host: &harness::Host| vec![conformance::need(host)],
        [conformance::host_conforms, conformance::host_rejects_invalid_calls,]
    ));
    tests.extend(engine_tests());
    tests.extend(tests! {
        unfit::default_retries_are_caught_by_the_faults: [MOTO, DEATH_SIGNAL],
        unfit::endpoint_that_checks_and_then_writes_is_refused_by_name: [],
        unfit::s3rver_is_refused_by_name: [S3RVER, DEATH_SIGNAL],
    });
    tests.extend(tests! {
        etcd::absent_gateway_is_named: [ETCD, ETCDCTL],
        etcd::conformance_holds_on_three_members: [ETCD, ETCDCTL],
        etcd::documents_beyond_one_mebibyte_have_chunks: [ETCD, ETCDCTL],
        etcd::failed_member_is_passed_over: [ETCD, ETCDCTL],
        etcd::full_database_is_named: [ETCD, ETCDCTL],
        etcd::loser_removes_its_chunks: [ETCD, ETCDCTL],
        etcd::lost_answer_is_an_unknown_outcome: [ETCD, ETCDCTL],
        etcd::lost_majority_proves_nothing: [ETCD, ETCDCTL],
        etcd::news_arrive_after_member_failed: [ETCD, ETCDCTL],
        etcd::orphan_chunks_go_with_their_lease: [ETCD, ETCDCTL],
        etcd::probe_passes_and_leaves_nothing: [ETCD, ETCDCTL],
        etcd::racers_over_three_members_have_one_winner: [ETCD, ETCDCTL],
        etcd::restored_snapshot_repeats_no_version: [ETCD, ETCDCTL],
        etcd::tls_needs_authority_and_client_certificate: [ETCD, ETCDCTL],
        etcd::user_needs_password_and_permission: [ETCD, ETCDCTL],
        etcd::user_without_accounts_is_refused: [ETCD, ETCDCTL],
    });
    tests.extend(nodes_tests());
    let needs = [&[POSTGRES, SETPRIV, ETCD, ETCDCTL][..], engines::seaweedfs::KIND.needs].concat();
    tests.push(Test {
        name: "migrate::tokens_follow_through_all_engines".to_owned(),
        needs,
        run: Box::new(migrate::tokens_follow_through_all_engines),
    });
    let wasmtime = || conformance::need(&conformance::WASMTIME);
    let on_stock_wasmtime: [(&str, Vec<Need>, Run); 4] = [
        (
            "restored_catalog_is_refused_and_accepted_once",
            vec![wasmtime()],
            stock_wasmtime::restored_catalog_is_refused_and_accepted_once,
        ),
        ("missing_catalog_is_refused", vec![wasmtime()], stock_wasmtime::missing_catalog_is_refused),
        (
            "restored_catalog_is_refused_over_http",
            vec![wasmtime()],
            stock_wasmtime::restored_catalog_is_refused_over_http,
        ),
        (
            "read_only_mount_is_reported",
            vec![wasmtime(), Need::Root],
            stock_wasmtime::read_only_mount_is_reported,
        ),
    ];
    for (name, needs, run) in on_stock_wasmtime {
        tests.push(Test { name: format!("stock_wasmtime::{name}"), needs, run: Box::new(run) });
    }
    let result = needs::run(tests);
    engines::end();
    result
}

/// The tests that every engine passes, and those that an engine passes for what it has.
fn engine_tests() -> Vec<Test> {
    fn name(kind: &Kind) -> &'static str {
        kind.name
    }
    fn needs(kind: &Kind) -> Vec<Need> {
        kind.needs.to_vec()
    }
    let mut tests = tests_for!(
        engines::KINDS,
        name,
        needs,
        [
            suite::frozen_engine_leaves_a_known_or_unknown_outcome,
            suite::lost_message_leaves_a_known_or_unknown_outcome,
            suite::nodes_agree_at_once,
            suite::probe_finds_it_usable_and_leaves_nothing,
            suite::races_of_three_nodes_have_one_winner,
            suite::silence_leaves_a_known_or_unknown_outcome,
            suite::slow_engine_serves,
            suite::store_keeps_the_contract,
            suite::two_stores_share_no_document,
            suite::unreachable_engine_is_unavailable,
        ]
    );
    tests.extend(tests_for!(
        engines::KINDS.into_iter().filter(|kind| kind.speaks_http),
        name,
        needs,
        [suite::false_answer_leaves_a_known_or_unknown_outcome, suite::late_write_changes_nothing,]
    ));
    tests.extend(tests_for!(
        engines::KINDS.into_iter().filter(|kind| kind.has_news),
        name,
        needs,
        [suite::news_arrive_again_after_a_loss,]
    ));
    for test in &mut tests {
        test.name = format!("engines::{}", test.name);
    }
    tests
}

/// The tests of several nodes, on each engine.
fn nodes_tests() -> Vec<Test> {
    fn name(engine: &nodes::Engine) -> &'static str {
        engine.name
    }
    let mut tests = tests_for!(
        &nodes::ENGINES,
        name,
        nodes::Engine::needs,
        [
            nodes::clock_that_jumps_changes_no_answer,
            nodes::nodes_under_faults_have_one_history,
            nodes::one_of_concurrent_regenerates_on_three_nodes_succeeds,
            nodes::stopped_node_accepts_no_revoked_token,
        ]
    );
    tests.extend(tests_for!(
        nodes::ENGINES.iter().filter(|engine| engine.is_remote),
        name,
        nodes::Engine::needs,
        [
            nodes::cut_off_node_denies_after_the_bound_and_comes_back,
            nodes::frozen_engine_delays_nothing_beyond_the_bound,
            nodes::store_of_nodes_under_faults_has_one_history,
        ]
    ));
    tests.extend(tests_for!(
        nodes::ENGINES.iter().filter(|engine| engine.members > 1),
        name,
        nodes::Engine::needs,
        [nodes::lost_member_and_lost_majority_lose_no_change,]
    ));
    tests.extend(tests_for!(
        nodes::ENGINES.iter().filter(|engine| engine.allows_http),
        name,
        nodes::Engine::needs_of_network,
        [nodes::node_behind_dropped_packets_denies_and_comes_back,]
    ));
    tests.extend(
        tests! { nodes::default_retries_of_writes_are_a_denied_write: [needs::DEATH_SIGNAL, needs::MOTO], },
    );
    tests
}
