//! How many threads take part in a section: all, or fewer where the machine is busy with other
//! things.
//!
//! A thread that has to share its processor stands still for milliseconds at a time, sometimes in
//! the middle of a part, and the others wait for it; what it spends on looking for work is taken
//! from those who have some. How much that costs cannot be known from within, so it is measured: a
//! caller that stands still or waits for a good share of its time tries fewer threads for a while,
//! and whichever way did more parts a second is kept until the next try. On an idle machine no try
//! is ever made.

use std::time::{Duration, Instant};

/// How long all threads work before their rate is judged: several turns of a scheduler.
const WINDOW: Duration = Duration::from_millis(20);
/// Longest time between two tries.
const HOLD: Duration = Duration::from_millis(640);
/// Sections between two looks at the clock.
const SECTIONS: u32 = 64;

/// What the time is.
pub(super) trait Clock {
    /// Of the day, so to speak.
    fn now(&self) -> Instant;
    /// That the calling thread has computed; `None` where the system does not say.
    fn thread(&self) -> Option<Duration>;
}

pub(super) struct Pace {
    all: usize,
    fewer: usize,
    used: usize,
    window: Window,
    /// How long fewer threads are used the next time.
    hold: Duration,
    /// Parts a second that fewer threads did, and until when this is believed.
    fewer_rate: Option<(f64, Instant)>,
}

/// What happened since a time.
struct Window {
    since: Instant,
    thread: Option<Duration>,
    sections: u32,
    parts: usize,
    waited: Duration,
}

impl Window {
    fn new(since: Instant, clock: &impl Clock) -> Self {
        Self { since, thread: clock.thread(), sections: 0, parts: 0, waited: Duration::ZERO }
    }

    /// Whether the caller stood still or waited for a quarter of `time` and more.
    fn is_contended(&self, time: Duration, clock: &impl Clock) -> bool {
        let computed = clock.thread().zip(self.thread).map(|(now, then)| now.saturating_sub(then));
        let stood = computed.map_or(Duration::ZERO, |computed| time.saturating_sub(computed));
        4 * stood.max(self.waited) > time
    }
}

impl Pace {
    pub(super) fn new(all: usize, clock: &impl Clock) -> Self {
        let window = Window::new(clock.now(), clock);
        Self { all, fewer: all.div_ceil(2), used: all, window, hold: WINDOW, fewer_rate: None }
    }

    /// Threads of the next section, the caller included.
    pub(super) fn threads(&self) -> usize {
        self.used
    }

    /// A section of `parts` is over; how long the caller waited for workers, if the clock was read.
    pub(super) fn done(&mut self, parts: usize, wait: Option<(Instant, Instant)>, clock: &impl Clock) {
        self.window.parts += parts;
        self.window.sections += 1;
        let now = match wait {
            Some((from, to)) => {
                self.window.waited += to.saturating_duration_since(from);
                to
            }
            // A few long sections with fewer threads are more than enough.
            None if self.used < self.all || self.window.sections.is_multiple_of(SECTIONS) => clock.now(),
            None => return,
        };
        let time = now.saturating_duration_since(self.window.since);
        let full = if self.used == self.all { WINDOW } else { self.hold };
        if time < full {
            return;
        }
        // Much longer than asked for: nothing ran for some of it.
        if time < 3 * full {
            self.judge(now, time, clock);
        } else {
            self.used = self.all;
        }
        self.window = Window::new(now, clock);
    }

