//! Files and directories of other users, volumes and mounted secrets. Root makes them.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::needs::{SETPRIV, UNSHARE, path};
use crate::support::{CaseName, Cli, TestEnv, UNPRIVILEGED};

const TOKEN: &str = "apiv3_kM2vQ8xTz0yB3nWfR7uJpA";

/// The group of a volume.
const GROUP: u32 = 4242;

fn set(path: &Path, uid: u32, gid: u32, mode: u32) {
    chown(path, Some(uid), Some(gid)).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Runs a command as a user without privileges that is in the group.
fn unprivileged(cli: Cli) -> Cli {
    let (uid, gid) = (format!("--reuid={UNPRIVILEGED}"), format!("--regid={UNPRIVILEGED}"));
    cli.wrapped_in(&path(SETPRIV), &[&uid, &gid, &format!("--groups={GROUP}")])
}

/// An environment whose home directory other users can enter.
fn entered() -> TestEnv {
    let env = TestEnv::new();
    fs::set_permissions(env.home(), Permissions::from_mode(0o755)).unwrap();
    env
}

fn serve(env: &TestEnv, args: &[&str]) -> Cli {
    env.cli(["serve", "--http-bind", "127.0.0.1:0"]).args(args)
}

pub(crate) fn files_of_other_users_are_refused() {
    let env = TestEnv::new();
    let make = |name: &str| {
        let path = env.home().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, json!({ "token": TOKEN, "name": "_admin" }).to_string()).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (file, below) = (make("file"), make("theirs/file"));
    let theirs = env.home().join("theirs");
    set(Path::new(&file), UNPRIVILEGED, UNPRIVILEGED, 0o600);
    set(&theirs, UNPRIVILEGED, UNPRIVILEGED, 0o755);
    let own = make("own");
    let link = env.home().join("link");
    symlink(&own, &link).unwrap();
    lchown(&link, Some(UNPRIVILEGED), Some(UNPRIVILEGED)).unwrap();
    let link = link.to_str().unwrap();
    for (path, culprit) in [(file.as_str(), file.as_str()), (&below, theirs.to_str().unwrap()), (link, link)]
    {
        let store = format!("sqlite:{path}");
        let cases: [&[&str]; 5] = [
            &["--store", &store],
            &["--admin-token-file", path],
            &["--audit-log", path],
            &["--component", path],
            &["--tls-cert", path, "--tls-key", path],
        ];
        for args in cases {
            let before = (fs::read(path).unwrap(), fs::metadata(path).unwrap().mode());
            let output = serve(&env, args).run();
            assert_eq!(output.code, Some(1), "{args:?}: {output:?}");
            let found =
                format!("{culprit} belongs to another user (uid {UNPRIVILEGED}, gid {UNPRIVILEGED}, mode ");
            for text in [&found, "check what it holds and run: chown "] {
                assert!(output.stderr.contains(text), "{args:?}: {text}: {}", output.stderr);
            }
            assert_eq!((fs::read(path).unwrap(), fs::metadata(path).unwrap().mode()), before, "{args:?}");
        }
        let output = env.cli(["show", "tokens", "--token-file", path]).run();
        output.assert_failed(1, &[&format!("{culprit} belongs to another user")]);
    }
    let output = serve(&env, &["--data-dir", theirs.to_str().unwrap()]).run();
    output.assert_failed(1, &["cannot use the data directory ", "belongs to another user"]);
    // The files that SQLite has beside the database.
    let data = env.data_dir();
    env.serve(&[]).stop();
    for name in ["tokens.db", "tokens.db-wal", "tokens.db-shm"] {
        let path = data.join(name);
        let is_new = !path.exists();
        fs::OpenOptions::new().create(true).append(true).open(&path).unwrap();
        chown(&path, Some(UNPRIVILEGED), None).unwrap();
        let output = env.serve_with(&[]).run();
        output.assert_failed(1, &["cannot use the token store ", &format!("{name} belongs to another user")]);
        chown(&path, Some(0), None).unwrap();
        if is_new {
            fs::remove_file(&path).unwrap();
        }
    }
    env.serve(&[]).stop();
}

pub(crate) fn files_of_root_are_accepted() {
    let env = entered();
    let file = env.file("token.json", json!({ "token": TOKEN, "name": "_admin" }).to_string().as_bytes());
    set(&file, 0, GROUP, 0o440);
    let data = env.data_dir();
    fs::create_dir(&data).unwrap();
    set(&data, UNPRIVILEGED, UNPRIVILEGED, 0o700);
    let server = unprivileged(env.serve_with(&["--admin-token-file", file.to_str().unwrap()])).start();
    assert!(server.accepts(TOKEN));
}

pub(crate) fn volume_of_own_group_gets_private_directory() {
    let env = entered();
    let volume = env.home().join("volume");
    fs::create_dir(&volume).unwrap();
    set(&volume, 0, GROUP, 0o2775);
    let data_dir = ["--data-dir", volume.to_str().unwrap()];
    let store = format!("sqlite:{}/tokens.db", volume.display());
    let server = unprivileged(serve(&env, &data_dir)).start();
    server.wait_for_log("INFO others can write to ");
    server.wait_for_log(&format!(
        "(mode 2775): the token store is in {}/optoken, which is private",
        volume.display()
    ));
    let token = server.create();
    server.stop();
    let private = fs::metadata(volume.join("optoken")).unwrap();
    assert_eq!((private.uid(), private.mode() & 0o777), (UNPRIVILEGED, 0o700));
    for args in [&data_dir, &["--store", &store]] {
        let server = unprivileged(serve(&env, args)).start();
        assert!(server.accepts(&token));
        server.stop();
    }
    // A private directory that is named works as well.
    let named = volume.join("named");
    unprivileged(serve(&env, &["--data-dir", named.to_str().unwrap()])).start().stop();
    assert!(named.join("tokens.db").exists());
    // A store at the root of the volume is not ignored.
    fs::rename(named.join("tokens.db"), volume.join("tokens.db")).unwrap();
    for args in [&data_dir, &["--store", &store]] {
        let output = unprivileged(serve(&env, args)).run();
        output.assert_failed(1, &["/tokens.db; stop every server that uses it", "&& mv "]);
    }
    fs::remove_file(volume.join("tokens.db")).unwrap();
    // Another user has made the private directory.
    fs::remove_dir_all(volume.join("optoken")).unwrap();
    fs::create_dir(volume.join("optoken")).unwrap();
    chown(volume.join("optoken"), Some(1), None).unwrap();
    let output = unprivileged(serve(&env, &data_dir)).run();
    output.assert_failed(1, &["/optoken belongs to another user (uid 1, "]);
    // The group is not one of the server.
    fs::remove_dir(volume.join("optoken")).unwrap();
    set(&volume, 0, 4243, 0o2775);
    let output = unprivileged(serve(&env, &data_dir)).run();
    output.assert_failed(1, &["cannot use the data directory ", "others can write to it (mode 2775)"]);
    // Every user can write, and nothing is mounted there.
    set(&volume, 0, 0, 0o777);
    let output = unprivileged(serve(&env, &data_dir)).run();
    let advice = "use a directory of its own, or let root run: chmod go-w ";
    output.assert_failed(1, &["others can write to it (mode 777)", advice]);
    assert_eq!(fs::read_dir(&volume).unwrap().count(), 1);
}

pub(crate) fn mounted_open_volume_gets_private_directory() {
    let env = entered();
    let volume = env.home().join("volume");
    fs::create_dir(&volume).unwrap();
    let server = unprivileged(serve(&env, &["--data-dir", volume.to_str().unwrap()]));
    let script = format!("mount -t tmpfs -o mode=0777 tmpfs {} && exec \"$0\" \"$@\"", volume.display());
    let server = server.in_shell(&script).wrapped_in(&path(UNSHARE), &["--mount"]).start();
    server.wait_for_log(&format!("(mode 777): the token store is in {}/optoken", volume.display()));
    server.create();
    server.stop();
}

/// Makes a secret as Kubernetes mounts it.
fn secret(env: &TestEnv, gid: u32, mode: u32) -> PathBuf {
    let volume = env.home().join("secret");
    let _ = fs::remove_dir_all(&volume);
    fs::create_dir_all(volume.join("..2026_11_26")).unwrap();
    let file = volume.join("..2026_11_26/token.json");
    fs::write(&file, json!({ "token": TOKEN, "name": "_admin" }).to_string()).unwrap();
    set(&file, 0, gid, mode);
    set(&volume, 0, gid, 0o3777);
    symlink("..2026_11_26", volume.join("..data")).unwrap();
    symlink("..data/token.json", volume.join("token.json")).unwrap();
    volume
}

pub(crate) fn hash_of_unreadable_secret_starts_server() {
    let env = entered();
    // As root has it: the server cannot read the secret, and every user reads the hash.
    let secret = env.file("token.json", json!({ "token": TOKEN, "name": "_admin" }).to_string().as_bytes());
    set(&secret, 0, 0, 0o400);
    let args = ["hash", "token", "--token-file", "token.json", "--output-file", "hash.json"];
    assert_eq!(env.cli(args).run().stdout, "Hash saved to: hash.json\n");
    set(&env.home().join("hash.json"), 0, 0, 0o444);
    let start = |file: &str| unprivileged(serve(&env, &["--store", "memory:", "--admin-token-file", file]));
    start("token.json").run().assert_failed(1, &["Failed to read admin token file: Permission denied"]);
    assert!(start("hash.json").start().accepts(TOKEN));
}

pub(crate) fn mounted_secret_of_own_group_is_accepted() {
    for (gid, mode, refused) in [
        (GROUP, 0o440, None),
        (GROUP, 0o640, None),
        (GROUP, 0o444, Some("insecure permissions: 444. Others can read the token")),
        (GROUP, 0o460, Some("insecure permissions: 460. Others can change it")),
    ] {
        let env = entered();
        let volume = secret(&env, gid, mode);
        let file = volume.join("token.json");
        let args = ["--store", "memory:", "--admin-token-file", file.to_str().unwrap()];
        let Some(message) = refused else {
            assert!(unprivileged(serve(&env, &args)).start().accepts(TOKEN));
            for link in ["..data", "token.json"] {
                lchown(volume.join(link), Some(1), None).unwrap();
                let output = unprivileged(serve(&env, &args)).run();
                output.assert_failed(1, &[&format!("{link} belongs to another user (uid 1, "), "chown -h "]);
                lchown(volume.join(link), Some(0), None).unwrap();
            }
            continue;
        };
        unprivileged(serve(&env, &args)).run().assert_failed(1, &[message]);
    }
    // Root can read the file of a group that is not its own.
    let env = entered();
    let file = secret(&env, GROUP, 0o440).join("token.json");
    let output = serve(&env, &["--store", "memory:", "--admin-token-file", file.to_str().unwrap()]).run();
    output.assert_failed(1, &["insecure permissions: 440", "set defaultMode: 0440", "hash token"]);
}

pub(crate) fn unusable_stores_are_named_with_the_next_step() {
    let env = entered();
    env.serve(&[]).stop();
    let original = env.store();
    // Directory, database and files beside it: owner and mode; then what the error has.
    let root = (0, 0o755);
    let own = |mode| (UNPRIVILEGED, mode);
    for (name, directory, database, beside, messages) in [
        (
            "closed",
            (0, 0o700),
            own(0o600),
            None,
            &["may not search the directory ", "/closed; run as a user that may"][..],
        ),
        (
            "of-root",
            root,
            (0, 0o644),
            None,
            &["the file belongs to the user with the id 0; run as that user"],
        ),
        ("read-only", own(0o700), own(0o400), None, &["its mode closes it; run chmod u+rw"]),
        ("unreadable", own(0o700), own(0o000), None, &["its mode closes it; run chmod u+rw"]),
        (
            "log-of-own",
            own(0o700),
            own(0o600),
            Some(("-wal", own(0o000))),
            &[
                "the file beside it whose name ends in -wal belongs to the user of the server, and its mode closes it",
            ],
        ),
        (
            "index-of-root",
            own(0o700),
            own(0o600),
            Some(("-shm", (0, 0o600))),
            &["whose name ends in -shm belongs to the user with the id 0; run as that user"],
        ),
    ] {
        let _case = CaseName(name);
        let path = env.home().join(name);
        fs::create_dir(&path).unwrap();
        let store = path.join("tokens.db");
        fs::copy(&original, &store).unwrap();
        set(&store, database.0, database.0, database.1);
        if let Some((suffix, (uid, mode))) = beside {
            let file = path.join(format!("tokens.db{suffix}"));
            fs::write(&file, "").unwrap();
            set(&file, uid, uid, mode);
        }
        set(&path, directory.0, directory.0, directory.1);
        assert_unusable(unprivileged(serve(&env, &["--data-dir", path.to_str().unwrap()])), messages);
    }
    let taken = env.home().join("taken");
    fs::create_dir_all(taken.join("tokens.db-wal")).unwrap();
    fs::set_permissions(&taken, Permissions::from_mode(0o700)).unwrap();
    fs::copy(&original, taken.join("tokens.db")).unwrap();
    let store = format!("sqlite:{}/tokens.db", taken.display());
    assert_unusable(serve(&env, &["--store", &store]), &["with -wal is not a regular file", "move it away"]);
    assert_unusable(
        serve(&env, &["--store", "sqlite:missing/tokens.db"]),
        &["No such file or directory (os error 2): name a path where the server can create files"],
    );
    for (options, messages) in [
        ("", &["cannot use the data directory ", "name another directory: Read-only file system"][..]),
        ("mkdir -m 700 data && ", &["is read-only, so nothing was changed: make it writable"]),
    ] {
        let volume = env.home().join("volume");
        let _ = fs::create_dir(&volume);
        let script = format!(
            "mount -t tmpfs -o mode=0755 tmpfs {0} && cd {0} && {options}mount -o remount,ro {0} && exec \"$0\" \"$@\"",
            volume.display()
        );
        let data = volume.join("data");
        let cli = serve(&env, &["--data-dir", data.to_str().unwrap()]).in_shell(&script);
        assert_unusable(cli.wrapped_in(&path(UNSHARE), &["--mount"]), messages);
    }
}

/// Asserts an error in words: no bare code, and no path twice.
fn assert_unusable(cli: Cli, messages: &[&str]) {
    let output = cli.run();
    output.assert_failed(1, &["Serve command failed: cannot "]);
    output.assert_failed(1, messages);
    assert!(!output.stderr.contains("rror code") && !output.stderr.contains("(code"), "{output:?}");
    assert!(output.stderr.matches("tokens.db:").count() <= 1, "{output:?}");
}
