//! Whether a schedule can be run: no wait without end, nothing read before it is written or after
//! it is overwritten.
//!
//! What is looked at is what the kernel is given. Blocks go through the phases in order and wait
//! for packets of earlier phases alone, so with all blocks at once there is always one that goes
//! on. A block knows that a phase is over where it has read all that the phase made, or what was
//! made from all of that: only then may it write where the phase read.

use std::collections::BTreeSet;
use std::ops::Range;

use super::phase::{ATTENTION, FOLD, LINEAR, NO_TAG, OUT_F32, Phase, SILU};
use super::schedule::Schedule;
use crate::memory::Address;

/// What runs a schedule.
#[derive(Clone, Copy, Debug)]
pub(super) struct Machine {
    /// Blocks of the launch.
    pub blocks: usize,
    /// Blocks that the device holds at once.
    pub multiprocessors: usize,
    /// Columns that attention reads, and writes.
    pub attention: [usize; 2],
}

type Bytes = Range<Address>;

fn overlap(a: &Bytes, b: &Bytes) -> bool {
    a.start < b.end && b.start < a.end
}

/// What a phase reads: which phase made it, if it is no plain rows, and where it is.
struct Read {
    tag: i32,
    at: Bytes,
    /// Whether each block reads all of it.
    whole: bool,
}

impl Machine {
    fn bytes(at: Address, cols: u32, tag: i32, wide: bool) -> Bytes {
        let of_element = if tag != NO_TAG || wide { 4 } else { 2 };
        at..at + Address::from(cols) * of_element
    }

    fn reads(&self, phase: &Phase) -> Vec<Read> {
        let [x_cols, _] = self.attention.map(|cols| cols as u32);
        let read = |at, cols, tag, whole| Read { tag, at: Self::bytes(at, cols, tag, false), whole };
        match phase.kind {
            LINEAR => {
                let x = read(phase.x, phase.k, phase.x_tag, true);
                let residual = read(phase.residual, phase.outputs, phase.residual_tag, false);
                [Some(x), (phase.residual != 0).then_some(residual)].into_iter().flatten().collect()
            }
            ATTENTION => vec![read(phase.x, x_cols, phase.x_tag, false)],
            _ => Vec::new(),
        }
    }

    fn writes(&self, phase: &Phase) -> Bytes {
        let cols = if phase.kind == LINEAR { phase.outputs } else { self.attention[1] as u32 };
        Self::bytes(phase.y, cols, phase.y_tag, phase.flags & OUT_F32 != 0)
    }
}

impl Schedule {
    /// Errors with the first fault, if there is one.
    pub(super) fn check(&self, machine: &Machine) -> Result<(), String> {
        if machine.blocks > machine.multiprocessors {
            let Machine { blocks, multiprocessors, .. } = machine;
            return Err(format!("{blocks} blocks wait for each other; {multiprocessors} run at once"));
        }
        self.check_weights()?;
        let mut over: Vec<BTreeSet<usize>> = Vec::new();
        for at in 0..self.phases.len() {
            self.check_extents(machine, at)?;
            self.check_tag(at)?;
            self.check_reads(machine, at)?;
            over.push(self.over_before(machine, at, &over));
            self.check_writes(machine, at, &over[at])?;
        }
        Ok(())
    }

    /// The ring asks for the weights of the linear phases, in their order. That of the last phase
    /// has a ring of its own, behind all attention, which is at the same blocks in every layer.
    fn check_weights(&self) -> Result<(), String> {
        let linear = self.phases.iter().enumerate().filter(|(_, phase)| phase.kind == LINEAR);
        let mut weights = self.weights.iter().zip(&self.maps);
        for (at, phase) in linear {
            let other = || format!("phase {at} multiplies another weight than comes next");
            let (weight, maps) = weights.next().ok_or_else(other)?;
            let halves = if phase.flags & SILU == 0 { 1 } else { 2 };
            let rows = halves * phase.outputs as usize;
            let same = (maps.rows, maps.cols, maps.boxes) == (rows, phase.k as usize, phase.boxes());
            if Some(*weight) != phase.weight() || !same {
                return Err(other());
            }
        }
        let num = self.phases.iter().filter(|phase| phase.kind == LINEAR).count();
        if (self.weights.len(), self.maps.len()) != (num, num) {
            return Err("a weight comes that no phase multiplies".into());
        }
        if self.phases.last().is_none_or(|last| last.kind != LINEAR) {
            return Err("the last phase multiplies no weight".into());
        }
        let mut first =
            self.phases.iter().filter(|phase| phase.kind == ATTENTION).map(|phase| phase.first_block);
        let same = first.next();
        if first.any(|first| Some(first) != same) {
            return Err("attention begins with other blocks in another layer".into());
        }
        Ok(())
    }

