//! Who waits, and who is next: by priority, and among sequences of one priority by turns of their
//! tenants.
//!
//! Turns are deficit round robin on tokens. A tenant whose turn it is sends its sequences, in the
//! order of arrival, while it has credit; each costs the tokens that it makes the model compute,
//! when it is admitted and while it generates, so that credit may fall below zero. When nobody who
//! waits has credit, everybody gets a quantum for each round that it takes until somebody has.
//! Between two tenants that wait all the time the tokens served, divided by the weights, never
//! differ by more than a quantum and the largest costs. Who waits for nothing saves nothing up.
//!
//! Sequences that were preempted were admitted before: they resume ahead of all tenants' turns.
//!
//! Source: Shreedhar and Varghese 1995, "Efficient Fair Queueing using Deficit Round Robin"; with
//! costs that are known afterwards only, as in Adiseshu et al. 1996 ("surplus round robin").

use std::collections::{BTreeMap, BTreeSet};

use nvllm_core::SeqId;

use crate::TenantId;

/// Sequences without a slot, in no particular state. Ids ascend, so they stand for arrival.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    classes: BTreeMap<i32, Class>,
    weights: Vec<u32>,
    /// Tokens of credit a round for each unit of weight.
    quantum: i64,
    len: usize,
}

/// Sequences of one priority.
#[derive(Clone, Debug)]
struct Class {
    preempted: BTreeSet<SeqId>,
    /// One line for each tenant.
    lines: Vec<Line>,
    /// The tenant whose turn it is.
    turn: usize,
}

#[derive(Clone, Debug, Default)]
struct Line {
    seqs: BTreeSet<SeqId>,
    credit: i64,
}

/// What decides a sequence's place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) priority: i32,
    pub(crate) tenant: TenantId,
}

impl Queue {
    /// An empty queue. `weights` has one for each tenant, none 0.
    pub(crate) fn new(weights: &[u32], quantum: usize) -> Self {
        Self { classes: BTreeMap::new(), weights: weights.to_vec(), quantum: quantum as i64, len: 0 }
    }

