//! Who may come in: the bound of the queue, draining, and how many requests have not ended.
//!
//! The bound is divided between the tenants by their weights, so that one who floods the engine
//! fills his own part of the queue.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nvllm_sched::TenantId;

use crate::{EngineError, LoadOptions, Result, Tenant};

/// Counts of requests, changed by callers as they submit and by the engine's threads as requests
/// get slots and end.
#[derive(Debug)]
pub(crate) struct Backlog {
    /// Of all tenants together.
    bounds: Bounds,
    counts: Mutex<Counts>,
    idle: Condvar,
}

#[derive(Clone, Copy, Debug)]
struct Bounds {
    requests: usize,
    tokens: usize,
}

#[derive(Debug)]
struct Counts {
    draining: bool,
    /// By the tenant's id.
    tenants: Vec<Part>,
    /// Taken, and their client has not been told the end.
    open: usize,
}

/// What a tenant has of the queue.
#[derive(Debug)]
struct Part {
    tenant: Tenant,
    bounds: Bounds,
    /// Taken, without a slot.
    waiting: Waiting,
    /// Nobody comes as this tenant any more.
    gone: bool,
}

impl Part {
    fn new(tenant: &Tenant, bounds: Bounds) -> Self {
        Self { tenant: tenant.clone(), bounds, waiting: Waiting::default(), gone: false }
    }

    /// Whether it has a part of the queue's bounds.
    fn counts(&self) -> bool {
        !self.gone || self.waiting.requests > 0
    }

    fn admits(&self, prompt_len: usize) -> bool {
        self.bounds.admit(self.waiting, prompt_len)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    requests: usize,
    /// Of their prompts.
    tokens: usize,
}

impl Bounds {
    /// Whether a prompt may join those that wait.
    fn admit(self, waiting: Waiting, prompt_len: usize) -> bool {
        let tokens = waiting.tokens.saturating_add(prompt_len);
        waiting.requests == 0 || waiting.requests < self.requests && tokens <= self.tokens
    }
}

/// A request's place in the queue, which it leaves when this is dropped.
#[derive(Debug)]
pub(crate) struct Queued {
    backlog: Arc<Backlog>,
    tenant: TenantId,
    prompt_len: usize,
}

impl Drop for Queued {
    fn drop(&mut self) {
        let mut counts = self.backlog.lock();
        let part = &mut counts.tenants[self.tenant.0 as usize];
        let waiting = &mut part.waiting;
        waiting.requests = waiting.requests.saturating_sub(1);
        waiting.tokens = waiting.tokens.saturating_sub(self.prompt_len);
        if !part.counts() {
            divide(self.backlog.bounds, &mut counts.tenants);
        }
    }
}

impl Backlog {
    /// Errors if `options` bound the queue so that nothing could ever come in, or name no tenant,
    /// one twice, or one without weight.
    pub(crate) fn new(options: &LoadOptions) -> Result<Self> {
        let bounds = [
            ("max-queued-requests", options.max_queued_requests),
            ("max-queued-prompt-tokens", options.max_queued_prompt_tokens),
        ];
        if let Some(&(option, _)) = bounds.iter().find(|(_, bound)| *bound == 0) {
            return Err(EngineError::Option { option, problem: "is 0; give 1 or more".into() });
        }
        let refused = |problem: String| Err(EngineError::Option { option: "tenants", problem });
        let mut names: Vec<&str> = options.tenants.iter().map(|tenant| tenant.name.as_str()).collect();
        names.sort_unstable();
        if let Some((name, _)) = names.iter().zip(names.iter().skip(1)).find(|(a, b)| a == b) {
            return refused(format!("names {name:?} twice; give each once"));
        }
        if let Some(tenant) = options.tenants.iter().find(|tenant| tenant.weight == 0) {
            return refused(format!("gives {:?} a weight of 0; give 1 or more", tenant.name));
        }
        if options.tenants.is_empty() {
            return refused("is empty; give at least one".into());
        }
        let [requests, tokens] = bounds.map(|(_, bound)| bound);
        let bounds = Bounds { requests, tokens };
        let mut tenants: Vec<_> = options.tenants.iter().map(|tenant| Part::new(tenant, bounds)).collect();
        divide(bounds, &mut tenants);
        let counts = Mutex::new(Counts { draining: false, tenants, open: 0 });
        Ok(Self { bounds, counts, idle: Condvar::new() })
    }

