//! When a snapshot may be used, and when the store is read next: the rules alone.
//!
//! Knows no clock, no thread and no store. The authority and the simulation of many nodes
//! (`tests/bench/nodes.rs`) run this code, so it imports nothing of this crate.
//!
//! The rule: a snapshot is proved by a read that found its version. The proof is the moment at
//! which the newest such read *began*. A credential is accepted only if, after it was checked on
//! that snapshot, the proof is no older than the maximum staleness S.
//!
//! So a token whose revocation was acknowledged at R is not accepted at T > R + S. Its proof would
//! be at least T − S, and so after R. A read that begins after R finds the revocation, or a later
//! state. News, keepalives and open connections prove nothing.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The shortest time between the starts of two polls that news cause.
pub(crate) const NEWS_GAP: Duration = Duration::from_millis(50);

/// The longest pause after the first failed poll.
const FIRST_RETRY: Duration = Duration::from_millis(500);

/// The bits of a proof that hold its source.
const SOURCE_BITS: u32 = 2;

/// A moment of a clock that never goes back, as the time since its origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(Duration);

impl Moment {
    pub(crate) const fn new(since_origin: Duration) -> Self {
        Self(since_origin)
    }

    /// The time since an earlier moment; zero if that is later.
    pub(crate) const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    pub(crate) const fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time))
    }

    /// Rounded down, so that a proof never looks newer than it is.
    fn millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX) & (u64::MAX >> SOURCE_BITS)
    }
}

/// What has proved last that the current snapshot is the newest state of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProofSource {
    /// The start of the authority.
    Start,
    /// A read of the poller that was due.
    Poll,
    /// A read of the poller after news of the store.
    News,
    /// A command of this authority.
    Command,
}

impl ProofSource {
    /// One word for metrics and for programs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Poll => "poll",
            Self::News => "news",
            Self::Command => "command",
        }
    }

    const fn bits(self) -> u64 {
        match self {
            Self::Start => 0,
            Self::Poll => 1,
            Self::News => 2,
            Self::Command => 3,
        }
    }

    const fn from_bits(bits: u64) -> Self {
        match bits & 3 {
            0 => Self::Start,
            1 => Self::Poll,
            2 => Self::News,
            _ => Self::Command,
        }
    }
}

impl fmt::Display for ProofSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// When the newest read began that found a snapshot, and which. A snapshot keeps it as one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Proof {
    pub(crate) begun: Moment,
    pub(crate) source: ProofSource,
}

impl Proof {
    pub(crate) const fn new(begun: Moment, source: ProofSource) -> Self {
        Self { begun, source }
    }

    /// The word of this proof. A later read has a larger word.
    pub(crate) fn word(self) -> u64 {
        self.begun.millis() << SOURCE_BITS | self.source.bits()
    }

    pub(crate) fn of_word(word: u64) -> Self {
        let begun = Moment(Duration::from_millis(word >> SOURCE_BITS));
        Self { begun, source: ProofSource::from_bits(word) }
    }

    pub(crate) fn load(word: &AtomicU64) -> Self {
        Self::of_word(word.load(Ordering::Acquire))
    }

    /// Moves the proof of a snapshot to this read, unless a newer one has found it.
    pub(crate) fn extend(self, word: &AtomicU64) {
        word.fetch_max(self.word(), Ordering::AcqRel);
    }
}

/// The rule by which a snapshot may be used.
#[derive(Debug)]
pub(crate) struct Freshness {
    max_staleness: Duration,
    /// A read that began at this millisecond or before proves nothing.
    after: AtomicU64,
}

impl Freshness {
    pub(crate) const fn new(max_staleness: Duration) -> Self {
        Self { max_staleness, after: AtomicU64::new(0) }
    }

    pub(crate) const fn max_staleness(&self) -> Duration {
        self.max_staleness
    }

    /// Whether a credential is accepted that was checked before `now` on the snapshot with this
    /// proof.
    pub(crate) fn accepts(&self, proof: &AtomicU64, now: Moment) -> bool {
        let proof = Proof::load(proof).begun;
        proof.millis() > self.after.load(Ordering::Acquire) && now.since(proof) <= self.max_staleness
    }