    /// Makes one more tenant known, behind those that are, of a weight that is not 0.
    pub(crate) fn add_tenant(&mut self, weight: u32) {
        self.weights.push(weight);
        self.classes.values_mut().for_each(|class| class.lines.push(Line::default()));
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Queues a sequence for the first time.
    pub(crate) fn push(&mut self, place: Place, seq: SeqId) {
        let new = self.class(place.priority).lines[place.tenant.index()].seqs.insert(seq);
        self.len += usize::from(new);
    }

    /// Queues a sequence that was preempted.
    pub(crate) fn resume(&mut self, place: Place, seq: SeqId) {
        let new = self.class(place.priority).preempted.insert(seq);
        self.len += usize::from(new);
    }

    /// Takes a sequence from wherever it waits.
    pub(crate) fn remove(&mut self, place: Place, seq: SeqId) {
        let Some(class) = self.classes.get_mut(&place.priority) else { return };
        let line = &mut class.lines[place.tenant.index()];
        let was_here = line.seqs.remove(&seq) || class.preempted.remove(&seq);
        self.len -= usize::from(was_here);
        if line.seqs.is_empty() {
            line.credit = line.credit.min(0);
        }
        if class.is_empty() {
            self.classes.remove(&place.priority);
        }
    }

    /// The next sequence. The same one until the queue changes or a tenant is charged.
    pub(crate) fn head(&mut self) -> Option<(i32, SeqId)> {
        let (weights, quantum) = (&self.weights, self.quantum);
        let (priority, class) = self.classes.iter_mut().next()?;
        let preempted = class.preempted.first().copied();
        Some((*priority, preempted.or_else(|| class.next(weights, quantum))?))
    }

    /// Charges a tenant for tokens that one of its sequences makes the model compute. Only who
    /// competes is charged.
    pub(crate) fn charge(&mut self, place: Place, tokens: usize) {
        if self.weights.len() > 1
            && let Some(class) = self.classes.get_mut(&place.priority)
        {
            class.lines[place.tenant.index()].credit -= tokens as i64;
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = SeqId> {
        let lines = |class: &Class| class.lines.iter().flat_map(|line| line.seqs.clone()).collect::<Vec<_>>();
        self.classes.values().flat_map(move |class| class.preempted.iter().copied().chain(lines(class)))
    }

    fn class(&mut self, priority: i32) -> &mut Class {
        let num_tenants = self.weights.len();
        self.classes.entry(priority).or_insert_with(|| Class {
            preempted: BTreeSet::new(),
            lines: vec![Line::default(); num_tenants],
            turn: 0,
        })
    }
}

impl Class {
    fn is_empty(&self) -> bool {
        self.preempted.is_empty() && self.lines.iter().all(|line| line.seqs.is_empty())
    }

    /// The next sequence of the tenant whose turn it is.
    fn next(&mut self, weights: &[u32], quantum: i64) -> Option<SeqId> {
        let share = |tenant: usize| i64::from(weights[tenant]).saturating_mul(quantum);
        let waiting: Vec<usize> = (0..self.lines.len()).filter(|&i| !self.lines[i].seqs.is_empty()).collect();
        let rounds = |&tenant: &usize| {
            let lacking = (1 - self.lines[tenant].credit).max(0);
            lacking.unsigned_abs().div_ceil(share(tenant).unsigned_abs()) as i64
        };
        let rounds = waiting.iter().map(rounds).min()?;
        for &tenant in &waiting {
            let credit = &mut self.lines[tenant].credit;
            *credit = credit.saturating_add(rounds.saturating_mul(share(tenant)));
        }
        let num = self.lines.len();
        let ready = |tenant: &usize| {
            let line = &self.lines[*tenant];
            !line.seqs.is_empty() && line.credit > 0
        };
        self.turn = (0..num).map(|at| (self.turn + at) % num).find(ready)?;
        self.lines[self.turn].seqs.first().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Rng;

    fn place(priority: i32, tenant: u32) -> Place {
        Place { priority, tenant: TenantId(tenant) }
    }

    /// Takes the head, which costs `cost`.
    fn serve(queue: &mut Queue, places: &BTreeMap<u64, Place>, cost: usize) -> Option<u64> {
        let (_, seq) = queue.head()?;
        assert_eq!(queue.head().map(|(_, seq)| seq), Some(seq), "looking changes nothing");
        queue.charge(places[&seq.0], cost);
        queue.remove(places[&seq.0], seq);
        Some(seq.0)
    }

    fn filled(weights: &[u32], quantum: usize, seqs: &[(u64, Place)]) -> (Queue, BTreeMap<u64, Place>) {
        let mut queue = Queue::new(weights, quantum);
        seqs.iter().for_each(|(seq, place)| queue.push(*place, SeqId(*seq)));
        (queue, seqs.iter().copied().collect())
    }

    #[test]
    fn priority_first_then_the_preempted_then_arrival() {
        let seqs = [(1, place(1, 0)), (2, place(0, 0)), (3, place(0, 0)), (4, place(-1, 0))];
        let (mut queue, mut places) = filled(&[1], 8, &seqs);
        queue.resume(place(0, 0), SeqId(5));
        places.insert(5, place(0, 0));
        assert_eq!((queue.len(), queue.iter().count()), (5, 5));
        let order: Vec<u64> = std::iter::from_fn(|| serve(&mut queue, &places, 3)).collect();
        assert_eq!(order, [4, 5, 2, 3, 1]);
        assert!(queue.len() == 0 && queue.classes.is_empty());
    }

    #[test]
    fn a_tenant_that_floods_waits_for_its_own_turns() {
        // Ten of tenant 0, then two of tenant 1. Each costs 5 and a turn is 8 tokens.
        let seqs: Vec<_> =
            (1..=10).map(|seq| (seq, place(0, 0))).chain([(11, place(0, 1)), (12, place(0, 1))]).collect();
        let (mut queue, places) = filled(&[1, 1], 8, &seqs);
        let order: Vec<u64> = std::iter::from_fn(|| serve(&mut queue, &places, 5)).collect();
        assert_eq!(order, [1, 2, 11, 12, 3, 4, 5, 6, 7, 8, 9, 10]);
    }

    #[test]
    fn a_tenant_that_comes_later_has_its_turns() {
        let seqs: Vec<_> = (1..=10).map(|seq| (seq, place(0, 0))).collect();
        let (mut queue, mut places) = filled(&[1], 8, &seqs);
        assert_eq!(serve(&mut queue, &places, 5), Some(1));
        queue.add_tenant(1);
        queue.push(place(0, 1), SeqId(11));
        places.insert(11, place(0, 1));
        let order: Vec<u64> = std::iter::from_fn(|| serve(&mut queue, &places, 5)).collect();
        // Behind what was left of the turn, and one more of two sequences.
        assert_eq!(order, [2, 3, 4, 5, 11, 6, 7, 8, 9, 10]);
    }

    #[test]
    fn a_turn_is_over_when_its_tokens_are_used_up_exactly() {
        let seqs = [(1, place(0, 0)), (2, place(0, 0)), (3, place(0, 0)), (4, place(0, 1)), (5, place(0, 1))];
        let (mut queue, places) = filled(&[1, 1], 8, &seqs);
        let order: Vec<u64> = std::iter::from_fn(|| serve(&mut queue, &places, 4)).collect();
        assert_eq!(order, [1, 2, 4, 5, 3]);
    }

    #[test]
    fn generated_tokens_are_charged_too_and_a_debt_is_waited_out() {
        let seqs = [(1, place(0, 0)), (2, place(0, 0)), (3, place(0, 1)), (4, place(0, 1)), (5, place(0, 1))];
        let (mut queue, places) = filled(&[1, 1], 8, &seqs);
        assert_eq!(serve(&mut queue, &places, 1), Some(1));
        queue.charge(place(0, 0), 30);
        let order: Vec<u64> = std::iter::from_fn(|| serve(&mut queue, &places, 8)).collect();
        assert_eq!(order, [3, 4, 5, 2]);
    }

    #[test]
    fn what_is_not_here_is_not_removed() {
        let (mut queue, _) = filled(&[1, 1], 8, &[(1, place(0, 0))]);
        queue.remove(place(0, 1), SeqId(1));
        queue.remove(place(3, 0), SeqId(1));
        queue.remove(place(0, 0), SeqId(2));
        assert_eq!((queue.len(), queue.head()), (1, Some((0, SeqId(1)))));
    }

    /// The bound of the module's essay, over tenants that always wait.
    #[test]
    fn shares_follow_the_weights_within_a_quantum_and_the_largest_costs() {
        for seed in 0..200 {
            let mut rng = Rng::new(seed);
            let weights: Vec<u32> = (0..rng.range(2..=4)).map(|_| rng.range(1..=5) as u32).collect();
            let (quantum, largest) = (rng.range(1..=50), rng.range(1..=120));
            let mut queue = Queue::new(&weights, quantum);
            let mut next = 0;
            let mut fill = |queue: &mut Queue, tenant: u32| {
                next += 1;
                queue.push(place(0, tenant), SeqId(next));
                next
            };
            let mut owner = BTreeMap::new();
            for tenant in 0..weights.len() as u32 {
                owner.insert(fill(&mut queue, tenant), tenant);
            }
            let mut served = vec![0_f64; weights.len()];
            for _ in 0..400 {
                let (_, seq) = queue.head().expect("all of them wait");
                let tenant = owner[&seq.0];
                let cost = rng.range(1..=largest);
                queue.charge(place(0, tenant), cost);
                // It waits again before it leaves, so that it always waits.
                owner.insert(fill(&mut queue, tenant), tenant);
                queue.remove(place(0, tenant), seq);
                served[tenant as usize] += cost as f64 / f64::from(weights[tenant as usize]);
                let [least, most] =
                    [f64::min, f64::max].map(|pick| served.iter().copied().reduce(pick).unwrap());
                let bound = (quantum + 2 * largest) as f64;
                assert!(most - least <= bound, "seed {seed}: {served:?} differ by more than {bound}");
            }
        }
    }
}
