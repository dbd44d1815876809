//! `store check`: tries a token store without a server.

use std::fs;

use serde_json::Value;

use crate::support::TestEnv;

#[test]
fn healthy_file_passes_and_is_left_as_it_was() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let token = server.create();
    let before = env.stored_catalog();
    let url = format!("sqlite:{}", env.store().display());
    let names = || {
        let files = fs::read_dir(env.data_dir()).unwrap();
        let mut names: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != "tokens.db-high-water");
        names.sort();
        names
    };
    let files = names();
    let table = env.cli(["store", "check", &url]).run();
    assert_eq!(table.code, Some(0), "{}", table.stderr);
    for check in ["first write", "swap", "stale swap", "same text twice", "6 MiB", "race", "first race"] {
        assert!(
            table.stdout.lines().any(|line| line.starts_with(&format!("| {check} "))),
            "{}",
            table.stdout
        );
    }
    let json = env.cli(["store", "check", "--json"]).env("INFLUXDB3_TOKEN_STORE", &url).run();
    assert_eq!(json.code, Some(0), "{}", json.stderr);
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&json["store"], &json["usable"]), (&Value::from(url), &Value::from(true)));
    let checks = json["checks"].as_array().unwrap();
    assert!(checks.len() >= 7 && checks.iter().all(|check| check["result"] == "ok"), "{json}");
    assert_eq!(env.stored_catalog(), before);
    assert_eq!(names(), files);
    assert!(server.accepts(&token));
}

#[test]
fn store_that_cannot_be_tried_is_an_error() {
    let env = TestEnv::new();
    env.cli(["store", "check"]).run().assert_failed(2, &["<URL>"]);
    env.cli(["store", "check", "memory:"]).run().assert_failed(1, &["memory: ends with its server"]);
    let missing = format!("sqlite:{}", env.home().join("missing/tokens.db").display());
    env.cli(["store", "check", &missing]).run().assert_failed(1, &["missing/tokens.db"]);
}
