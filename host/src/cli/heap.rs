//! Keeps the memory of the process small.

/// Lets all threads allocate from one heap of glibc, unless `MALLOC_ARENA_MAX` is set. By itself,
/// glibc has eight heaps for each processor, and keeps in each of them what a burst of connections
/// needed once. Other C libraries have no such heaps.
///
/// The first call of the process, while it has one thread: a heap that exists already would stay.
pub(super) fn limit() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    if std::env::var_os("MALLOC_ARENA_MAX").is_none() {
        // SAFETY: `mallopt` sets a parameter of the allocator, under its lock. glibc asks that no
        // other thread runs meanwhile. `cli::run` is the whole of `main`, and calls this first.
        #[expect(unsafe_code, reason = "no safe crate offers mallopt")]
        // A refusal costs memory alone.
        let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    }
}