    fn judge(&mut self, now: Instant, time: Duration, clock: &impl Clock) {
        let rate = self.window.parts as f64 / time.as_secs_f64();
        if self.used < self.all {
            self.fewer_rate = Some((rate, now + HOLD));
            self.used = self.all;
            return;
        }
        let fewer = self.fewer_rate.filter(|(_, until)| now < *until).map(|(rate, _)| rate);
        if !self.window.is_contended(time, clock) {
            self.hold = WINDOW;
        } else if fewer.is_none() {
            self.used = self.fewer;
        } else if fewer.is_some_and(|fewer| rate < fewer) {
            self.used = self.fewer;
            self.hold = (2 * self.hold).min(HOLD);
        } else {
            self.hold = (self.hold / 2).max(WINDOW);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A clock that the test moves.
    struct Hand {
        start: Instant,
        passed: Cell<Duration>,
        computed: Cell<Duration>,
    }

    impl Clock for Hand {
        fn now(&self) -> Instant {
            self.start + self.passed.get()
        }
        fn thread(&self) -> Option<Duration> {
            Some(self.computed.get())
        }
    }

    /// A pool of `all` threads on a machine where a section of two parts takes `many` with all
    /// threads and `few` with fewer, while the caller computes for a share of either.
    struct Machine {
        clock: Hand,
        pace: Pace,
        many: (Duration, f64),
        few: (Duration, f64),
    }

    impl Machine {
        fn new(all: usize, many: (Duration, f64), few: (Duration, f64)) -> Self {
            let zero = || Cell::new(Duration::ZERO);
            let clock = Hand { start: Instant::now(), passed: zero(), computed: zero() };
            let pace = Pace::new(all, &clock);
            Self { clock, pace, many, few }
        }

        /// Runs sections for `time`; the share of them that ran with all threads.
        fn run(&mut self, time: Duration) -> f64 {
            let (mut all, mut sections) = (0, 0);
            let end = self.clock.passed.get() + time;
            while self.clock.passed.get() < end {
                let with_all = self.pace.threads() == self.pace.all;
                let (takes, share) = if with_all { self.many } else { self.few };
                self.clock.passed.set(self.clock.passed.get() + takes);
                self.clock.computed.set(self.clock.computed.get() + takes.mul_f64(share));
                self.pace.done(2, None, &self.clock);
                all += u32::from(with_all);
                sections += 1;
            }
            all as f64 / sections as f64
        }
    }

    #[test]
    fn an_idle_machine_never_runs_fewer_threads() {
        let mut machine = Machine::new(8, (MS / 100, 0.95), (MS / 50, 1.0));
        assert_eq!(machine.run(5000 * MS), 1.0);
    }

    #[test]
    fn where_fewer_threads_do_more_they_do_nearly_all() {
        let mut machine = Machine::new(2, (MS / 20, 0.4), (MS / 50, 0.6));
        machine.run(1000 * MS);
        let share = machine.run(5000 * MS);
        assert!(share < 0.05, "{share} of the sections ran with all threads");
        assert_eq!(machine.pace.hold, HOLD);
    }

    #[test]
    fn where_all_threads_do_more_they_are_kept_though_the_caller_stands_still() {
        let mut machine = Machine::new(2, (MS / 50, 0.6), (MS / 25, 0.6));
        machine.run(1000 * MS);
        let share = machine.run(5000 * MS);
        assert!(share > 0.95, "{share} of the sections ran with all threads");
    }

    #[test]
    fn all_threads_are_back_soon_after_the_machine_is_idle_again() {
        let mut machine = Machine::new(2, (MS / 20, 0.4), (MS / 50, 0.6));
        machine.run(3000 * MS);
        machine.many = (MS / 100, 1.0);
        machine.run(HOLD + WINDOW);
        assert_eq!(machine.run(3000 * MS), 1.0);
        assert_eq!(machine.pace.hold, WINDOW);
    }

    #[test]
    fn long_sections_do_not_keep_fewer_threads() {
        let mut machine = Machine::new(2, (MS / 20, 0.4), (MS / 50, 0.6));
        machine.run(3000 * MS);
        (machine.many, machine.few) = ((50 * MS, 1.0), (100 * MS, 1.0));
        machine.run(HOLD + 200 * MS);
        assert_eq!(machine.run(3000 * MS), 1.0);
    }

    #[test]
    fn waiting_for_workers_counts_as_standing_still() {
        let mut machine = Machine::new(4, (MS, 1.0), (MS, 1.0));
        for _ in 0..20 {
            let from = machine.clock.now();
            machine.clock.passed.set(machine.clock.passed.get() + MS);
            machine.clock.computed.set(machine.clock.computed.get() + MS);
            machine.pace.done(8, Some((from + MS * 2 / 3, from + MS)), &machine.clock);
        }
        assert_eq!(machine.pace.threads(), 2);
    }

    #[test]
    fn a_pause_between_requests_is_no_sign_of_a_busy_machine() {
        let mut machine = Machine::new(2, (MS / 100, 1.0), (MS / 50, 1.0));
        for _ in 0..20 {
            assert_eq!(machine.run(100 * MS), 1.0);
            machine.clock.passed.set(machine.clock.passed.get() + 500 * MS);
        }
    }
}
