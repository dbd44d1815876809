//! Programs that send a password only after a challenge of the scheme Basic.

use crate::needs::{self, PYTHON3, WGET};
use crate::support::TestEnv;

/// Asks with Python's handler for the scheme, which looks at all challenges of an answer.
const PYTHON_CLIENT: &str = r#"
import sys, urllib.request
url, token = sys.argv[1:]
passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
passwords.add_password(None, url, "user", token)
handler = urllib.request.HTTPBasicAuthHandler(passwords)
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), handler)
print(opener.open(url).read().decode(), end="")
"#;

pub(crate) fn wget_and_python_answer_it() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let token = server.create();
    for (path, body) in [("/health", "OK"), ("/api/v3/verify", ""), ("/api/v3/verify/below", "")] {
        let url = format!("http://{}{path}", server.address);
        let mut wget = needs::command(WGET);
        wget.args(["--no-config", "--no-proxy", "--tries=1", "--quiet", "--output-document=-", "--user=x"]);
        wget.arg(format!("--password={token}")).arg(&url);
        let mut python = needs::command(PYTHON3);
        python.args(["-c", PYTHON_CLIENT, &url, &token]);
        for mut program in [wget, python] {
            let output = program.output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{path}: {stderr}");
            assert_eq!(String::from_utf8_lossy(&output.stdout), body, "{path}: {stderr}");
        }
    }
    // RFC 9110, section 9.1: a check without the body.
    let mut spider = needs::command(WGET);
    spider.args(["--no-config", "--no-proxy", "--tries=1", "--quiet", "--spider", "--user=x"]);
    spider.arg(format!("--password={token}")).arg(format!("http://{}/health", server.address));
    assert!(spider.status().unwrap().success());
}