    fn check_extents(&self, machine: &Machine, at: usize) -> Result<(), String> {
        let phase = &self.phases[at];
        if phase.first_block as usize >= machine.blocks {
            let (first, blocks) = (phase.first_block, machine.blocks);
            return Err(format!("phase {at} begins with block {first}; there are {blocks}"));
        }
        if phase.kind != LINEAR {
            return Ok(());
        }
        let whole = Phase::linear(phase.k as usize, phase.outputs as usize, phase.flags);
        if (phase.len, phase.ranges, phase.tiles) != (whole.len, whole.ranges, whole.tiles) {
            return Err(format!("phase {at} does not cover its weight"));
        }
        Ok(())
    }

    /// Tags are numbers of phases, fewer than a launch counts on: no packet of another phase, of
    /// this launch or the one before, has the tag that is waited for.
    fn check_tag(&self, at: usize) -> Result<(), String> {
        let phase = &self.phases[at];
        let before = at.checked_sub(1).map(|before| &self.phases[before]);
        let by = match phase.kind {
            LINEAR | ATTENTION => at,
            FOLD if before
                .is_some_and(|b| b.kind == ATTENTION && (b.y, b.y_tag) == (phase.y, phase.y_tag)) =>
            {
                at - 1
            }
            FOLD => return Err(format!("phase {at} folds what the phase before it did not begin")),
            kind => return Err(format!("phase {at} is of kind {kind}, which there is not")),
        };
        let plain = phase.y_tag == NO_TAG && at + 1 == self.phases.len();
        if plain || usize::try_from(phase.y_tag) == Ok(by) {
            return Ok(());
        }
        Err(format!("phase {at} writes with the tag {} of another", phase.y_tag))
    }

    fn check_reads(&self, machine: &Machine, at: usize) -> Result<(), String> {
        for read in machine.reads(&self.phases[at]) {
            let earlier = |by: &usize| overlap(&machine.writes(&self.phases[*by]), &read.at);
            let Ok(by) = usize::try_from(read.tag) else {
                // What later phases write there is `check_writes`' business: a value that is dead
                // lends its memory to others.
                match (0..at).find(earlier) {
                    Some(by) => return Err(format!("phase {at} reads plain rows where phase {by} writes")),
                    None => continue,
                }
            };
            if by >= at {
                return Err(format!("phase {at} waits for phase {by}, which is not before it"));
            }
            let written = machine.writes(&self.phases[by]);
            if self.phases[by].kind == FOLD || written != read.at {
                return Err(format!("phase {at} does not read what phase {by} writes"));
            }
            let is_fold = |of: usize| of == by + 1 && self.phases[of].kind == FOLD;
            if let Some(other) = (by + 1..at).filter(|&other| !is_fold(other)).find(earlier) {
                return Err(format!("phase {other} overwrites what phase {at} reads of phase {by}"));
            }
        }
        Ok(())
    }

    /// The phases that are over where a block writes in phase `at`. `over` has those of earlier
    /// ones.
    fn over_before(&self, machine: &Machine, at: usize, over: &[BTreeSet<usize>]) -> BTreeSet<usize> {
        let mut all = BTreeSet::new();
        if self.phases[at].kind == FOLD {
            // It waits for all blocks that attend.
            self.add_over(at - 1, over, &mut all);
        }
        for read in machine.reads(&self.phases[at]) {
            let Ok(by) = usize::try_from(read.tag) else { continue };
            // Of a part it is known only that some block has come so far.
            if read.whole { self.add_over(by, over, &mut all) } else { all.extend(&over[by]) }
        }
        all
    }

    /// Adds phase `by`, which is over, and all that then is.
    fn add_over(&self, by: usize, over: &[BTreeSet<usize>], all: &mut BTreeSet<usize>) {
        all.insert(by);
        all.extend(&over[by]);
        if self.phases[by].kind == ATTENTION {
            // Its blocks together read all of x; where chunks are folded, the fold wrote the rest.
            all.extend(usize::try_from(self.phases[by].x_tag));
            all.extend(self.phases.get(by + 1).filter(|next| next.kind == FOLD).map(|_| by + 1));
        }
    }

    fn check_writes(&self, machine: &Machine, at: usize, over: &BTreeSet<usize>) -> Result<(), String> {
        let phase = &self.phases[at];
        let written = machine.writes(phase);
        let packets = self.room.start + self.parts.packets as Address..self.room.end;
        let inside = packets.start <= written.start && written.end <= packets.end;
        if if phase.y_tag == NO_TAG { overlap(&self.room, &written) } else { !inside } {
            return Err(format!("phase {at} writes where there is no place for what it makes"));
        }
        let uses = |&of: &usize| {
            let other = &self.phases[of];
            // Chunks of attention lie in one place for all layers.
            let attends = phase.kind == ATTENTION && other.kind == FOLD;
            let writes = of != at && overlap(&machine.writes(other), &written);
            attends || writes || machine.reads(other).iter().any(|read| overlap(&read.at, &written))
        };
        match (0..=at).filter(|before| !over.contains(before)).find(uses) {
            Some(before) => {
                Err(format!("phase {at} may write while blocks are still in phase {before} there"))
            }
            None => Ok(()),
        }
    }
}