    /// Demands a read that begins after this moment: the store has changed in a way that this
    /// process could not read back.
    pub(crate) fn demand_read_after(&self, moment: Moment) {
        self.after.fetch_max(moment.millis(), Ordering::AcqRel);
    }
}

/// When the poller reads the store.
///
/// - The reads are one interval apart, from start to start.
/// - A slow read is followed by a pause of at least a quarter of the interval.
/// - A failed read is repeated earlier, after a pause that grows up to the interval. Half of it is
///   random, so that many nodes do not return at once.
/// - News start a read at once, or [`NEWS_GAP`] after the start of the one before. One read serves
///   all news before it.
/// - After a read because of news, half of the interval is random: news reach all nodes together.
#[derive(Debug)]
pub(crate) struct PollSchedule {
    interval: Duration,
    /// When a read is due without news.
    next: Moment,
    /// When the newest read began.
    begun: Moment,
    /// News that no read has served.
    has_news: bool,
    /// Whether the newest read was because of news.
    by_news: bool,
    failures: u32,
    random: Random,
}

impl PollSchedule {
    /// A schedule whose first read is due at once.
    pub(crate) const fn new(interval: Duration, now: Moment, seed: u64) -> Self {
        let random = Random(seed);
        Self { interval, next: now, begun: now, has_news: false, by_news: false, failures: 0, random }
    }

    /// Notes news of the store.
    pub(crate) const fn note_news(&mut self) {
        self.has_news = true;
    }

    /// When the next read is due.
    pub(crate) fn due(&self) -> Moment {
        if self.has_news { self.next.min(self.begun.after(NEWS_GAP)) } else { self.next }
    }

    /// Begins a read, which serves all news until now.
    pub(crate) const fn begin(&mut self, now: Moment) -> ProofSource {
        self.by_news = self.has_news;
        self.has_news = false;
        self.begun = now;
        if self.by_news { ProofSource::News } else { ProofSource::Poll }
    }

    /// Ends the read; `answered` is whether the store has answered.
    pub(crate) fn end(&mut self, answered: bool, now: Moment) {
        let earliest = now.after(self.interval / 4);
        self.next = if !answered {
            let first = FIRST_RETRY.min(self.interval / 4);
            let pause = first.saturating_mul(1 << self.failures.min(16)).min(self.interval);
            self.failures = self.failures.saturating_add(1);
            now.after(self.random.half_of(pause))
        } else if self.by_news {
            self.failures = 0;
            earliest.max(self.begun.after(self.random.half_of(self.interval)))
        } else {
            self.failures = 0;
            earliest.max(self.begun.after(self.interval))
        };
    }
}

/// A sequence of numbers that differ between nodes (`SplitMix64`). Nothing secret depends on it.
#[derive(Debug)]
struct Random(u64);

