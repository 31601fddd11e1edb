//! S4: prompts that begin alike, as of one system prompt or of one document: the time to the first
//! token where the prefix is in the KV cache, against that where it is not.

use std::sync::Arc;
use std::time::Instant;

use nvllm_core::TokenId;
use nvllm_engine::{Engine, LoadOptions, Request};
use rand_mt::Mt;

use super::contract::Workload;
use super::figures::{Figures, median_of};
use crate::context::Context;
use crate::measure::{Measurement, Roof, roof_series};
use crate::record::{Case, Record, Series, names};
use crate::{BenchError, Result};

/// The first suffix of each prefix is cold, the others hit.
pub(super) struct Prefix;

const NUM_PREFIXES: usize = 16;
const NUM_SUFFIXES: usize = 16;
const QUICK_PREFIXES: usize = 3;
const QUICK_SUFFIXES: usize = 4;
/// Tokens of a prefix; with its suffix a prompt is a ninth longer, so that nine tenths hit.
const PREFIX_LEN: usize = 2048;
const BLOCK_LEN: usize = 16;

impl Workload for Prefix {
    fn name(&self) -> &'static str {
        "prefix"
    }

    fn code(&self) -> &'static str {
        "S4"
    }

    fn definition(&self) -> &'static str {
        "16 prefixes of 2,048 drawn tokens (fewer where the model has no room), each followed by 16 suffixes of a ninth of that, one \
         request after another: seconds from submission to the first token, of the first request of each prefix (cold) and of the \
         others (hit), whose prefix is in the KV cache"
    }

    fn run(&self, bench: &mut Context) -> Result<()> {
        let model = Arc::new(bench.open()?);
        let backend = bench.backend()?;
        // A whole number of blocks, so that all of the prefix can be found.
        let room = model.spec.max_positions.saturating_sub(1) * 9 / 10;
        let prefix_len = PREFIX_LEN.min(room) / BLOCK_LEN * BLOCK_LEN;
        let suffix_len = prefix_len / 9;
        let prompt_len = prefix_len + suffix_len;
        if suffix_len == 0 {
            bench.skip("prefix", &format!("the model has {} positions", model.spec.max_positions));
            return Ok(());
        }
        let quick = bench.settings.quick;
        let [num_prefixes, num_suffixes] =
            if quick { [QUICK_PREFIXES, QUICK_SUFFIXES] } else { [NUM_PREFIXES, NUM_SUFFIXES] };
        let step_tokens = bench.step_tokens;
        let limits = bench.limits(&model, num_prefixes + 1, prompt_len + 1, step_tokens)?;
        if !bench.fits("prefix", limits.kv_bytes + model.weight_bytes()?) {
            return Ok(());
        }
        let mut roofs: Vec<Roof> = vec![bench.roof(&backend)];
        let options = LoadOptions {
            max_num_seqs: Some(1),
            max_num_batched_tokens: Some(step_tokens),
            max_model_len: Some(prompt_len + 1),
            kv_cache_bytes: Some(limits.kv_bytes),
            block_size: BLOCK_LEN,
            activations: Some(bench.settings.activations),
            kv_cache_dtype: Some(bench.settings.kv_format),
            numerics: bench.settings.numerics,
            exact_head: bench.settings.exact_head,
            ..LoadOptions::default()
        };
        let factory = bench.factory();
        let engine = Engine::builder(Arc::clone(&model), move || factory()).options(options).start()?;
        let mut random = Mt::new_with_key([0]);
        let mut draw = |len: usize| -> Vec<TokenId> {
            (0..len).map(|_| TokenId(random.next_u32() % model.spec.vocab_size as u32)).collect()
        };
        // Pages, scratch and graphs are there before the clock runs.
        first_token(&engine, 0, draw(prompt_len), 0)?;
        let (mut cold, mut hit) = (Vec::new(), Vec::new());
        for at in 0..num_prefixes {
            bench.progress(&format!("prefix: {} of {num_prefixes}", at + 1));
            let prefix = draw(prefix_len);
            for suffix in 0..num_suffixes {
                let prompt = [prefix.clone(), draw(suffix_len)].concat();
                let (cached, times) = if suffix == 0 { (0, &mut cold) } else { (prefix_len, &mut hit) };
                times.push(first_token(&engine, at * num_suffixes + suffix, prompt, cached)?);
            }
        }
        roofs.push(bench.roof(&backend));
        for (state, times, cached) in [("cold", cold, 0), ("hit", hit, prefix_len)] {
            let case = Case {
                prompt_len: Some(prompt_len),
                num_requests: Some(times.len()),
                state: Some(state.into()),
                ..Case::default()
            };
            let mut series = roof_series(&roofs);
            series.push((names::TTFT_SECONDS, Series::seconds(times)));
            let computed = vec![(names::COMPUTED_TOKENS, (prompt_len - cached) as f64)];
            bench.record(
                self.name(),
                &case,
                Measurement { series, values: computed, ..Measurement::default() },
            )?;
        }
        Ok(())
    }

    fn figures(&self, record: &Record) -> Figures {
        let computed = record.values.get(names::COMPUTED_TOKENS).copied().unwrap_or(f64::NAN);
        Figures {
            headline: format!(
                "{} to the first token, {computed} computed",
                median_of(record, names::TTFT_SECONDS)
            ),
            rate: None,
            limit: "-".into(),
        }
    }
}

/// Seconds to the first token of a prompt, of which `cached` tokens must be in the cache.
fn first_token(engine: &Engine, number: usize, prompt: Vec<TokenId>, cached: usize) -> Result<f64> {
    let begin = Instant::now();
    let request = Request { prompt, max_tokens: Some(1), ..Request::default() };
    let generated = engine.generate(request)?;
    let seconds = generated.finished.time_to_first_token.map_or(begin.elapsed(), |time| time).as_secs_f64();
    let found = generated.finished.cached_tokens;
    if found != cached {
        let problem = format!("{found} of its tokens were in the cache; {cached} should be");
        return Err(BenchError::Request { number, problem });
    }
    Ok(seconds)
}
