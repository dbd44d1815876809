//! The memory of a server.

use std::fs;

use crate::support::{Server, TestEnv, get, send_concurrently};

/// The address space that glibc reserves for each further heap.
const HEAP_KIB: u64 = 64 << 10;

/// Returns the address space of a server, in KiB. The file is readable although the server forbids
/// other processes to read its memory.
fn address_space(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    size.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

#[test]
#[cfg_attr(not(all(target_os = "linux", target_env = "gnu")), ignore = "the heaps of glibc")]
fn all_threads_of_a_server_share_one_heap() {
    let space_after_burst = |heaps: Option<&str>| {
        let env = TestEnv::new();
        let mut cli = env.serve_with(&["--store", "memory:"]);
        if let Some(heaps) = heaps {
            cli = cli.env("MALLOC_ARENA_MAX", heaps);
        }
        let server = cli.start();
        let token = server.create();
        let verify = || (server.address, get("/api/v3/verify").bearer(&token));
        for response in send_concurrently((0..64).map(|_| verify()).collect()) {
            assert_eq!(response.unwrap().status, 200);
        }
        address_space(&server)
    };
    let shared = space_after_burst(None);
    let [one, several] = ["1", "8"].map(|heaps| space_after_burst(Some(heaps)));
    assert!(shared.abs_diff(one) < HEAP_KIB, "{shared} KiB, with one heap {one} KiB");
    assert!(several >= shared + HEAP_KIB, "{shared} KiB, with eight heaps {several} KiB");
}