impl Random {
    /// This time, or down to half of it.
    fn half_of(&mut self, time: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // The upper half of the bits is as random as all of them.
        let part = u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap_or(u32::MAX);
        time.mul_f64(0.5 + 0.5 * f64::from(part) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn at(millis: u64) -> Moment {
        Moment::new(ms(millis))
    }

    #[test]
    fn snapshot_is_used_until_its_proof_is_too_old() {
        let rule = Freshness::new(ms(100));
        let proof = AtomicU64::new(Proof::new(at(1000), ProofSource::Start).word());
        assert!(rule.accepts(&proof, at(1100)));
        assert!(!rule.accepts(&proof, at(1101)));
        // A fraction of a millisecond counts.
        assert!(!rule.accepts(&proof, Moment::new(Duration::from_micros(1_100_001))));
        // A read that began earlier and ended later changes nothing.
        Proof::new(at(900), ProofSource::Poll).extend(&proof);
        assert_eq!(Proof::load(&proof), Proof::new(at(1000), ProofSource::Start));
        for source in [ProofSource::Poll, ProofSource::News, ProofSource::Command] {
            let begun = at(1050 + source.bits());
            Proof::new(begun, source).extend(&proof);
            assert_eq!(Proof::load(&proof), Proof::new(begun, source));
            assert_eq!(ProofSource::from_bits(source.bits()), source);
        }
        assert!(rule.accepts(&proof, at(1153)) && !rule.accepts(&proof, at(1154)));
    }

    #[test]
    fn snapshot_without_proof_is_never_used() {
        // The clock has begun just now.
        assert!(!Freshness::new(ms(100)).accepts(&AtomicU64::new(0), at(5)));
    }

    #[test]
    fn demanded_read_must_begin_later() {
        let rule = Freshness::new(ms(100));
        let proof = AtomicU64::new(Proof::new(at(1000), ProofSource::Poll).word());
        rule.demand_read_after(at(1010));
        assert!(!rule.accepts(&proof, at(1011)));
        // This read began before, and may have missed the change.
        Proof::new(at(1010), ProofSource::Poll).extend(&proof);
        assert!(!rule.accepts(&proof, at(1011)));
        Proof::new(at(1011), ProofSource::Poll).extend(&proof);
        assert!(rule.accepts(&proof, at(1012)));
        // An earlier demand changes nothing.
        rule.demand_read_after(at(1000));
        assert!(rule.accepts(&proof, at(1012)));
        let earlier = AtomicU64::new(Proof::new(at(1005), ProofSource::Poll).word());
        assert!(!rule.accepts(&earlier, at(1012)));
    }

    #[test]
    fn reads_are_one_interval_apart() {
        let mut schedule = PollSchedule::new(ms(1000), at(0), 1);
        assert_eq!(schedule.due(), at(0));
        for turn in 0..5 {
            let due = at(1000 * turn);
            assert_eq!(schedule.due(), due);
            assert_eq!(schedule.begin(due), ProofSource::Poll);
            schedule.end(true, due.after(ms(700)));
        }
        // A slow one gets a pause.
        schedule.begin(at(5000));
        schedule.end(true, at(8000));
        assert_eq!(schedule.due(), at(8250));
    }

    #[test]
    fn failed_read_is_repeated_earlier_with_jitter() {
        let pauses = |seed| {
            let mut schedule = PollSchedule::new(ms(1000), at(0), seed);
            let mut pauses = Vec::new();
            let mut now = at(0);
            for _ in 0..8 {
                schedule.begin(now);
                schedule.end(false, now);
                pauses.push(schedule.due().since(now));
                now = schedule.due();
            }
            schedule.begin(now);
            schedule.end(true, now);
            assert_eq!(schedule.due(), now.after(ms(1000)));
            schedule.begin(schedule.due());
            schedule.end(false, schedule.begun);
            assert!(schedule.due() <= schedule.begun.after(ms(250)), "the pause begins again");
            pauses
        };
        let first = pauses(1);
        for (pause, most) in first.iter().zip([250, 500, 1000, 1000, 1000, 1000, 1000, 1000]) {
            assert!((ms(most) / 2..=ms(most)).contains(pause), "{pause:?} of {most}");
        }
        assert_eq!(first, pauses(1));
        assert_ne!(first, pauses(2));
        // An hour between two polls is no reason to wait long after a failure.
        let mut schedule = PollSchedule::new(Duration::from_hours(1), at(0), 1);
        schedule.begin(at(0));
        schedule.end(false, at(0));
        assert!(schedule.due() <= at(500));
    }

    #[test]
    fn news_are_read_at_once_and_together() {
        let mut schedule = PollSchedule::new(ms(1000), at(0), 1);
        schedule.begin(at(0));
        schedule.end(true, at(1));
        schedule.note_news();
        schedule.note_news();
        assert!(schedule.due() <= at(400), "at once, as the gap is over");
        assert_eq!(schedule.begin(at(400)), ProofSource::News);
        // News during a read may be about a change that it has missed.
        schedule.note_news();
        schedule.end(true, at(410));
        assert_eq!(schedule.due(), at(450));
        assert_eq!(schedule.begin(at(450)), ProofSource::News);
        schedule.end(true, at(460));
        // One read has served both; the next one is spread, no later than after an interval.
        assert!((at(950)..=at(1450)).contains(&schedule.due()), "{schedule:?}");
    }

    #[test]
    fn storm_of_news_causes_no_tight_loop() {
        for answered in [true, false] {
            let mut schedule = PollSchedule::new(ms(1000), at(0), 1);
            let mut reads = 0;
            for now in 0..10_000 {
                schedule.note_news();
                if schedule.due() <= at(now) {
                    schedule.begin(at(now));
                    schedule.end(answered, at(now));
                    reads += 1;
                }
            }
            assert!((150..=201).contains(&reads), "{reads}");
        }
    }
}