    /// The tenant of this name, the first if none is given.
    ///
    /// Errors if it is not known.
    pub(crate) fn tenant(&self, name: Option<&str>) -> Result<TenantId> {
        let Some(name) = name else { return Ok(TenantId::default()) };
        let counts = self.lock();
        let position = counts.tenants.iter().position(|part| part.tenant.name == name);
        position.map(|at| TenantId(at as u32)).ok_or_else(|| {
            let known: Vec<&str> = counts.tenants.iter().map(|part| part.tenant.name.as_str()).collect();
            let problem = format!("is {name:?}; those that are known: {}", known.join(", "));
            EngineError::RequestField { field: "tenant", problem }
        })
    }

    /// Makes a tenant known, and calls `announce` before anybody can enter as that tenant. Does
    /// nothing if it is known already.
    ///
    /// Errors if its weight is 0.
    pub(crate) fn add_tenant(&self, tenant: &Tenant, announce: impl FnOnce()) -> Result<()> {
        if tenant.weight == 0 {
            let problem = format!("gives {:?} a weight of 0; give 1 or more", tenant.name);
            return Err(EngineError::Option { option: "tenants", problem });
        }
        let mut counts = self.lock();
        match counts.tenants.iter_mut().find(|part| part.tenant.name == tenant.name) {
            Some(part) if !part.gone => return Ok(()),
            Some(part) => part.gone = false,
            None => {
                announce();
                counts.tenants.push(Part::new(tenant, self.bounds));
            }
        }
        divide(self.bounds, &mut counts.tenants);
        Ok(())
    }

    /// Gives the parts of all tenants but the first and those of these names to the others, each
    /// as soon as nothing of that tenant waits.
    pub(crate) fn retain_tenants(&self, names: &[String]) {
        let mut counts = self.lock();
        for part in counts.tenants.iter_mut().skip(1) {
            part.gone = !names.contains(&part.tenant.name);
        }
        divide(self.bounds, &mut counts.tenants);
    }

    /// Takes a request into the queue.
    ///
    /// Errors, with nothing counted, while the engine drains or if the tenant's part of the queue
    /// is full. A prompt longer than the bound alone is taken if it is the tenant's only one that
    /// waits, so that it can run at all.
    pub(crate) fn enter(self: &Arc<Self>, tenant: TenantId, prompt_len: usize) -> Result<Queued> {
        let mut counts = self.lock();
        if counts.draining {
            return Err(EngineError::Draining);
        }
        let part = &mut counts.tenants[tenant.0 as usize];
        let (bounds, waiting) = (part.bounds, &mut part.waiting);
        let tokens = waiting.tokens.saturating_add(prompt_len);
        if !bounds.admit(*waiting, prompt_len) {
            return Err(EngineError::QueueFull {
                requests: waiting.requests,
                max_requests: bounds.requests,
                tokens: waiting.tokens,
                max_tokens: bounds.tokens,
            });
        }
        *waiting = Waiting { requests: waiting.requests + 1, tokens };
        counts.open += 1;
        Ok(Queued { backlog: Arc::clone(self), tenant, prompt_len })
    }

    /// Whether no tenant can enter, not even with the shortest prompt.
    pub(crate) fn is_full(&self) -> bool {
        self.lock().tenants.iter().filter(|part| part.counts()).all(|part| !part.admits(1))
    }

    /// A request's client was told the end, or is gone.
    pub(crate) fn close(&self) {
        let mut counts = self.lock();
        counts.open = counts.open.saturating_sub(1);
        if counts.open == 0 {
            self.idle.notify_all();
        }
    }

    /// Takes no requests from now on.
    pub(crate) fn drain(&self) {
        self.lock().draining = true;
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.lock().draining
    }

