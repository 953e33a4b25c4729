//! Threads that stay together for the run of a program.
//!
//! A program is hundreds of short parallel loops with sequential work between them. Waking a sleeping thread for each
//! would cost more than many of the loops, so the helpers watch for work, and only give way if none comes for long.
#![allow(unsafe_code, reason = "work is borrowed from the caller's stack, which waits until nobody uses it")]

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// Looks for work before a helper lets other threads have the core.
const LOOKS: usize = 1000;

/// A thread's share of the tasks at hand: the number of the next, in a cache line of its own.
#[derive(Default)]
#[repr(align(128))]
struct Share(AtomicUsize);

/// A thread with its helpers.
pub(super) struct Team {
    /// What is to be done; valid while `open` is not zero or somebody is `inside`.
    work: UnsafeCell<Option<Work>>,
    /// The number of the work that may be joined; 0 if there is none.
    open: AtomicUsize,
    /// Helpers that may be looking at `work`.
    inside: AtomicUsize,
    /// The program is done.
    over: AtomicUsize,
    /// The numbers given to works so far; used by the leading thread only.
    given: AtomicUsize,
    /// One for each thread.
    shares: Vec<Share>,
}

type Work = *const (dyn Fn(usize) + Sync);

// SAFETY: `work` is written by the leading thread only, while nobody else looks at it.
unsafe impl Sync for Team {}

impl Team {
    /// Runs `lead` on one thread of the pool, with the others as helpers.
    pub(super) fn run(lead: impl FnOnce(&Team) + Send) {
        let threads = rayon::current_num_threads();
        let zero = || AtomicUsize::new(0);
        let shares = (0..threads).map(|_| Share::default()).collect();
        let team = Team { work: UnsafeCell::new(None), open: zero(), inside: zero(), over: zero(), given: zero(), shares };
        rayon::scope(|scope| {
            for number in 1..threads {
                let team = &team;
                scope.spawn(move |_| team.help(number));
            }
            let _over = OnDrop(|| team.over.store(1, SeqCst));
            lead(&team);
        });
    }

    /// Calls `f` for every number below `tasks`, on any thread; results must not hang on which. Each thread has a value
    /// of its own that `f` may keep things in. A thread begins with its share, the same of equally many tasks each time: what it wrote
    /// before is near. Then it helps the others.
    pub(super) fn each_with<S: Default>(&self, tasks: usize, f: impl Fn(&mut S, usize) + Sync) {
        let threads = self.shares.len();
        if tasks <= 1 || threads == 1 {
            let mut own = S::default();
            return (0..tasks).for_each(|i| f(&mut own, i));
        }
        // The leading thread, which is surely awake, always has a share.
        let begin = |thread: usize| (thread * tasks).div_ceil(threads);
        // Nobody looks at them: the last work is closed, and the next is not open.
        for (thread, share) in self.shares.iter().enumerate() {
            share.0.store(begin(thread), SeqCst);
        }
        self.together(|number| {
            let mut own = S::default();
            for thread in (number..threads).chain(0..number) {
                let (next, end) = (&self.shares[thread].0, begin(thread + 1));
                while next.load(SeqCst) < end {
                    let i = next.fetch_add(1, SeqCst);
                    if i < end {
                        f(&mut own, i);
                    }
                }
            }
        });
    }

    /// Calls `work` once on every thread that is free, with the thread's number.
    fn together(&self, work: impl Fn(usize) + Sync) {
        let shared: &(dyn Fn(usize) + Sync) = &work;
        // SAFETY: nobody looks at it: who is inside saw another number than the one that is open. The lifetime is only forgotten: this call does not return, nor unwind, before the
        // work is closed and everybody has left it.
        unsafe { *self.work.get() = Some(std::mem::transmute::<&(dyn Fn(usize) + Sync), Work>(shared)) };
        let number = self.given.fetch_add(1, SeqCst) + 1;
        self.open.store(number, SeqCst);
        let _closed = OnDrop(|| {
            self.open.store(0, SeqCst);
            wait(|| self.inside.load(SeqCst) == 0);
        });
        work(0);
    }

    /// Calls `f` for every number below `tasks`.
    pub(super) fn each(&self, tasks: usize, f: impl Fn(usize) + Sync) {
        self.each_with(tasks, |(): &mut (), i| f(i));
    }

    /// The results of `f` for every number below `tasks`, in order.
    pub(super) fn map<R: Send>(&self, tasks: usize, f: impl Fn(usize) -> R + Sync) -> Vec<R> {
        let results: Vec<std::sync::Mutex<Option<R>>> = (0..tasks).map(|_| std::sync::Mutex::new(None)).collect();
        self.each(tasks, |i| {
            let result = f(i);
            if let Ok(mut slot) = results[i].lock() {
                *slot = Some(result);
            }
        });
        results.into_iter().filter_map(|slot| slot.into_inner().ok().flatten()).collect()
    }

    fn help(&self, own: usize) {
        let mut last = 0;
        loop {
            let mut number = 0;
            wait(|| {
                number = self.open.load(SeqCst);
                (number != 0 && number != last) || self.over.load(SeqCst) == 1
            });
            if number == 0 || number == last {
                return;
            }
            self.inside.fetch_add(1, SeqCst);
            let _left = OnDrop(|| {
                self.inside.fetch_sub(1, SeqCst);
            });
            // Still open: the leading thread, which closes before it counts, will see this helper inside.
            if self.open.load(SeqCst) == number {
                // SAFETY: the work is there until it is closed and everybody has left.
                if let Some(work) = unsafe { *self.work.get() } {
                    // SAFETY: as above.
                    unsafe { (*work)(own) }
                }
            }
            last = number;
        }
    }
}

/// Watches until `done`, giving way to other threads when that takes long.
fn wait(mut done: impl FnMut() -> bool) {
    let mut looks = 0;
    while !done() {
        if looks < LOOKS {
            looks += 1;
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }
}

/// Does something at the end of a scope, also when it unwinds.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_is_done_once_in_every_loop() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().expect("a pool");
        pool.install(|| {
            Team::run(|team| {
                for n in (0..2000).map(|i| i % 17) {
                    let counts: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
                    team.each(n, |i| {
                        counts[i].fetch_add(1, SeqCst);
                    });
                    assert!(counts.iter().all(|c| c.load(SeqCst) == 1));
                    assert_eq!(team.map(n, |i| i * i), (0..n).map(|i| i * i).collect::<Vec<_>>());
                }
            });
        });
    }

    #[test]
    fn a_panic_of_any_thread_comes_out_and_nobody_waits_for_ever() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("a pool");
        for bad in 0..20 {
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                pool.install(|| Team::run(|team| (0..10).for_each(|_| team.each(20, |i| assert!(i != bad, "task {i}")))));
            }));
            assert!(caught.is_err());
        }
    }
}
