//! The threads that make masks.

use std::num::NonZero;
use std::thread::{JoinHandle, available_parallelism};

use crossbeam_channel::{Sender, unbounded};

use super::mask_job::MaskJob;

/// A mask to be made, and where it goes.
type Work = (Box<MaskJob>, Sender<Box<MaskJob>>);

/// Threads that make masks while the device thread and the device do other things. There are none
/// before the first mask.
#[derive(Default)]
pub(super) struct MaskWorkers {
    work: Option<Sender<Work>>,
    threads: Vec<JoinHandle<()>>,
}

impl MaskWorkers {
    /// Has a mask made, and sent to `returns`.
    pub(super) fn run(&mut self, job: Box<MaskJob>, returns: Sender<Box<MaskJob>>) {
        if self.work.is_none() {
            self.start();
        }
        let work = (job, returns);
        match &self.work {
            Some(queue) if !self.threads.is_empty() => {
                // The threads end with the queue only: what panics there is caught.
                let _ = queue.send(work);
            }
            // Not even one can be started: here and now.
            _ => make(work),
        }
    }

    fn start(&mut self) {
        let (queue, works) = unbounded::<Work>();
        // Half of the CPUs at most: the others run the model, where these do.
        let num_threads = (available_parallelism().map_or(1, NonZero::get) / 2).clamp(1, 8);
        for index in 0..num_threads {
            let works = works.clone();
            let thread = std::thread::Builder::new().name(format!("nvllm-mask-{index}"));
            self.threads.extend(thread.spawn(move || works.into_iter().for_each(make)));
        }
        self.work = Some(queue);
    }
}

fn make((mut job, returns): Work) {
    job.run();
    // Of a sequence that has ended nobody awaits it.
    let _ = returns.send(job);
}

impl Drop for MaskWorkers {
    fn drop(&mut self) {
        self.work = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
