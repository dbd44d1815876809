//! The filter and the jail of dist/fail2ban, with the real programs: which lines of a server's log
//! are failures of which address.

use std::fs;
use std::path::{Path, PathBuf};

use crate::needs::{self, FAIL2BAN};
use crate::support::{
    CONFIRM, RECOVERY, REGENERATE, STAGE, TestEnv, VERIFY, delete_named, eventually, get, post,
};

fn shipped(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist/fail2ban").join(file)
}

/// Address and time of each failure that the filter finds in a log.
fn failures(log: &Path, time_zone: &str) -> Vec<(String, String)> {
    let mut command = needs::command(FAIL2BAN);
    command.args(["--out", "row"]).arg(log).arg(shipped("filter.d/optoken.conf"));
    let output = command.env("TZ", time_zone).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text.lines()
        .map(|line| {
            let mut fields =
                line.trim_start_matches('[').split(',').map(|field| field.trim().trim_matches('\''));
            let mut field = || fields.next().unwrap_or_else(|| panic!("{text}")).to_owned();
            (field(), field())
        })
        .collect()
}

pub(crate) fn guesses_are_failures_and_nothing_else_is() {
    let env = TestEnv::new();
    let server = env.serve(&[RECOVERY[0], RECOVERY[1], "--admin-token-recovery-code"]);
    let token = server.create();
    let mut expected = 0;
    let mut count = |by: usize| expected += by;

    // Guesses.
    get("/health").bearer("apiv3_unknown").send(server.address);
    get(VERIFY).authorization("nonsense").send(server.address);
    get("/api/v3/verify/below").bearer("x").header("X-Forwarded-For", "203.0.113.7").send(server.address);
    post(CONFIRM).bearer("apiv3_unknown").send(server.address);
    count(4);
    let staged = post(STAGE).bearer(&token).send(server.address).token();
    post(CONFIRM).bearer("apiv3_unknown").send(server.address);
    post(REGENERATE).header("X-Recovery-Code", "00-00").send(server.recovery());
    count(2);

    // No guesses.
    get("/health").send(server.address);
    get("/health").bearer(&token).send(server.address);
    get("/nowhere").bearer(&token).send(server.address);
    post(REGENERATE).send(server.recovery());
    post(REGENERATE).header("Origin", "null").send(server.recovery());
    post("/api/v3/configure/token/admin").send(server.address);
    delete_named(&token, "unknown").send(server.address);

    // A client that names another one.
    let forged = r#"" client_ip="192.0.2.9" reason="unknown""#;
    let name: String =
        forged.bytes().flat_map(|byte| format!("%{byte:02x}").into_bytes()).map(char::from).collect();
    delete_named(&token, &name).send(server.address);
    get("/health").header("X-Forwarded-For", forged).send(server.address);
    get("/health").header("X-Forwarded-For", &format!("x{}", &forged[..30])).send(server.address);
    get(r#"/x"client_ip="192.0.2.9""#).send(server.address);
    get("/health").bearer("x").header("X-Real-IP", &format!("a\\{forged}")).send(server.address);
    count(1);
    assert_eq!(post(CONFIRM).bearer(&staged).send(server.address).status, 200);
    // The log reader may lag behind the responses.
    eventually("the log has the last line", || server.log().contains("a\\\\\\\\"));

    let log = env.file("optoken.log", server.log().as_bytes());
    let found = failures(&log, "UTC");
    assert!(found.iter().all(|(address, _)| address == "127.0.0.1"), "{found:?}\n{}", server.log());
    assert_eq!(found.len(), expected, "{found:?}\n{}", server.log());
    // The log has UTC.
    assert_eq!(failures(&log, "Asia/Tokyo"), found);
    // As the journal has it.
    let journal: String =
        server.log().lines().flat_map(|line| ["host optoken[7]: ", line, "\n"].map(str::to_owned)).collect();
    let journal = env.file("journal.log", journal.as_bytes());
    assert_eq!(failures(&journal, "UTC").len(), expected);
}

/// The log has few lines of a client in a minute, and optoken's own client repeats its request.
pub(crate) fn jail_spares_one_mistake_and_finds_a_flood() {
    let env = TestEnv::new();
    let jail = fs::read_to_string(shipped("jail.d/optoken.conf")).unwrap();
    let number = |key: &str| -> usize {
        let value = jail.lines().find_map(|line| line.strip_prefix(&format!("{key} = "))).unwrap();
        value.trim_end_matches('m').parse().unwrap()
    };
    let (retries, minutes) = (number("maxretry"), number("findtime"));
    let mut found = Vec::new();
    for flood in [false, true] {
        let server = env.serve(&[]);
        if flood {
            for _ in 0..40 {
                get("/health").bearer("apiv3_unknown").send(server.address);
            }
        } else {
            let regenerate = ["--regenerate", "--yes", "--token", "apiv3_unknown"];
            assert_eq!(env.create_token(server.address, &regenerate).run().code, Some(1));
        }
        server.signal(rustix::process::Signal::TERM);
        server.wait_for_log("stopped");
        let log = env.file("optoken.log", server.log().as_bytes());
        found.push(failures(&log, "UTC").len());
    }
    assert!((1..retries).contains(&found[0]), "{found:?}");
    assert!(found[1] * minutes > retries, "{found:?}");
}

/// fail2ban's own check of a whole configuration.
pub(crate) fn jail_is_valid() {
    let env = TestEnv::new();
    let directory = env.home().join("fail2ban");
    let copied = std::process::Command::new("cp").args(["-r", "/etc/fail2ban"]).arg(&directory).status();
    assert!(copied.unwrap().success());
    for file in ["filter.d/optoken.conf", "jail.d/optoken.conf"] {
        fs::copy(shipped(file), directory.join(file)).unwrap();
    }
    let server = Path::new(needs::command(FAIL2BAN).get_program()).with_file_name("fail2ban-client");
    // The jail of Debian watches a file that a machine may not have.
    let _ = fs::remove_file(directory.join("jail.d/defaults-debian.conf"));
    let output = std::process::Command::new(server).arg("-c").arg(&directory).arg("-d").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for part in [
        "['add', 'optoken', 'systemd']",
        "['set', 'optoken', 'addjournalmatch', '_SYSTEMD_UNIT=optoken.service']",
        "'maxretry', 25",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}