    /// Requests that wait for a slot, and the tokens of their prompts.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let counts = self.lock();
        let sum = |of: fn(&Waiting) -> usize| counts.tenants.iter().map(|part| of(&part.waiting)).sum();
        (sum(|waiting| waiting.requests), sum(|waiting| waiting.tokens))
    }

    /// Waits until all requests have ended, `timeout` at most; whether they have.
    pub(crate) fn wait_until_idle(&self, timeout: Duration) -> bool {
        let deadline = Instant::now().checked_add(timeout);
        let mut counts = self.lock();
        while counts.open > 0 {
            let left = deadline.map_or(timeout, |at| at.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return false;
            }
            let waited = self.idle.wait_timeout(counts, left);
            counts = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // No panic can leave the counts half changed.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives each tenant that counts its part of the queue's bounds.
fn divide(all: Bounds, parts: &mut [Part]) {
    let counted = parts.iter().filter(|part| part.counts());
    let sum: u128 = counted.map(|part| u128::from(part.tenant.weight)).sum();
    for part in parts {
        let weight = u128::from(part.tenant.weight);
        // What remains of the division is nobody's.
        let share = |bound: usize| (bound as u128 * weight / sum.max(1)).max(1) as usize;
        part.bounds = Bounds { requests: share(all.requests), tokens: share(all.tokens) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: TenantId = TenantId(0);

    fn backlog(max_queued_requests: usize, max_queued_prompt_tokens: usize) -> Result<Arc<Backlog>> {
        let options = LoadOptions { max_queued_requests, max_queued_prompt_tokens, ..LoadOptions::default() };
        Backlog::new(&options).map(Arc::new)
    }

    fn tenants(tenants: &[(&str, u32)]) -> Result<Arc<Backlog>> {
        let tenant = |&(name, weight): &(&str, u32)| Tenant { name: name.into(), weight };
        let tenants = tenants.iter().map(tenant).collect();
        let options = LoadOptions { max_queued_requests: 8, tenants, ..LoadOptions::default() };
        Backlog::new(&options).map(Arc::new)
    }

    fn full(error: &EngineError) -> bool {
        matches!(error, EngineError::QueueFull { .. })
    }

    #[test]
    fn the_queue_is_bounded_in_requests_and_in_prompt_tokens() {
        let queue = backlog(3, 10).unwrap();
        // Longer than the bound, and alone.
        let long = queue.enter(FIRST, 12).unwrap();
        assert!(full(&queue.enter(FIRST, 1).unwrap_err()));
        assert!(queue.is_full());
        drop(long);
        assert!(!queue.is_full());
        let first = queue.enter(FIRST, 4).unwrap();
        assert!(full(&queue.enter(FIRST, 7).unwrap_err()));
        let _others = [4, 2].map(|len| queue.enter(FIRST, len).unwrap());
        assert_eq!(queue.waiting(), (3, 10));
        let message = queue.enter(FIRST, 0).unwrap_err().to_string();
        assert!(
            message.contains("3 of 3 requests") && message.contains("10 of 10 prompt tokens"),
            "{message}"
        );
        drop(first);
        assert_eq!(queue.waiting(), (2, 6));
        queue.enter(FIRST, 1).unwrap();
    }

    #[test]
    fn who_floods_fills_his_own_part() {
        let queue = tenants(&[("a", 3), ("b", 1)]).unwrap();
        let _a: Vec<_> = (0..6).map(|_| queue.enter(FIRST, 1).unwrap()).collect();
        assert!(full(&queue.enter(FIRST, 1).unwrap_err()));
        assert!(!queue.is_full(), "there is room for another");
        let _b: Vec<_> = (0..2).map(|_| queue.enter(TenantId(1), 1).unwrap()).collect();
        assert!(queue.is_full());
        let message = queue.enter(TenantId(1), 1).unwrap_err().to_string();
        assert!(message.contains("2 of 2 requests"), "{message}");
        // However small the part, one request fits.
        let light = tenants(&[("a", 1_000_000), ("b", 1)]).unwrap();
        light.enter(TenantId(1), 1 << 30).unwrap();
    }

    #[test]
    fn a_tenant_that_comes_later_has_its_part() {
        let queue = tenants(&[("a", 1)]).unwrap();
        let name = |name: &str| Tenant { name: name.into(), weight: 1 };
        let _a: Vec<_> = (0..8).map(|_| queue.enter(FIRST, 1).unwrap()).collect();
        assert!(queue.is_full() && queue.tenant(Some("b")).is_err());
        let mut announced = 0;
        for _ in 0..2 {
            queue.add_tenant(&name("b"), || announced += 1).unwrap();
        }
        assert_eq!(announced, 1, "the second time it is known");
        assert!(!queue.is_full());
        let b = queue.tenant(Some("b")).unwrap();
        let _b: Vec<_> = (0..4).map(|_| queue.enter(b, 1).unwrap()).collect();
        let message = queue.enter(b, 1).unwrap_err().to_string();
        assert!(message.contains("4 of 4 requests"), "{message}");
        assert!(queue.add_tenant(&Tenant { weight: 0, ..name("c") }, || unreachable!()).is_err());
    }

    #[test]
    fn who_does_not_come_back_leaves_the_part_to_the_others() {
        let queue = tenants(&[("default", 1), ("old", 1)]).unwrap();
        let new = |at: usize| Tenant { name: format!("new{at}"), weight: 1 };
        let max_requests = |tenant: TenantId| queue.lock().tenants[tenant.0 as usize].bounds.requests;
        let old = queue.tenant(Some("old")).unwrap();
        let waits = queue.enter(old, 1).unwrap();
        for at in 0..31 {
            queue.add_tenant(&new(at), || {}).unwrap();
            queue.retain_tenants(&[new(at).name]);
        }
        let last = queue.tenant(Some("new30")).unwrap();
        assert_eq!((max_requests(FIRST), max_requests(last)), (2, 2), "a third of 8: one of the old waits");
        drop(waits);
        assert_eq!((max_requests(FIRST), max_requests(last)), (4, 4));
        // A part that nobody uses is no room.
        let _all: Vec<_> =
            [FIRST, last].into_iter().flat_map(|tenant| [tenant; 4]).map(|id| queue.enter(id, 1)).collect();
        assert!(queue.is_full());
        // A key may come back.
        queue.add_tenant(&Tenant { name: "old".into(), weight: 1 }, || unreachable!()).unwrap();
        assert_eq!((max_requests(old), max_requests(last)), (2, 2));
    }

    #[test]
    fn tenants_have_names_and_weights() {
        let message = |list: &[(&str, u32)]| tenants(list).unwrap_err().to_string();
        assert_eq!(message(&[]), "--tenants is empty; give at least one");
        assert_eq!(message(&[("a", 1), ("b", 1), ("a", 2)]), "--tenants names \"a\" twice; give each once");
        assert_eq!(message(&[("a", 1), ("b", 0)]), "--tenants gives \"b\" a weight of 0; give 1 or more");
    }

    #[test]
    fn a_bound_of_nothing_is_refused_by_its_option() {
        for (bounds, option) in
            [((0, 1), "--max-queued-requests is 0"), ((1, 0), "--max-queued-prompt-tokens is 0")]
        {
            let message = backlog(bounds.0, bounds.1).unwrap_err().to_string();
            assert!(message.starts_with(option), "{message}");
        }
    }

    #[test]
    fn draining_takes_nothing_and_ends_when_all_have_ended() {
        let queue = backlog(3, 10).unwrap();
        let _waits = queue.enter(FIRST, 1).unwrap();
        queue.drain();
        assert!(matches!(queue.enter(FIRST, 1).unwrap_err(), EngineError::Draining));
        assert!(!queue.wait_until_idle(Duration::from_millis(1)));
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| queue.wait_until_idle(Duration::MAX));
            queue.close();
            assert!(waiter.join().unwrap());
        });
    }
}
